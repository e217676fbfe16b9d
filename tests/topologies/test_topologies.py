"""The laws of every graph that ships, and the numbers that the literature gives for it."""

from __future__ import annotations

import copy
import math
import pickle
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import Topology, TopologyError, complete, exponential, from_networkx, ring


@st.composite
def shipped(draw: st.DrawFn) -> Topology:
    size = draw(st.integers(1, 40))
    family = draw(st.sampled_from(["exponential", "ring", "directed ring", "complete"]))
    if family == "exponential":
        return exponential(size, peers=draw(st.integers(1, max(1, size - 1))))
    if family == "complete":
        return complete(size)
    return ring(size, directed=family == "directed ring")


def period(topology: Topology) -> int:
    assert topology.period is not None
    return topology.period


def sweep(topology: Topology) -> np.ndarray:
    product = np.eye(topology.size)
    for round in range(period(topology)):
        product = topology.matrix(round) @ product
    return product


def average(size: int) -> np.ndarray:
    return np.full((size, size), 1 / size)


def residual(topology: Topology) -> float:
    return float(np.linalg.norm(sweep(topology) - average(topology.size), 2))


@given(shipped())
def test_columns_and_rows_sum_to_one(topology):
    for round in range(period(topology)):
        matrix = topology.matrix(round)
        assert matrix.shape == (topology.size, topology.size)
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-12)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
        assert (matrix.diagonal() > 0).all()
        assert topology.doubly_stochastic(round)


@given(shipped(), st.integers(0, 1000))
def test_sends_are_received(topology, round):
    turns = [topology.turn(rank, round) for rank in range(topology.size)]
    sent = {(j, i): share for j, turn in enumerate(turns) for i, share in turn.sends.items()}
    received = {(j, i): share for i, turn in enumerate(turns) for j, share in turn.receives.items()}
    assert sent == received
    assert all(j != i for j, i in sent)
    for rank, turn in enumerate(turns):
        assert math.fsum((turn.keep, *turn.sends.values())) == pytest.approx(1, abs=1e-15)
        assert turn == topology.turn(rank, round) == topology.turn(rank, round + period(topology))


@given(shipped())
def test_every_rank_reaches_every_other(topology):
    union = nx.DiGraph()
    union.add_nodes_from(range(topology.size))
    for round in range(period(topology)):
        union.add_edges_from((j, i) for j in range(topology.size) for i in topology.turn(j, round).sends)
    assert nx.is_strongly_connected(union)


@given(shipped(), st.integers(0, 2**32 - 1))
def test_push_sum_reaches_the_mean(topology, seed):
    values = np.random.default_rng(seed).normal(size=topology.size)
    x, w = values, np.ones(topology.size)
    # x <- P x ;  w <- P w, over many periods
    sweeps = np.linalg.matrix_power(sweep(topology), 8192)
    np.testing.assert_allclose((sweeps @ x) / (sweeps @ w), values.mean(), rtol=0, atol=1e-9)


def test_changing_a_returned_turn_leaves_the_topology_unchanged():
    for topology in (exponential(6), from_networkx(nx.cycle_graph(6))):
        topology.turn(0, 0).sends.clear()
        assert topology.turn(0, 0).sends


def test_topologies_travel_between_processes():
    own = from_networkx([nx.path_graph(4), nx.star_graph(3)])
    for topology in (exponential(6, peers=2), ring(5), complete(3), own):
        for other in (copy.deepcopy(topology), pickle.loads(pickle.dumps(topology))):
            assert other.describe() == topology.describe()
            assert other.turn(1, 1) == topology.turn(1, 1)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64])
def test_one_peer_exponential_is_exact_on_powers_of_two(size):
    topology = exponential(size)
    assert period(topology) == max(1, size.bit_length() - 1)
    np.testing.assert_array_equal(sweep(topology), average(size))


@pytest.mark.parametrize(("size", "peers"), [(3, 2), (9, 2), (27, 2), (16, 3), (25, 4), (36, 5)])
def test_k_peer_exponential_is_exact_on_powers_of_its_base(size, peers):
    assert residual(exponential(size, peers)) < 1e-15


@pytest.mark.parametrize(("size", "expected"), [(6, 0.22), (12, 0.21), (24, 0.21), (33, 0.03)])
def test_one_peer_exponential_on_other_sizes_leaves_a_residual(size, expected):
    assert residual(exponential(size)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("size", "expected"), [(8, 0.195), (16, 0.0507), (32, 0.0128), (64, 0.0032)])
