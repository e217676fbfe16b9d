"""The memory that an exact sum takes beside its tensors, as the documentation's table of memory says."""

from __future__ import annotations

import threading
import types
import weakref
from collections import Counter
from collections.abc import Callable

import pytest
import torch

import gossip.testing
import slowmo
from bench.shared.methods import Trained
from gossip import ExactAverage, GossipOptimizer, NoAverage, World
from gossip.transports import MemoryBackend
from gossip.transports.collective import sums

LARGE = 1 << 20
"""Elements, of which a block goes around in two lanes on up to four ranks; smaller blocks in one."""

Build = Callable[[torch.optim.Optimizer, World], Trained]

METHODS: dict[str, Build] = {
    "exact average": lambda sgd, world: GossipOptimizer(sgd, ExactAverage(world)),
    "gradients": lambda sgd, world: GossipOptimizer(sgd, NoAverage(), gradients=world),
    "SlowMo": lambda sgd, world: slowmo.SlowMo(GossipOptimizer(sgd, NoAverage()), ExactAverage(world), period=2),
}


class Rooms:
    """Bytes of live receive buffers of exact sums, by the memory of the tensor that is summed, and the most so far."""

    def __init__(self) -> None:
        self.live: Counter[int] = Counter()
        self.most: Counter[int] = Counter()
        self._lock = threading.RLock()

    def empty_like(self, part: torch.Tensor) -> torch.Tensor:
        room, key = torch.empty_like(part), part.untyped_storage().data_ptr()
        self._count(key, room.nbytes)
        weakref.finalize(room, self._count, key, -room.nbytes)
        return room

    def _count(self, key: int, nbytes: int) -> None:
        with self._lock:
            self.live[key] += nbytes
            self.most[key] = max(self.most[key], self.live[key])


def most(build: Build, size: int, elements: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """In models, the most that a sum of any rank takes in three steps."""
    rooms = Rooms()
    monkeypatch.setattr(sums, "torch", types.SimpleNamespace(Tensor=torch.Tensor, empty_like=rooms.empty_like))

    def on_rank(world: World) -> None:
        parameter = torch.nn.Parameter(torch.ones(elements))
        optimizer = build(torch.optim.SGD([parameter], lr=0.1), world)
        for _ in range(3):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        optimizer.settle()

    gossip.testing.run(size, on_rank)
    return max(rooms.most.values()) / (4 * elements)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("early", [False, True], ids=["as over MPI", "as over Gloo"])
def test_two_ranks_take_half_a_model_for_an_exact_sum(name: str, early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBackend, "expects", early)
    assert most(METHODS[name], 2, LARGE, monkeypatch) == pytest.approx(1 / 2, rel=1e-3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("early", "blocks"), [(False, 1.5), (True, 2)], ids=["as over MPI", "as over Gloo"])
def test_more_ranks_take_a_few_blocks_of_a_model(
    name: str, early: bool, blocks: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryBackend, "expects", early)
    assert most(METHODS[name], 4, LARGE, monkeypatch) == pytest.approx(blocks / 4, rel=1e-3)
    assert most(METHODS[name], 4, LARGE // 64, monkeypatch) == pytest.approx((2 + early) / 4, rel=1e-3)


def test_beyond_the_ring_it_is_three_quarters_of_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = 2 * sums.RING
    assert most(METHODS["exact average"], ranks, 64 * ranks, monkeypatch) == pytest.approx(3 / 4, rel=1e-3)
    monkeypatch.setattr(sums, "SEGMENT", 64 * ranks)
    assert most(METHODS["exact average"], ranks, 64 * ranks, monkeypatch) == pytest.approx(3 / 16, rel=1e-3)
