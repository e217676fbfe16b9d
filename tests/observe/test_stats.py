"""The statistics of every step: exact counts, seconds that add up, and ranges in a profile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.testing import Network

ENVELOPE = 24
ELEMENTS = 16  # of float32 and as many of float64: two buckets, without any padding
PAYLOAD = ELEMENTS * (4 + 8)


def parameters() -> list[torch.Tensor]:
    dtypes = (torch.float32, torch.float64)
    return [torch.zeros(ELEMENTS // 4, 4, dtype=dtype, requires_grad=True) for dtype in dtypes]


def counted(
    size: int, averager: Callable[[gossip.World], gossip.Averager], steps: int = 6, gradients: bool = False
) -> list[gossip.Counters]:
    """Of the whole run, settled, by rank."""

    def run(world: gossip.World) -> gossip.Counters:
        base = torch.optim.SGD(parameters(), lr=0.1)
        optimizer = gossip.GossipOptimizer(base, averager(world), gradients=world if gradients else None)
        for _ in range(steps):
            optimizer.step()
        optimizer.settle()
        return optimizer.stats.run

    return testing.run(size, run)


def push_sum(topology: Callable[[int], topologies.Topology], overlap: int) -> Callable[[gossip.World], gossip.PushSum]:
    return lambda world: gossip.PushSum(world, topology(world.size), overlap=overlap)


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize(
    ("topology", "peers"),
    [(topologies.exponential, 1), (lambda size: topologies.exponential(size, peers=2), 2), (topologies.complete, 4)],
    ids=["one peer", "two peers", "complete"],
)
def test_push_sum(topology: Callable[[int], topologies.Topology], peers: int, overlap: int) -> None:
    """In each round one envelope of 24 bytes and the parameters go to each peer, and as much comes from each."""
    for rank in counted(5, push_sum(topology, overlap)):
        assert rank.steps == rank.rounds_posted == rank.rounds_landed == 6
        assert rank.messages_sent == rank.messages_received == 6 * peers * 3
        assert rank.bytes_sent == rank.bytes_received == 6 * peers * (PAYLOAD + ENVELOPE)
        assert rank.oldest_age == overlap


def test_irregular_graph() -> None:
    """Each rank counts what it sends and what it receives, and over all ranks these are the same."""
    graphs = oracle.random_digraphs(5, 3, seed=1)
    ranks = counted(5, lambda world: gossip.PushSum(world, topologies.from_networkx(graphs), overlap=1))
    for number, rank in enumerate(ranks):
        out = sum(graph.out_degree(number) for graph in graphs)
        into = sum(graph.in_degree(number) for graph in graphs)
        assert (rank.messages_sent, rank.messages_received) == (2 * out * 3, 2 * into * 3)
        assert (rank.bytes_sent, rank.bytes_received) == tuple(2 * n * (PAYLOAD + ENVELOPE) for n in (out, into))


def test_rounds_are_posts() -> None:
    for rank in counted(4, lambda world: gossip.Every(3, push_sum(topologies.exponential, 1)(world)), steps=7):
        assert rank.steps == 7
        assert rank.rounds_posted == 2
        assert rank.bytes_sent == 2 * (PAYLOAD + ENVELOPE)


@pytest.mark.parametrize("gradients", [False, True], ids=["parameters", "gradients"])
def test_exact_average(gradients: bool) -> None:
    """A ring: 2(n-1)/n of the bytes leave each rank, and with each message at most three numbers besides.

    They are weights or counts, and every rank's learning rate. One rank alone sends nothing.
    """
    size, steps = 4, 6

    def averager(world: gossip.World) -> gossip.Averager:
        return gossip.NoAverage() if gradients else gossip.ExactAverage(world)

    for rank in counted(size, averager, steps, gradients):
        least = steps * 2 * (size - 1) * PAYLOAD // size
        assert least <= rank.bytes_sent <= least + steps * 2 * (size - 1) * 24
        assert rank.bytes_received <= least + steps * 2 * (size - 1) * 24
        assert rank.rounds_posted == 0
    [alone] = counted(1, averager, steps, gradients)
    assert alone.bytes_sent == alone.messages_sent == 0


def test_no_average_sends_nothing() -> None:
    for rank in counted(2, lambda world: gossip.NoAverage()):
        assert dataclasses.replace(rank, seconds_exposed=0.0) == gossip.Counters(steps=6)


def test_outer_steps_count() -> None:
    """SlowMo's average is in the same counters; its variant without averaging adds nothing."""

    def run(world: gossip.World, average: bool) -> list[int]:
        base = gossip.GossipOptimizer(torch.optim.SGD(parameters(), lr=0.1), push_sum(topologies.exponential, 1)(world))
        averager = gossip.ExactAverage(world) if average else gossip.NoAverage()
        optimizer: Any = slowmo.SlowMo(base, averager, period=2)
        sent = []
        for _ in range(4):
            optimizer.step()
            sent.append(optimizer.stats.last.bytes_sent)
        return sent

    for exact, none in zip(*(testing.run(2, lambda world, a=a: run(world, a)) for a in (True, False)), strict=True):
        # A round counts when it has landed, which is one step later. The average adds a weight and two learning rates.
        assert none == [0, *[PAYLOAD + ENVELOPE] * 3]
        assert [more - less for more, less in zip(exact, none, strict=True)] == [0, PAYLOAD + 24, 0, PAYLOAD + 24]


