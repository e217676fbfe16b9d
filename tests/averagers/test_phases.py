"""The calls of a step: which of an averager's methods are called, and in which order."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.testing import Killed


class Recorder(gossip.Averager):
    """Notes the calls of each phase in `calls`."""

    def __init__(self, name: str, calls: list[str], rewrites: bool = False) -> None:
        self._name, self._calls, self._rewrites = name, calls, rewrites

    def describe(self) -> str:
        return self._name

    def average(self, step: int) -> None:
        self._calls.append(f"{self._name} averages")

    def rewrites(self, step: int) -> bool:
        return self._rewrites

    def settle(self) -> None:
        self._calls.append(f"{self._name} settles")


def optimizer_of(averager: gossip.Averager, **options: Any) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=0.1), averager, **options)


def test_everything_lands_right_before_the_averager_that_rewrites() -> None:
    calls: list[str] = []
    first, second = Recorder("first", calls), Recorder("second", calls, rewrites=True)
    optimizer = optimizer_of(gossip.Chain(first, second))
    calls.clear()
    optimizer.step()
    assert calls == ["first averages", "first settles", "second settles", "second averages"]


def test_methods_of_an_instance_are_called() -> None:
    steps: list[int] = []
    averager = gossip.NoAverage()
    averager.average = steps.append  # type: ignore[method-assign]
    optimizer = optimizer_of(averager)
    optimizer.step()
    optimizer.step()
    assert steps == [0, 1]


class Posting(gossip.NoAverage):
    """Posts messages that nobody lands."""

    def post(self, step: int) -> None:
        """Nothing is sent here."""


class Due(gossip.NoAverage):
    """Defines a method that an averager does not have."""

    def due(self, step: int) -> bool:
        return True


@pytest.mark.parametrize(
    ("averager", "sentence"),
    [
        (Posting(), r"Posting defines post\(\).* and no settle and no in_flight\(\): define both"),
        (gossip.Chain(Posting()), r"Posting defines post\(\)"),
        (Due(), r"Due defines due\(step\), which nothing calls: its name is is_due\(step\)"),
    ],
    ids=["post", "inside a chain", "due"],
)
def test_an_averager_that_would_lose_messages_is_refused(averager: gossip.Averager, sentence: str) -> None:
    with pytest.raises(gossip.UsageError, match=sentence):
        optimizer_of(averager)


def test_an_averager_refused_at_one_pace_may_be_bound_at_another() -> None:
    push_sum = gossip.PushSum(gossip.init(), topologies.exponential(1), overlap=4)
    with pytest.raises(gossip.UsageError, match="keeps 4 rounds in the air"):
        optimizer_of(push_sum)
    optimizer_of(gossip.Every(4, push_sum)).step()


def test_shrink_refuses_an_averager_that_it_does_not_know() -> None:
    class Own(gossip.NoAverage):
        """Is a NoAverage, which goes on."""

    def run(world: gossip.World) -> None:
        optimizer_of(Own(), on_failure="shrink")
        with pytest.raises(gossip.UsageError, match="and Recorder is none of these"):
            optimizer_of(Recorder("own", []), on_failure="shrink")

    testing.run(2, run)


class Switching(torch.optim.SGD):
    """Has modes, as schedule-free optimizers have."""

    def eval(self) -> None:
        """Nothing changes."""

    def train(self) -> None:
        """Nothing changes."""


def test_a_death_is_survived_between_steps_with_gossip_in_a_chain() -> None:
    def run(world: gossip.World) -> tuple[float, int]:
        parameter = torch.zeros(3, requires_grad=True)
        osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
        chain = gossip.Chain(osgp, gossip.Every(50, gossip.ExactAverage(world)))
        optimizer = gossip.GossipOptimizer(Switching([parameter], lr=0.1), chain, on_failure="shrink")
        for step in range(4):
            if world.rank == 2 and step == 3:
                raise Killed
            parameter.grad = torch.full((3,), float(world.rank))
            optimizer.step()
        optimizer.eval()  # waits until no flight reads the values
        optimizer.train()
        optimizer.settle()
        return optimizer.weight, len(optimizer.deaths)

    weights, deaths = zip(*testing.run(3, run, timeout=20), strict=True)
    assert sum(weights) == pytest.approx(2)
    assert deaths == (1, 1)


def test_settle_notices_a_death_also_without_gossip() -> None:
    def run(world: gossip.World) -> int:
        optimizer = optimizer_of(gossip.Every(2, gossip.ExactAverage(world)), on_failure="shrink")
        for step in range(4):
            if world.rank == 2 and step == 3:
                raise Killed
            if step < 3:
                optimizer.step()
        optimizer.settle()
        return len(optimizer.deaths)

    assert testing.run(3, run, timeout=20) == [1, 1]


def test_no_average_slowmo_waits_for_nobody_where_ranks_may_die() -> None:
    """Rank 0 makes all of its steps while rank 1 waits for that."""
    ended = threading.Event()

    def run(world: gossip.World) -> bool:
        rare = gossip.Every(50, gossip.PushSum(world, topologies.exponential(world.size)))
        optimizer = slowmo.SlowMo(optimizer_of(rare, on_failure="shrink"), gossip.NoAverage(), period=2)
        optimizer.step()
        waited = world.rank == 0 or ended.wait(20)
        for _ in range(5):
            optimizer.step()
        if world.rank == 0:
            ended.set()
        return waited

    assert testing.run(2, run, timeout=30) == [True, True]
