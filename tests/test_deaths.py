"""A rank dies, wherever it stands: those that are left go on, with all the weight that is left, and agree."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from workers.deaths import METHODS, train

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