def test_last_step_and_run() -> None:
    """`last` is the last step alone, `run` the sum; also while a step's own numbers are still to come."""

    def run(world: gossip.World) -> None:
        optimizer = gossip.GossipOptimizer(
            torch.optim.SGD(parameters(), lr=0.1), push_sum(topologies.exponential, 0)(world)
        )
        assert optimizer.stats.run == gossip.Counters()
        total = gossip.Counters()
        for step in range(1, 5):
            optimizer.step()
            last = optimizer.stats.last
            assert (last.steps, last.rounds_posted, last.rounds_landed) == (1, 1, 1)
            assert last.bytes_sent == PAYLOAD + ENVELOPE
            total.add(last)
            assert optimizer.stats.run == total
            assert optimizer.stats.run.steps == step
            assert optimizer.stats.run.weight == optimizer.weight

    testing.run(2, run)


def test_scalars_are_plain_numbers_of_the_last_step_and_of_the_run() -> None:
    """Under SlowMo too; a logger takes them as they are."""

    def run(world: gossip.World) -> dict[str, float]:
        base = gossip.GossipOptimizer(torch.optim.SGD(parameters(), lr=0.1), push_sum(topologies.exponential, 0)(world))
        optimizer = slowmo.SlowMo(base, gossip.NoAverage(), period=2)
        for _ in range(3):
            optimizer.step()
        scalars = optimizer.stats.scalars()
        assert scalars["gossip/seconds_exposed"] == optimizer.stats.last.seconds_exposed
        return scalars

    names = [each.name for each in dataclasses.fields(gossip.Counters)]
    for scalars in testing.run(2, run):
        assert set(scalars) == {f"gossip/{name}" for name in names} | {f"gossip/run/{name}" for name in names}
        assert all(type(value) is float for value in scalars.values())
        assert scalars["gossip/weight"] == 1
        assert scalars["gossip/run/steps"] == 3
        assert scalars["gossip/run/bytes_sent"] == 3 * scalars["gossip/bytes_sent"] == 3 * (PAYLOAD + ENVELOPE)


DELAY = 0.1


def waited(overlap: int) -> list[gossip.Counters]:
    """Three rounds on a network where each message takes DELAY; the next step begins once the flight has landed."""

    def run(world: gossip.World) -> gossip.Counters:
        averager = push_sum(topologies.exponential, overlap)(world)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(parameters(), lr=0.1), averager)
        for _ in range(3):
            optimizer.step()
            optimizer.state_dict()  # waits for the messages in flight, outside of the steps
        optimizer.settle()
        return optimizer.stats.run

    return testing.run(2, run, network=Network(delay=lambda source, target, number: DELAY))


def test_exposed_and_hidden_seconds() -> None:
    """A message that travels while a step waits for it is exposed; one that travels between two steps is not.

    Both are in flight.
    """
    for rank in waited(overlap=0):
        assert rank.seconds_exposed >= 2.9 * DELAY  # a wait begins a little after the post
        assert rank.seconds_in_flight >= 3 * DELAY
    hidden = waited(overlap=1)
    assert all(rank.seconds_in_flight >= 3 * DELAY for rank in hidden)
    assert min(rank.seconds_exposed for rank in hidden) < 2 * DELAY, "nothing was left to wait for"


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_weight(overlap: int) -> None:
    """Is that of the optimizer, after a step and after settling, which counts for the step before."""

    def run(world: gossip.World) -> float:
        averager = gossip.PushSum(world, topologies.from_networkx(oracle.random_digraphs(3, 2, seed=1)), overlap)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(parameters(), lr=0.1), averager)
        for _ in range(3):
            optimizer.step()
            assert optimizer.stats.last.weight == optimizer.stats.run.weight == optimizer.weight
        optimizer.settle()
        assert optimizer.stats.last.weight == optimizer.stats.run.weight == optimizer.weight
        return optimizer.weight

    assert sum(testing.run(3, run)) == pytest.approx(3)


def test_merging_takes_time() -> None:
    for rank in counted(2, push_sum(topologies.exponential, 1)):
        assert 0 < rank.seconds_merging < 10


def test_profiler_shows_the_parts_of_a_step() -> None:
    def run(world: gossip.World) -> set[str]:
        base = torch.optim.SGD(parameters(), lr=0.1)
        averager = push_sum(topologies.exponential, 1)(world)
        optimizer = gossip.GossipOptimizer(base, averager, gradients=world)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(2):
                optimizer.step()
        return {event.key for event in profile.key_averages()}

    [names] = testing.run(1, run)
    assert names >= {f"gossip::{part}" for part in ("land", "gradients", "average", "post", "wait")}
