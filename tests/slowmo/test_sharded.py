"""Anchor and momentum spread over the ranks: SlowMo's bits for 1/n of the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from workers.checkpointed import load, save
from workers.resume import FAMILY, begin, interrupted, straight

import gossip
import topologies
from gossip import testing
from gossip.transports.collective import sums
from slowmo import ShardedSlowMo, SlowMo


def irregular(world: gossip.World, overlap: int) -> gossip.PushSum:
    """So that weights are not 1."""
    graph = topologies.from_networkx(oracle.random_digraphs(world.size, 3, seed=5))
    return gossip.PushSum(world, graph, overlap=overlap)


def descend(world: gossip.World, sharded: bool, dtype: torch.dtype, overlap: int, **options: Any) -> list[torch.Tensor]:
    """The parameters after each step, of two groups with rates of their own, the second in parts of both dtypes."""
    shapes = [((7, 3), dtype), ((5,), dtype), ((), torch.float32), ((2, 2), dtype)]
    generator = torch.Generator().manual_seed(0)
    own = [torch.randn(shape, generator=generator).to(kind).requires_grad_() for shape, kind in shapes]
    groups = [{"params": own[:2], "lr": 0.1}, {"params": own[2:], "lr": 0.03}]
    sgd = gossip.GossipOptimizer(torch.optim.SGD(groups, momentum=0.9), irregular(world, overlap))
    optimizer = (
        ShardedSlowMo(sgd, world, 3, 0.6, **options)
        if sharded
        else SlowMo(sgd, gossip.ExactAverage(world), 3, 0.6, **options)
    )
    history = []
    for step in range(10):
        noise = torch.Generator().manual_seed(100 * step + world.rank)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        for p in own:
            p.grad = (p.detach().float() - torch.randn(p.shape, generator=noise) - world.rank).to(p.dtype)
        optimizer.step()
        history += [p.detach().clone() for p in own]
    return history


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (2, 0), (3, 1), (5, 1)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_slowmo(size: int, overlap: int, dtype: torch.dtype, nesterov: bool) -> None:
    """Bit for bit, also from unequal weights and where a rank has no part of a bucket."""
    whole, parts = (
        testing.run(
            size, lambda world, sharded=sharded: descend(world, sharded, dtype, overlap, lr=0.8, nesterov=nesterov)
        )
        for sharded in (False, True)
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    assert all(torch.equal(p, first) for rank in parts for p, first in zip(rank[32:36], parts[0][32:36], strict=True))


def test_it_is_slowmo_on_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sum goes another way, in segments."""
    monkeypatch.setattr(sums, "RING", 2)
    monkeypatch.setattr(sums, "SEGMENT", 60)
    whole, parts = (
        testing.run(5, lambda world, sharded=sharded: descend(world, sharded, torch.bfloat16, 1))
        for sharded in (False, True)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_memory_and_bytes() -> None:
    """Two models for all ranks together, instead of each, at no more bytes."""
    elements, size = 12_000, 4

    def run(world: gossip.World, sharded: bool) -> tuple[int, int]:
        sgd = torch.optim.SGD([torch.zeros(elements, requires_grad=True)], lr=0.1)
        optimizer = ShardedSlowMo(sgd, world, 1) if sharded else SlowMo(sgd, gossip.ExactAverage(world), 1)
        optimizer.step()
        kept = sum(tensor.numel() for tensor in (*optimizer.anchors, *optimizer.momenta))
        return kept, optimizer.stats.run.bytes_sent

    for kept, sent in testing.run(size, lambda world: run(world, sharded=True)):
        assert kept == 2 * elements / size
        assert sent == pytest.approx(2 * (size - 1) / size * 4 * elements, rel=0.01)
    assert testing.run(size, lambda world: run(world, sharded=False))[0][0] == 2 * elements


@pytest.mark.parametrize("wrap", ["sharded", "shared momentum"])
@pytest.mark.parametrize("at", [7, 10])
def test_resume(wrap: str, at: int, tmp_path: Path) -> None:
    once = testing.run(3, lambda world: straight(world, wrap, "adamw", ask=True))
    assert once == testing.run(3, lambda world: interrupted(world, wrap, "adamw", at, tmp_path))


@pytest.mark.parametrize("wrap", FAMILY)
def test_checkpoint_on_the_same_ranks(wrap: str, tmp_path: Path) -> None:
    def broken_off(world: gossip.World) -> dict[str, Any]:
        first = begin(world, wrap, "adamw")
        first.train(world.rank, range(8))
        save(tmp_path, world, 8, first)
        first.optimizer.settle()
        second = begin(world, wrap, "adamw", seed=1)
        load(tmp_path, world, second)
        second.train(world.rank, range(8, 17))
        return second.bits()

    assert testing.run(3, broken_off) == testing.run(3, lambda world: straight(world, wrap, "adamw"))


@pytest.mark.parametrize("wrap", FAMILY)
@pytest.mark.parametrize("size", [2, 4])
def test_checkpoint_on_other_ranks(wrap: str, size: int, tmp_path: Path) -> None:
    """Anchors and momenta are what the old ranks had together."""

    def old(world: gossip.World) -> Any:
        training = begin(world, wrap, "sgd")
        training.train(world.rank, range(8))
        save(tmp_path, world, 8, training)
        return places(training.optimizer)

    def new(world: gossip.World) -> Any:
        training = begin(world, wrap, "sgd", seed=1)
        load(tmp_path, world, training)
        found = places(training.optimizer)
        training.train(world.rank, range(8, 17))
        training.optimizer.settle()
        assert all(bool(p.isfinite().all()) for p in training.model.parameters())
        return found

    before, after = together(testing.run(3, old)), together(testing.run(size, new))
    assert before.keys() == after.keys()
    for place, values in before.items():
        torch.testing.assert_close(after[place], values, rtol=0, atol=1e-7)


Elements = dict[tuple[int, int], torch.Tensor]


def places(optimizer: Any) -> Elements:
    """(bucket, element) -> anchor and momentum, as far as this rank has them."""
    found = {}
    for part, anchor, m in zip(optimizer.parts, optimizer.anchors, optimizer.momenta, strict=True):
        for place in range(part.start, part.stop):
            found[part.bucket, place] = torch.stack([anchor[place - part.start], m[place - part.start]]).clone()
    return found


def together(ranks: list[Elements]) -> Elements:
    """The means over those that have them."""
    keys = {key for rank in ranks for key in rank}
    return {key: torch.stack([rank[key] for rank in ranks if key in rank]).mean(dim=0) for key in sorted(keys)}


def test_state_of_another_rank_is_refused() -> None:
    """Before anything is changed."""

    def run(world: gossip.World) -> str:
        layer = torch.nn.Linear(4, 3)
        optimizer = ShardedSlowMo(torch.optim.SGD(layer.parameters(), lr=0.1), world, 2)
        optimizer.step()
        state = optimizer.state_dict()
        place, anchor = state["slowmo"]["anchors"].popitem()
        bucket, start, stop = map(int, place.split(":"))
        state["slowmo"]["anchors"][f"{bucket}:{start + 1}:{stop + 1}"] = anchor
        with pytest.raises(gossip.UsageError) as refusal:
            optimizer.load_state_dict(state)
        return str(refusal.value)

    assert "not of the parts that this rank keeps" in testing.run(2, run)[0]


def test_shrinking_is_refused() -> None:
    def run(world: gossip.World) -> str:
        sgd = torch.optim.SGD(torch.nn.Linear(4, 3).parameters(), lr=0.1)
        base = gossip.GossipOptimizer(sgd, gossip.NoAverage(), on_failure="shrink")
        with pytest.raises(gossip.UsageError) as refusal:
            ShardedSlowMo(base, world)
        return str(refusal.value)

    assert "the anchor and momentum that a dead rank alone has" in testing.run(1, run)[0]
