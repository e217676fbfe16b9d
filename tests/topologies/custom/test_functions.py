"""Graphs that are functions of the round, and of (rank, round): a callable, and a subclass with one method."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
import random
import threading
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import topologies
from topologies import Topology, TopologyError, Turn, from_networkx, validate
from topologies.custom.functions import from_function

GRAPHS = [nx.path_graph(5), nx.cycle_graph(5, create_using=nx.DiGraph), nx.star_graph(4)]


def cycle(round):
    return nx.cycle_graph(6, create_using=nx.DiGraph) if round % 2 else nx.cycle_graph(6)


def gnp(round, size=8, p=0.4):
    graph = nx.gnp_random_graph(size, p, seed=round)
    nx.add_path(graph, [round % size, (round + 1) % size])
    return graph


def mixed(round):
    kinds = [nx.cycle_graph(4), np.full((4, 4), 0.25), topologies.exponential(4), [[1 / 4] * 4] * 4]
    return kinds[round % 4]


def one_seed(round):
    """The global random generator, seeded for each round, as many scripts do it."""
    random.seed(round)
    ranks = list(range(8))
    for place in range(8):
        time.sleep(0)  # lets other threads in
        other = random.randrange(8)
        ranks[place], ranks[other] = ranks[other], ranks[place]
    graph = nx.Graph(itertools.pairwise(ranks))
    graph.add_nodes_from(range(8))
    return graph


@given(st.integers(0, 300), st.integers(0, 4))
def test_a_round_is_the_graph_that_the_function_returns(round, rank):
    topology = from_function(lambda round: GRAPHS[round % 3], size=5, period=3)
    assert topology.turn(rank, round) == from_networkx(GRAPHS).turn(rank, round)


def test_without_a_period():
    topology = from_function(gnp, size=8)
    assert topology.period is None
    for round in (0, 5, 5, 1_000_000, 3):
        np.testing.assert_array_equal(topology.matrix(round), from_networkx_alone(gnp(round)))


def from_networkx_alone(graph):
    """The matrix of a graph that need not connect."""
    return from_networkx([graph, nx.complete_graph(len(graph))]).matrix(0)


def test_graphs_matrices_and_topologies_in_turn():
    topology = from_function(mixed, size=4)
    assert topology.turn(0, 4).sends == dict.fromkeys((1, 3), 1 / 3)
    assert topology.turn(0, 5).sends == topology.turn(0, 7).sends == dict.fromkeys((1, 2, 3), 0.25)
    # Round 6 of the exponential graph counts, which equals its round 0; then its round 1.
    assert topology.turn(0, 6).sends == topologies.exponential(4).turn(0, 6).sends == {1: 0.5}
    assert topology.turn(0, 6).receives == {3: 0.5}


def test_the_function_is_called_late_and_once_for_a_remembered_round():
    asked = []

    def counted(round):
        asked.append(round)
        return GRAPHS[round % 3]

    topology = from_function(counted, size=5)
    # Every round twice, so that a function with state is found.
    assert len(asked) <= 3 * 64
    asked.clear()
    for _ in range(10):
        for rank in range(5):
            topology.turn(rank, 1000)
            topology.turn(rank, 1001)
    topology.edges(1000)
    topology.doubly_stochastic(1001)
    assert asked == [1000, 1001]
    for round in range(2000, 5000):
        topology.turn(0, round)
    assert len(topology._recent) <= 8

    periodic = from_function(counted, size=5, period=3)
    asked.clear()
    for round in range(100):
        periodic.turn(0, round)
    assert asked == []
    assert from_function(counted, size=5, period=200).turn(1, 401) == from_networkx(GRAPHS[1]).turn(1, 0)
    assert max(asked) < 200


def test_a_remembered_turn_takes_microseconds():
    topology = from_function(lambda round: nx.cycle_graph(10_000), size=10_000, period=1)
    start = time.process_time()
    for rank in range(10_000):
        topology.turn(rank, 7)
    assert (time.process_time() - start) / 10_000 < 50e-6


def test_ranks_that_are_threads_see_the_same_rounds():
    expected = from_function(one_seed, size=8)
    tables = [[expected.turn(rank, round) for round in range(40)] for rank in range(8)]
    found = {}

    def rank_thread(rank):
        topology = from_function(one_seed, size=8)
        found[rank] = [topology.turn(rank, round) for round in range(40)]

    threads = [threading.Thread(target=rank_thread, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [found[rank] for rank in range(8)] == tables


def test_a_function_topology_pickles_if_its_function_does():
    topology = from_function(functools.partial(gnp, p=0.5), size=8)
    topology.turn(0, 70)
    for other in (pickle.loads(pickle.dumps(topology)), copy.deepcopy(topology)):
        assert other.describe() == topology.describe()
        assert other.turn(3, 90) == topology.turn(3, 90)


def test_descriptions_name_the_function():
    assert repr(from_function(cycle, 6, 2)) == f"Function({__name__}.cycle, size=6, period=2)"
    assert "gnp(…, p=0.5)" in repr(from_function(functools.partial(gnp, p=0.5), size=8))
    assert " at 0x" not in repr(from_function(functools.partial(lambda thing, round: cycle(round), object()), size=6))

    class Late:
        def __call__(self, round):
            return cycle(round)

    assert "Late" in repr(from_function(Late(), size=6))
    assert from_function(cycle, 6).describe() != from_function(cycle, 6, 2).describe()


def fails_from(round, result):
    """A function whose graph is wrong from some round on."""
    return lambda asked: result if asked >= round else nx.cycle_graph(4)


def broken(round):
    return [nx.cycle_graph(4)][round]


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (fails_from(2, None), {}, r"the function .* returned a NoneType for round 2: let it return one networkx graph"),
        (fails_from(1, [nx.cycle_graph(4)]), {}, "returned a list for round 1"),
        (fails_from(1, lambda rank: None), {}, "returned a function for round 1"),
        (fails_from(1, iter([])), {}, "returned a .*iterator for round 1"),
        (fails_from(3, nx.cycle_graph(5)), {}, "returned a graph of 5 ranks for round 3, but .* is 4: return the"),
        (fails_from(3, np.eye(5)), {}, "returned a graph of 5 ranks for round 3"),
        (fails_from(3, topologies.ring(5)), {}, "returned a graph of 5 ranks for round 3"),
        (
            fails_from(5, np.eye(4) * 0.98),
            {},
            r"the matrix that the function .* returned for round 5: column 0 sums to 0.98, not to 1",
        ),
        (
            fails_from(5, nx.Graph([(1, 2), (2, 3), (3, 4)])),
            {},
            "the graph that the function .* returned for round 5 has 4 nodes, .* ranks counted from 1",
        ),
        (
            fails_from(5, nx.DiGraph([(0, 1, {"weight": -1})])),
            {},
            "returned for round 5 has weight=-1 on the edge 0 -> 1",
        ),
        (broken, {}, r"the function \S*test_functions.broken raised IndexError for round 1: list index out of"),
        (lambda round: topologies.exponential(4, peers=9), {}, "in round 0: peers=9 does not fit"),
        (lambda round: nx.cycle_graph(4), {"period": 0}, "the period of a topology must be an integer of at least 1"),
        (lambda round: nx.empty_graph(4), {}, "over its first 64 rounds rank 0 cannot reach ranks 1, 2 and 3"),
        (lambda round: nx.empty_graph(4), {"period": 3}, "over the 3 rounds of its period rank 0 cannot reach"),
        (lambda round: nx.Graph([(0, 1), (1, 2)]), {"size": 3, "period": None}, None),
        (
            lambda rank, round: None,
            {},
            "is called with 0: missing a required argument: 'round': it must take the round",
        ),
        (nx.cycle_graph(4), {}, "a Graph is no function of the round: a graph goes to topologies.from_networkx"),
        (np.eye(4), {}, "a ndarray is no function of the round: .* a matrix to topologies.from_matrix"),
    ],
)
def test_wrong_arguments_are_refused(function, options, message):
    if message is None:
        assert from_function(function, **options).size == 3
        return
    with pytest.raises(TopologyError, match=message):
        from_function(function, **{"size": 4, **options})


def test_a_late_fault_names_its_round():
    topology = from_function(fails_from(1000, nx.path_graph(range(1, 5))), size=4)
    assert topology.turn(0, 999).keep == pytest.approx(1 / 3)
    with pytest.raises(TopologyError, match="returned for round 1000 has 4 nodes"):
        topology.turn(0, 1000)


def test_an_impure_function_is_refused():
    generator = random.Random(0)
    counter = itertools.count()
    rounds = iter([nx.cycle_graph(4), nx.path_graph(4)] * 1000)
    for impure in (
        lambda round: nx.gnp_random_graph(8, 0.5, seed=generator.randrange(2**32)),
        lambda round: nx.cycle_graph(8) if next(counter) % 2 else nx.path_graph(8),
    ):
        with pytest.raises(TopologyError, match=r"another graph for round \d+ at a second call: .* seed=round"):
            from_function(impure, size=8)
    with pytest.raises(TopologyError, match="another graph for round 0 at a second call"):
        from_function(lambda round: next(rounds), size=4)


@pytest.mark.parametrize("rank", [-1, 6])
def test_a_rank_outside_the_topology_is_refused(rank):
    with pytest.raises(TopologyError, match=f"rank {rank} asked for its turn in a topology of 6 ranks"):
        from_function(cycle, 6, 2).turn(rank, 0)


class Swing(Topology):
    """One method, as in the documentation of `Topology`."""

    def turn(self, rank, round):
        hop = 1 if round % 2 == 0 else -1
        return Turn(0.5, {(rank + hop) % self.size: 0.5}, {(rank - hop) % self.size: 0.5})


@pytest.mark.parametrize("period", [2, None])
def test_a_subclass_with_a_turn_works_everywhere(period):
    topology = Swing(5, period)
    validate(topology)
    P = np.eye(5) / 2 + np.roll(np.eye(5), 1, axis=0) / 2
    np.testing.assert_array_equal(topology.matrix(0), P)
    np.testing.assert_array_equal(topology.matrix(7), P.T)
    assert topology.edges(0).target.tolist() == [1, 2, 3, 4, 0]
    for values in (np.arange(5.0), np.arange(10.0).reshape(5, 2)):
        np.testing.assert_allclose(topology.mix(values, 0), P @ values)
        np.testing.assert_allclose(topology.mix(values, 1), P.T @ values)
    assert topology.doubly_stochastic(1)
    assert topology.keeps_alike(1)
    assert repr(topology) == f"Swing(size=5, period={period})"
    assert topology.describe() == copy.deepcopy(topology).describe() == pickle.loads(pickle.dumps(topology)).describe()
    of_a_function = from_function(lambda round: topology, size=5)
    assert of_a_function.turn(4, 3) == topology.turn(4, 3)