def test_spectral_gap_of_the_ring(size, expected):
    assert 1 - residual(ring(size)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_complete_averages_in_one_round(size):
    assert residual(complete(size)) < 1e-14


@pytest.mark.parametrize(
    ("size", "peers", "round", "hops"),
    [
        (8, 1, 0, {1}),
        (8, 1, 2, {4}),
        (8, 1, 3, {1}),
        (5, 1, 2, {4}),
        (9, 2, 1, {3, 6}),
        (5, 3, 1, {4, 3, 2}),  # 4, 8 and 12 modulo 5
        (6, 2, 1, {3}),  # 3 and 6: one of them is the rank itself
        (4, 2, 1, {3, 2}),  # 3 and 6 modulo 4
        (8, 3, 1, {4}),  # 4, 8 and 12: the rank itself once, and one peer twice
    ],
)
def test_hops_of_the_exponential_graph(size, peers, round, hops):
    turn = exponential(size, peers).turn(0, round)
    assert set(turn.sends) == hops
    assert set(turn.sends.values()) == {1 / (len(hops) + 1)}


@pytest.mark.parametrize(
    "others",
    [
        [exponential(1), ring(1), complete(1), exponential(1, peers=7), from_networkx(nx.empty_graph(1))],
        [exponential(2), ring(2), ring(2, directed=True), complete(2), from_networkx(nx.path_graph(2))],
        [ring(3), complete(3), exponential(3, peers=2), from_networkx(nx.complete_graph(3))],
        [complete(7), exponential(7, peers=6), from_networkx(nx.complete_graph(7))],
        [ring(9), from_networkx(nx.cycle_graph(9))],
        [ring(9, directed=True), from_networkx(nx.cycle_graph(9, create_using=nx.DiGraph))],
    ],
    ids=["one", "two", "three", "complete", "cycle", "directed cycle"],
)
def test_graphs_that_equal_other_graphs(others):
    for topology in others[1:]:
        assert period(topology) == 1
        np.testing.assert_allclose(topology.matrix(0), others[0].matrix(0), atol=1e-15)


@pytest.mark.parametrize("family", [exponential, ring, complete])
@pytest.mark.parametrize("size", [0, -1, 2.0, "4", True, None])
def test_wrong_sizes_are_refused(family, size):
    with pytest.raises(TopologyError, match=r"the size of a.* must be an integer of at least 1"):
        family(size)


@pytest.mark.parametrize(
    ("size", "peers", "message"),
    [
        (
            2,
            2,
            "peers=2 does not fit an exponential graph of 2 ranks, where a rank has only 1 other: pass peers=1 or less",
        ),
        (4, 5, "a rank has only 3 others: pass peers=3 or less"),
        (4, 0, "the number of peers of an exponential graph must be an integer of at least 1, not 0"),
        (4, 1.5, "must be an integer of at least 1, not 1.5"),
    ],
)
def test_too_many_peers_are_refused(size, peers, message):
    with pytest.raises(TopologyError, match=message):
        exponential(size, peers)


@pytest.mark.parametrize("topology", [exponential(4), from_networkx(nx.cycle_graph(4))])
@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_outside_the_topology_is_refused(topology, rank):
    with pytest.raises(TopologyError, match=f"rank {rank} asked for its turn in a topology of 4 ranks, 0 to 3"):
        topology.turn(rank, 0)


def test_descriptions_distinguish_schedules():
    different = [
        exponential(8),
        exponential(8, peers=2),
        exponential(16),
        ring(8),
        ring(8, directed=True),
        complete(8),
        from_networkx(nx.cycle_graph(8)),
        from_networkx(nx.path_graph(8)),
        from_networkx([nx.path_graph(8), nx.cycle_graph(8)]),
        from_networkx([nx.cycle_graph(8), nx.path_graph(8)]),
    ]
    assert len({topology.describe() for topology in different}) == len(different)
    assert exponential(8).describe() == exponential(8).describe()


def test_a_large_description_names_the_turns_it_covers():
    graphs = [nx.cycle_graph(20_000), nx.cycle_graph(20_000, create_using=nx.DiGraph)]
    assert "one turn in" not in from_networkx(nx.cycle_graph(100)).describe()
    assert "of one turn in 3" in from_networkx(graphs).describe()
    assert from_networkx(graphs).describe() != from_networkx(graphs[::-1]).describe()


def test_large_graphs_are_cheap():
    start = time.process_time()
    topology = exponential(100_000)
    topology.describe()
    assert topology.doubly_stochastic(16)
    assert time.process_time() - start < 3
    start = time.process_time()
    for round in range(10_000):
        topology.turn(99_999, round)
    assert (time.process_time() - start) / 10_000 < 50e-6
