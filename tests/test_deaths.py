"""A rank dies, wherever it stands: those that are left go on, with all the weight that is left, and agree."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from workers.deaths import METHODS, push, train, wrapped

import gossip
import topologies
from gossip import testing
from gossip.testing import Killed, Network


def checked(outcome: list[Any], left: set[int]) -> None:
    ranks, gathered, weights, values, deaths = zip(*outcome, strict=True)
    assert set(ranks) == left
    assert all(set(each) >= left for each in gathered), "somebody gathered without the living"
    assert sum(weights) == pytest.approx(len(left), abs=1e-9)
    assert min(weights) > 0
    assert all(value.min() >= -1 and value.max() <= 5 for value in values), "outside of what ranks began and aim at"
    assert len({tuple(death.ranks for death in each) for each in deaths}) == 1, "ranks tell of different deaths"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("victims", [{2}, {0}, {0, 3}, {1, 2, 3, 4}], ids=str)
def test_between_steps(method: str, victims: set[int]) -> None:
    def die(rank: int, step: int) -> None:
        if rank in victims and step == 5 + rank:
            raise Killed

    outcome = testing.run(5, lambda world: train(world, METHODS[method], die=die), timeout=10)
    checked(outcome, set(range(5)) - victims)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("method", METHODS)
def test_at_any_message(method: str, seed: int) -> None:
    """In the middle of a round, of an exact average, of the meeting after another death."""
    draw = random.Random(seed)
    size = draw.randint(2, 5)
    last = {victim: draw.randint(30, 200) for victim in draw.sample(range(size), draw.randint(1, size - 1))}
    sent: Counter[int] = Counter()
    died = set()

    def delay(source: int, target: int, number: int) -> float:
        sent[source] += 1
        if sent[source] == last.get(source):
            died.add(source)
            raise Killed
        return 0.0

    outcome = testing.run(size, lambda world: train(world, METHODS[method]), timeout=10, network=Network(delay=delay))
    checked(outcome, set(range(size)) - died)


def test_mpirun(tmp_path: Path) -> None:
    """Real processes, SIGKILL at any moment: one of them rank 0, two at once."""
    plans = ["2@0.3s", "0@0.6s", "3@0.6s"]
    command = ["-m", "workers.deaths", str(tmp_path), "slowmo", "1500", *plans]
    outcome = spawn.run_mpirun(5, command, timeout=90, options=("--with-ft", "ulfm"))
    assert outcome.code == 0, outcome.output[-4000:]
    left = {int(file.stem): np.load(file) for file in tmp_path.glob("*.npz")}
    assert set(left) == {1, 4}, outcome.output[-4000:]
    for saved in left.values():
        assert sorted(saved["died"]) == [0, 2, 3]
        assert set(saved["gathered"]) == {1, 4}
    assert sum(float(saved["weight"]) for saved in left.values()) == pytest.approx(2, abs=1e-9)
    assert "rank 2 died, seen in step" in outcome.output


def test_without_fault_tolerance(tmp_path: Path) -> None:
    """It is refused before anything is trained."""
    outcome = spawn.run_mpirun(2, ["-m", "workers.deaths", str(tmp_path), "osgp", "5"], timeout=60)
    assert outcome.code
    assert "on_failure='shrink' needs a transport that outlives a process" in outcome.output
    assert "mpirun --with-ft ulfm" in outcome.output


REFUSED: dict[str, tuple[Callable[[gossip.World], object], str]] = {
    "part of the world": (
        lambda world: wrapped(push(world.group([0])) if world.rank == 0 else push(world.group([1])), linear()),
        "works over the whole world, and here are averages over 1 of its 2 ranks",
    ),
    "early": (
        lambda world: wrapped(gossip.PushSum(world, topologies.exponential(2), 2, "early"), linear()),
        "needs landing='due'",
    ),
    "a word": (lambda world: wrapped(push(world), linear(), "ignore"), "there are 'raise' and 'shrink'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(gossip.UsageError, match=sentence):
        testing.run(2, make, timeout=5)


def linear() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def test_without_shrink_a_death_is_an_error() -> None:
    def run(world: gossip.World) -> None:
        optimizer = wrapped(push(world), linear(), "raise")
        for step in range(4):
            if world.rank == 1 and step == 2:
                raise Killed
            optimizer.step()

    with pytest.raises(gossip.PeerDied, match="rank 1 died while rank"):
        testing.run(3, run, timeout=5)
