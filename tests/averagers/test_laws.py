"""The laws of push-sum, on the memory transport, over sizes 1 to 9 and random irregular digraphs."""

from __future__ import annotations

from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gossip
import topologies
from gossip import testing
from gossip.transports import Network

SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**32 - 1)
OVERLAPS = st.sampled_from([0, 1, 2])


class Held(NamedTuple):
    """The weight and values of a rank after a step, and the messages in flight to it."""

    weight: float
    values: oracle.Array
    flying: list[tuple[float, oracle.Array]]


def mix(
    world: gossip.World,
    averager: gossip.Averager,
    start: oracle.Array,
    steps: int,
    dtype: torch.dtype = torch.float64,
    look: bool = True,
) -> list[Held]:
    """Rounds without updates from a start of each rank's own; one more entry for the state once all has landed.

    A rank that does not `look` at the messages in flight does not wait for their arrival either.
    """
    parameters = [torch.zeros(start.shape[1], dtype=dtype, requires_grad=True), torch.zeros(2, 3, dtype=dtype)]
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(parameters, lr=0.1), averager)
    with torch.no_grad():
        # After the broadcast: no two ranks alike.
        parameters[0].copy_(torch.from_numpy(start[world.rank]))

    def held() -> Held:
        flying = [
            (float(envelope[0]), values[0].double().numpy()[: start.shape[1]].copy())
            for envelope, *values in (arriving(optimizer.state_dict()["gossip"]["averager"]) if look else ())
        ]
        return Held(optimizer.weight, parameters[0].detach().double().numpy().copy(), flying)

    history = []
    for _ in range(steps):
        optimizer.step()
        history.append(held())
    optimizer.settle()
    return [*history, held()]


def arriving(state: dict[str, Any]) -> list[list[torch.Tensor]]:
    """Every message in flight that a checkpoint holds, of all averagers in it."""
    messages = [message for round in state.get("aloft", ()) for message in round["arriving"].values()]
    for part in state.values():
        if isinstance(part, dict):
            messages += arriving(part)
    return messages


def mix_all(
    size: int, start: oracle.Array, steps: int, averager: Any, dtype: torch.dtype = torch.float64
) -> list[list[Held]]:
    """The state of every rank, by step and then by rank; `averager(world)` makes a rank's averager."""
    ranks = testing.run(size, lambda world: mix(world, averager(world), start, steps, dtype))
    return [[ranks[rank][step] for rank in range(size)] for step in range(steps + 1)]


def starts(size: int, seed: int) -> oracle.Array:
    """Different values on every rank, (n, 3)."""
    return np.random.default_rng((seed, size)).standard_normal((size, 3))


def digraphs(size: int, seed: int) -> topologies.Topology:
    """An irregular schedule, with uneven shares in half of the cases."""
    return topologies.from_networkx(oracle.random_digraphs(size, 1 + seed % 4, seed, weighted=seed % 2 == 0))


def balanced(size: int, seed: int) -> topologies.Topology:
    """A doubly stochastic schedule: undirected graphs, and mixtures of permutations with uneven shares."""
    random = np.random.default_rng((seed, size))
    graphs: list[Any] = [nx.cycle_graph(size) if size > 2 else nx.path_graph(size)]
    for _ in range(random.integers(0, 3)):
        graphs.append(nx.gnp_random_graph(size, 0.4, seed=int(random.integers(2**31))))
        # P = Σ_k c_k Π_k, the identity among the Π_k
        P = np.zeros((size, size))
        for share in random.dirichlet(np.ones(4)):
            P[random.permutation(size), range(size)] += 0.8 * share
        graph = nx.DiGraph()
        graph.add_nodes_from(range(size))
        graph.add_weighted_edges_from((u, v, P[v, u]) for u in range(size) for v in range(size) if u != v and P[v, u])
        graphs.append(graph)
    return topologies.from_networkx(graphs)


