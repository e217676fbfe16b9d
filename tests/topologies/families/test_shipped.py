"""The laws of a topology, for every graph that ships at every size from 1 to 40."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from functools import cache

import networkx as nx
import numpy as np
import pytest
import shipped
import spawn
from shipped import FAMILIES, SHIPPED, Shipped

from topologies import Topology, TopologyError
from topologies.catalogue import CATALOGUE

SIZES = (*range(1, 18), 24, 31, 36, 40)
JUDGED = (0, 1, 5, 2**40 + 3)
"""Rounds of a schedule without a period that are looked at."""


@cache
def fitting(graph: Shipped) -> list[tuple[int, Topology]]:
    return [(size, graph.make(size)) for size in SIZES if graph.fits(size)]


every_graph = pytest.mark.parametrize("graph", SHIPPED, ids=str)


def test_the_table_holds_every_family():
    assert {graph.label.partition(",")[0] for graph in SHIPPED} >= set(CATALOGUE)


@every_graph
def test_rounds_are_column_stochastic_and_agree(graph):
    for size, topology in fitting(graph):
        assert topology.size == size
        for round in range(topology.period) if topology.period else JUDGED:
            turns = [topology.turn(rank, round) for rank in range(size)]
            matrix = np.diag([turn.keep for turn in turns])
            for j, turn in enumerate(turns):
                for i, share in turn.sends.items():
                    assert i != j
                    matrix[i, j] = share
                    assert type(i) is int
                    assert type(share) is float
            assert (matrix >= 0).all()
            assert (matrix.diagonal() > 0).all()
            # Σ_i P[i, j] = 1
            np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-12)
            # Receives of i equal the sends of the others.
            for i, turn in enumerate(turns):
                expected = {j: matrix[i, j] for j in range(size) if j != i and matrix[i, j] > 0}
                assert turn.receives == pytest.approx(expected, rel=0, abs=1e-12)
            # The arrays agree, and so does the round one period later.
            np.testing.assert_allclose(topology.edges(round).matrix(), matrix, rtol=0, atol=1e-15)
            assert topology.doubly_stochastic(round) == bool(np.allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12))
            assert topology.keeps_alike(round) == bool(np.ptp(matrix.diagonal()) <= 1e-12)
            if topology.period:
                assert topology.turn(size - 1, round + 3 * topology.period) == turns[-1]


@every_graph
def test_every_rank_reaches_every_other(graph):
    for size, topology in fitting(graph):
        union = nx.DiGraph()
        union.add_nodes_from(range(size))
        for round in range(topology.period or 64):
            edges = topology.edges(round)
            union.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
        assert nx.is_strongly_connected(union)


@every_graph
def test_mass_is_conserved_and_push_sum_reaches_the_mean(graph):
    for size, topology in fitting(graph):
        if size not in (1, 2, 4, 7, 16, 32, 33):
            continue
        values = np.random.default_rng(size).normal(size=(size, 3))
        x, w = values, np.ones(size)
        for round in range(20_000):
            # x <- P x ;  w <- P w
            x, w = topology.mix(x, round), topology.mix(w, round)
            if np.abs(x / w[:, None] - values.mean(axis=0)).max() < 1e-6:
                break
        assert w.sum() == pytest.approx(size, abs=1e-9)
        np.testing.assert_allclose(x.sum(axis=0), values.sum(axis=0), rtol=0, atol=1e-9)
        np.testing.assert_allclose(x / w[:, None], np.tile(values.mean(axis=0), (size, 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", FAMILIES, ids=str)
def test_only_impossible_sizes_are_refused(graph):
    for size in SIZES:
        if not graph.fits(size):
            with pytest.raises(TopologyError, match=r"\w+ \w+ .*[a-z0-9]"):
                graph.make(size)


@every_graph
def test_a_topology_pickles(graph):
    size = next(size for size in (12, 16) if graph.fits(size))
    topology = graph.make(size)
    other = pickle.loads(pickle.dumps(topology))
    assert other.describe() == topology.describe()
    assert other.turn(3, 5) == topology.turn(3, 5)


def test_schedules_are_equal_in_other_processes():
    """So other hosts with the same seed agree: no draw depends on Python's hashes or on a generator's state."""
    code = "import json, shipped; print(json.dumps(shipped.descriptions()))"
    path = os.pathsep.join(map(str, (spawn.SUPPORT, spawn.ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "12345"}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=240
    )
    assert json.loads(printed.stdout) == shipped.descriptions()


@every_graph
def test_a_turn_costs_microseconds_at_any_size(graph):
    """The fastest of several tries, because machines are shared: about the same at 64 and at 1024 ranks."""
    if graph.label.startswith(("complete", "star", "without the hub", "hybrid", "switch")):
        pytest.skip("a rank of this graph has n - 1 peers in some rounds, so a turn grows with n")

    def cost(size: int) -> float:
        topology = graph.make(size)
        looks = []
        for rank in range(0, size, size // 32):
            start = time.process_time()
            for round in range(20):
                topology.turn(rank, round)
            looks.append((time.process_time() - start) / 20)
        return min(looks)

    assert cost(1024) < max(3 * cost(64), 50e-6)


def test_distinct_schedules_have_distinct_descriptions():
    # 37 ranks, because few graphs coincide at a prime.
    said = [graph.make(37).describe() for graph in SHIPPED if graph.fits(37)]
    assert len(set(said)) == len(said)


def test_shares_sum_to_one_to_the_last_digit():
    for graph in SHIPPED:
        for size in (5, 16):
            if graph.fits(size):
                turn = graph.make(size).turn(size // 2, 1)
                assert math.fsum((turn.keep, *turn.sends.values())) == pytest.approx(1, abs=1e-12)
