"""Learning rates that drift apart between ranks which average exactly: one warning, in no message more."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

SIZE, STEPS = 3, 12
Make = Callable[[gossip.World, torch.optim.Optimizer], torch.optim.Optimizer]

METHODS: dict[str, Make] = {
    "AR-SGD": lambda world, sgd: gossip.GossipOptimizer(sgd, gossip.NoAverage(), gradients=world),
    "exact average in every step": lambda world, sgd: gossip.GossipOptimizer(sgd, gossip.ExactAverage(world)),
    "local SGD": lambda world, sgd: slowmo.local_sgd(sgd, world, period=4),
    "Gossip-PGA": lambda world, sgd: slowmo.gossip_pga(sgd, world, topologies.exponential(world.size), period=4),
    "SlowMo": lambda world, sgd: slowmo.SlowMo(sgd, gossip.ExactAverage(world), period=4),
    "DiLoCo": lambda world, sgd: slowmo.diloco(sgd, world, period=4),
    "sharded": lambda world, sgd: slowmo.ShardedSlowMo(sgd, world, period=4),
    "streaming": lambda world, sgd: slowmo.StreamingSlowMo(sgd, world, period=4),
    "shared momentum": lambda world, sgd: slowmo.SharedMomentum(sgd, world, period=4),
}


def train(world: gossip.World, make: Make, rate: Callable[[int, int], float]) -> int:
    """The messages of the run, where rank r trains at `rate(r, step)`."""
    parameter = torch.zeros(8, requires_grad=True)
    optimizer = make(world, torch.optim.SGD([parameter], lr=0.1))
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate(world.rank, step)
        parameter.grad = torch.full((8,), 1.0 + world.rank)
        optimizer.step()
    optimizer.settle()  # type: ignore[attr-defined]
    return int(optimizer.stats.run.messages_sent)  # type: ignore[attr-defined]


def run(method: str, rate: Callable[[int, int], float]) -> tuple[list[str], list[int]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        messages = testing.run(SIZE, lambda world: train(world, METHODS[method], rate))
    return [str(each.message) for each in caught if "learning rates" in str(each.message)], messages


@pytest.mark.parametrize("method", METHODS)
def test_rates_that_drift_apart_are_warned_of_once(method: str) -> None:
    """As ReduceLROnPlateau lowers that of one rank, by its own metric."""
    warned, drifting = run(method, lambda rank, step: 0.01 if rank == 2 and step > 4 else 0.1)
    assert len(warned) == 1
    assert "0.1 on ranks 0, 1; 0.01 on rank 2" in warned[0]
    assert "give it the mean of the metric over `world`" in warned[0]
    silent, steady = run(method, lambda rank, step: 0.1 / (1 + step))
    assert not silent
    assert drifting == steady, "the warning costs no message"


def test_a_rank_that_gossips_alone_has_a_rate_of_its_own() -> None:
    """Nothing but exact averages compares them."""

    def osgp(world: gossip.World, sgd: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(SIZE, lambda world: train(world, osgp, lambda rank, _: 0.1 / (1 + rank)))


def test_optimizers_without_a_rate_are_not_compared() -> None:
    """Some have none, or set one themselves in the step."""

    class Own(torch.optim.Optimizer):
        def __init__(self, parameters: list[torch.Tensor]) -> None:
            super().__init__(parameters, {"lr": None})

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            pass

    def descend(world: gossip.World) -> None:
        parameter = torch.zeros(8, requires_grad=True)
        optimizer = gossip.GossipOptimizer(Own([parameter]), gossip.ExactAverage(world), gradients=world)
        parameter.grad = torch.full((8,), 1.0 + world.rank)
        optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(SIZE, descend)


def test_a_warning_names_a_few_of_many_ranks() -> None:
    from gossip.state.drift import _sentence

    sentence = _sentence([0.1, *[0.01] * 9], range(10))
    assert "0.1 on rank 0; 0.01 on ranks 1, 2, 3, 4 and 5 more" in sentence


def test_most_exact_averages_carry_no_rates() -> None:
    """An average in every step sends what it sent without them, but for the first few steps and one in many."""

    def messages(world: gossip.World) -> list[int]:
        parameter = torch.zeros(800, requires_grad=True)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), gossip.ExactAverage(world))
        sent = []
        for _ in range(70):
            optimizer.step()
            sent.append(optimizer.stats.last.messages_sent)
        return sent

    for sent in testing.run(4, messages):
        assert set(sent[8:64]) == set(sent[65:]) == {min(sent)}
        assert sent[0] == sent[64] > min(sent)