def gossip_of(world: gossip.World, topology: topologies.Topology, overlap: int, second: bool) -> gossip.Averager:
    """One push-sum, or two at once over the same values."""
    first = gossip.PushSum(world, topology, overlap=overlap)
    if not second:
        return first
    return gossip.Chain(first, gossip.Every(2, gossip.PushSum(world, topologies.exponential(world.size), overlap=1)))


@given(size=SIZES, seed=SEEDS, overlap=OVERLAPS, second=st.booleans())
def test_nothing_is_lost_or_made(size: int, seed: int, overlap: int, second: bool) -> None:
    """Σ w = n and Σ w z unchanged, held and in flight, after every round and after settling."""
    start = starts(size, seed)

    topology = digraphs(size, seed)
    history = mix_all(size, start, 9, lambda world: gossip_of(world, topology, overlap, second))
    for ranks in history:
        pairs = [(held.weight, held.values) for held in ranks] + [pair for held in ranks for pair in held.flying]
        assert sum(w for w, _ in pairs) == pytest.approx(size, abs=1e-12)
        np.testing.assert_allclose(sum(w * z for w, z in pairs), start.sum(axis=0), atol=1e-12)
        assert all(w > 0 for w, _ in pairs)
    assert overlap == 0 or size == 1 or any(held.flying for ranks in history for held in ranks)
    assert not any(held.flying for held in history[-1])
    assert sum(held.weight for held in history[-1]) == pytest.approx(size, abs=1e-12)


@given(size=SIZES, seed=SEEDS, overlap=OVERLAPS)
def test_every_rank_keeps_some(size: int, seed: int, overlap: int) -> None:
    """keep > 0, so that no rank's weight ever vanishes."""
    topology = digraphs(size, seed)
    least = min(topology.turn(rank, round).keep for rank in range(size) for round in range(topology.period or 8))
    assert least > 0
    for ranks in mix_all(size, starts(size, seed), 6, lambda world: gossip.PushSum(world, topology, overlap=overlap)):
        assert min(held.weight for held in ranks) >= least**6


@given(size=SIZES, seed=SEEDS, overlap=OVERLAPS)
def test_values_stay_between_the_first_ones(size: int, seed: int, overlap: int) -> None:
    """A merge is a mean, so that no value leaves the hull of those that the ranks began with."""
    start = starts(size, seed)
    averager = digraphs(size, seed)
    for ranks in mix_all(size, start, 9, lambda world: gossip.PushSum(world, averager, overlap=overlap)):
        for held in ranks:
            assert (held.values >= start.min(axis=0) - 1e-12).all()
            assert (held.values <= start.max(axis=0) + 1e-12).all()


@settings(max_examples=5)
@given(size=SIZES, seed=SEEDS, overlap=OVERLAPS)
def test_irregular_digraphs_reach_the_mean(size: int, seed: int, overlap: int) -> None:
    """The weights undo the bias that uneven shares bring."""
    start, topology = starts(size, seed), digraphs(size, seed)
    ranks = mix_all(size, start, 160, lambda world: gossip.PushSum(world, topology, overlap=overlap))[-1]
    for held in ranks:
        np.testing.assert_allclose(held.values, start.mean(axis=0), atol=1e-6)


@given(exponent=st.integers(0, 3), seed=SEEDS, overlap=st.sampled_from([0, 1]))
def test_exponential_graph_is_exact(exponent: int, seed: int, overlap: int) -> None:
    """n = 2^k ranks, one peer, no update: k rounds lead every rank to the mean."""
    size, start = 2**exponent, starts(2**exponent, seed)
    history = mix_all(
        size,
        start,
        exponent,
        lambda world: gossip.PushSum(world, topologies.exponential(size), overlap=overlap),
    )
    for held in history[-1]:
        assert held.weight == 1
        np.testing.assert_allclose(held.values, start.mean(axis=0), atol=1e-15)


@given(size=SIZES, seed=SEEDS, overlap=st.sampled_from([0, 1]), exponential=st.booleans())
def test_weight_is_exactly_one_where_every_round_is_doubly_stochastic(
    size: int, seed: int, overlap: int, exponential: bool
) -> None:
    """Seen from inside the update, so that the cheap path is never left; not 1 ± 1e-16 but 1."""
    topology = topologies.exponential(size) if exponential else balanced(size, seed)

    def weights(world: gossip.World) -> list[float]:
        base = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
        optimizer = gossip.GossipOptimizer(base, gossip.PushSum(world, topology, overlap=overlap))
        seen: list[float] = []
        base.register_step_pre_hook(lambda *_: seen.append(optimizer.weight))
        for _ in range(7):
            optimizer.step()
        optimizer.settle()
        return [*seen, optimizer.weight]

    for seen in testing.run(size, weights):
        assert seen == [1.0] * 8


@given(size=st.integers(2, 9), seed=SEEDS, overlap=OVERLAPS)
def test_exact_average_is_the_mean_of_all_mass(size: int, seed: int, overlap: int) -> None:
    """Over weights of any kind: z = Σ w z / Σ w, the same bits everywhere, and w = 1 exactly."""
    start, topology = starts(size, seed), digraphs(size, seed)

    def averager(world: gossip.World) -> gossip.Averager:
        push_sum = gossip.PushSum(world, topology, overlap=overlap)
        return gossip.Chain(push_sum, gossip.Every(5, gossip.ExactAverage(world)))

    def after_five(world: gossip.World) -> tuple[float, oracle.Array]:
        parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        base = torch.optim.SGD([parameter], lr=0.1)
        chain = averager(world)
        optimizer = gossip.GossipOptimizer(base, chain)
        parameter.data.copy_(torch.from_numpy(start[world.rank]))
        for _ in range(5):
            optimizer.step()
        optimizer.settle()
        return optimizer.weight, parameter.detach().numpy().copy()

    ranks = testing.run(size, after_five)
    for weight, values in ranks:
        np.testing.assert_allclose(values, start.mean(axis=0), atol=1e-12)
        if overlap == 0:
            assert weight == 1
            np.testing.assert_array_equal(values, ranks[0][1])
    assert sum(weight for weight, _ in ranks) == pytest.approx(size, abs=1e-12)


@given(size=st.integers(2, 9), seed=SEEDS, dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_weight_does_not_rest_in_the_parameters_dtype(size: int, seed: int, dtype: torch.dtype) -> None:
    """16-bit values carry 53-bit weights: Σ w = n to the last digits, whatever the values are made of."""
    topology = digraphs(size, seed)
    history = mix_all(
        size, starts(size, seed), 12, lambda world: gossip.PushSum(world, topology, overlap=1), dtype=dtype
    )
    for ranks in history:
        held = sum(rank.weight for rank in ranks) + sum(w for rank in ranks for w, _ in rank.flying)
        assert held == pytest.approx(size, abs=1e-13)


@given(size=SIZES, seed=SEEDS, overlap=OVERLAPS, second=st.booleans())
def test_runs_repeat_bit_for_bit(size: int, seed: int, overlap: int, second: bool) -> None:
    """With landing="due", what arrives first makes no difference, and nothing is written while it is being sent."""
    start, topology = starts(size, seed), digraphs(size, seed)
    random = np.random.default_rng(seed)
    delays = random.uniform(0, 2e-3, 97)
    slow = Network(delay=lambda source, target, number: float(delays[(source + 7 * target + number) % 97]))

    def run(world: gossip.World) -> list[Held]:
        return mix(world, gossip_of(world, topology, overlap, second), start, 5, look=False)

    for rank, late in zip(testing.run(size, run), testing.run(size, run, network=slow), strict=True):
        for held, again in zip(rank, late, strict=True):
            assert held.weight == again.weight
            np.testing.assert_array_equal(held.values, again.values)
