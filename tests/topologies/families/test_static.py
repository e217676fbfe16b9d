"""Graphs that stay the same in all rounds: their shares, figures of the literature, and refusals."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import Topology, TopologyError
from topologies.arrays.draws import below, draw
from topologies.families.binary_tree import binary_tree
from topologies.families.circulant import circulant
from topologies.families.complete import complete
from topologies.families.equistatic import equistatic
from topologies.families.erdos_renyi import erdos_renyi
from topologies.families.exponential import exponential
from topologies.families.grid import grid, torus
from topologies.families.hypercube import hypercube
from topologies.families.random_regular import random_regular
from topologies.families.ring import ring
from topologies.families.small_world import small_world
from topologies.families.star import star
from topologies.families.static_exponential import static_exponential

Family = Callable[..., Topology]

UNDIRECTED: list[Family] = [star, grid, torus, hypercube, binary_tree, random_regular, erdos_renyi, small_world]
DRAWN: list[Family] = [random_regular, erdos_renyi, small_world, equistatic]
ALL: list[Family] = [*UNDIRECTED, static_exponential, circulant, equistatic]

sizes = st.integers(1, 70)
weights = st.sampled_from(["metropolis", "uniform"])


def graph_of(topology: Topology) -> nx.DiGraph:
    edges = topology.edges(0)
    graph = nx.empty_graph(topology.size, create_using=nx.DiGraph)
    graph.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    return graph


def same_graph(topology: Topology, expected: nx.Graph) -> None:
    """The same edges; nodes of other names are numbered in the order of their names."""
    ranks = {label: rank for rank, label in enumerate(sorted(expected))}
    expected = nx.relabel_nodes(expected, ranks).to_directed()
    # networkx closes an axis of length 1 by a loop.
    expected.remove_edges_from(list(nx.selfloop_edges(expected)))
    assert set(graph_of(topology).edges) == set(expected.edges)
    assert topology.size == len(expected)


def same_matrices(one: Topology, other: Topology) -> None:
    assert one.period == other.period
    for round in range(one.period or 0):
        np.testing.assert_allclose(one.matrix(round), other.matrix(round), rtol=0, atol=1e-15)


def gap(topology: Topology) -> float:
    """1 - |λ₂|."""
    assert topology.period == 1
    return float(1 - np.sort(np.abs(np.linalg.eigvals(topology.matrix(0))))[-2])


@st.composite
def undirected(draw_: st.DrawFn) -> tuple[Topology, str]:
    family, rule = draw_(st.sampled_from(UNDIRECTED)), draw_(weights)
    size = 2 ** draw_(st.integers(0, 6)) if family is hypercube else draw_(sizes)
    seeded = {"seed": draw_(st.integers(0, 2**70))} if family in DRAWN else {}
    return family(size, weights=rule, **seeded), rule


@given(undirected())
def test_shares_follow_from_degrees(case):
    topology, rule = case
    graph = graph_of(topology)
    matrix = topology.matrix(0)
    assert all((v, u) in graph.edges for u, v in graph.edges)
    for u, v in graph.edges:
        d_u, d_v = graph.out_degree[u], graph.out_degree[v]
        assert matrix[v, u] == 1 / (1 + (max(d_u, d_v) if rule == "metropolis" else d_u))
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-14)
    regular = len({degree for _, degree in graph.out_degree}) == 1
    assert topology.doubly_stochastic(0) == (rule == "metropolis" or regular)
    assert nx.is_strongly_connected(graph)


@given(undirected(), st.integers(0, 69))
def test_a_turn_is_a_column_and_a_row_of_the_matrix(case, rank):
    topology, _ = case
    rank %= topology.size
    matrix = topology.matrix(0)
    keep, sends, receives = topology.turn(rank, 5)
    assert keep == matrix[rank, rank]
    assert sends == {peer: matrix[peer, rank] for peer in np.flatnonzero(matrix[:, rank]).tolist() if peer != rank}
    assert receives == {peer: matrix[rank, peer] for peer in np.flatnonzero(matrix[rank]).tolist() if peer != rank}


@pytest.mark.parametrize("family", ALL)
def test_a_single_rank_keeps_all(family):
    topology = family(1)
    assert topology.period == 1
    assert topology.turn(0, 3) == (1.0, {}, {})


@pytest.mark.parametrize("family", ALL)
def test_two_ranks_share_evenly(family):
    np.testing.assert_array_equal(family(2).matrix(0), [[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize("size", [1, 2, 3, 8, 21])
def test_star_and_binary_tree(size):
    same_graph(star(size), nx.star_graph(size - 1))
    same_graph(binary_tree(size), nx.full_rary_tree(2, size))
    # The hub keeps 1/n, and every other rank 1 - 1/n.
    assert star(size).edges(0).keep == pytest.approx([1 / size] + [1 - 1 / size] * (size - 1))
    assert star(size, weights="uniform").edges(0).rows()[0] == pytest.approx(1 / size + (size - 1) / 2)


@pytest.mark.parametrize(
    ("size", "shape"), [(1, (1, 1)), (2, (1, 2)), (7, (1, 7)), (12, (3, 4)), (16, (4, 4)), (24, (4, 6)), (30, (5, 6))]
)
def test_the_most_square_shape(size, shape):
    same_graph(grid(size), nx.grid_2d_graph(*shape))
    same_graph(torus(size), nx.grid_2d_graph(*shape, periodic=True))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_boxes_of_any_number_of_axes(shape):
    size = math.prod(shape)
    # networkx names its axes in reverse order, and nodes of a single axis by plain numbers.
    same_graph(grid(size, shape), nx.grid_graph(shape[::-1]))
    same_graph(torus(size, shape), nx.grid_graph(shape[::-1], periodic=True))


@given(sizes)
def test_a_torus_of_one_axis_is_a_ring(size):
    same_matrices(torus(size, [size]), ring(size))
    same_matrices(torus(size, (1, size, 1)), ring(size))
    same_graph(grid(size, [size]), nx.path_graph(size))


@pytest.mark.parametrize("dimensions", range(1, 7))
def test_hypercubes(dimensions):
    cube = hypercube(2**dimensions)
    same_graph(cube, nx.hypercube_graph(dimensions))
    same_matrices(cube, torus(2**dimensions, (2,) * dimensions))


@given(sizes)
def test_circulants_that_equal_named_families(size):
    same_matrices(circulant(size), ring(size))
    same_matrices(circulant(size, [1, -1]), ring(size))
    same_matrices(circulant(size, [1 + size]), ring(size, directed=True))
    same_matrices(circulant(size, range(size)), complete(size))
    powers = [2**i for i in range(max(1, math.ceil(math.log2(size))))]
    same_matrices(circulant(size, powers), static_exponential(size))
    same_matrices(circulant(size, powers, one_by_one=True), exponential(size))
    same_graph(circulant(size, [1, -1, 2, -2]), nx.circulant_graph(size, [1, 2]) if size > 2 else nx.path_graph(size))


def test_the_complete_graph_one_hop_at_a_time():
    cycle = circulant(6, range(1, 6), one_by_one=True)
    assert cycle.period == 5
    assert [cycle.turn(4, round) for round in (0, 3)] == [(0.5, {5: 0.5}, {3: 0.5}), (0.5, {2: 0.5}, {0: 0.5})]


def test_shares_given_for_hops():
    assert circulant(5, [1, -1], weights=[0.5, 0.125]).turn(0, 0) == (0.375, {1: 0.5, 4: 0.125}, {4: 0.5, 1: 0.125})
    # On two ranks both hops are one edge, and on one rank both stay.
    assert circulant(2, [1, -1], weights=[0.5, 0.125]).turn(0, 0) == (0.375, {1: 0.625}, {1: 0.625})
    assert circulant(1, [1, -1], weights=[0.5, 0.125]).turn(0, 0) == (1, {}, {})
    # With one_by_one every hop has its own round.
    rounds = circulant(5, [1, -1], one_by_one=True, weights=[0.75, 0.5])
    assert [rounds.turn(0, round).keep for round in (0, 1, 2)] == [0.25, 0.5, 0.25]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (ring, {8: 0.195, 16: 0.0507, 32: 0.0128, 64: 0.0032}),
        (star, {8: 0.125, 16: 0.0625, 32: 0.0312, 64: 0.0156}),
        (grid, {8: 0.146, 16: 0.131, 32: 0.0342, 64: 0.0323}),
        (torus, {16: 0.4, 32: 0.117, 64: 0.117}),
        (hypercube, {8: 0.5, 16: 0.4, 32: 0.333, 64: 0.286}),
        (static_exponential, {8: 0.5, 16: 0.4, 32: 0.333, 64: 0.286}),
        (complete, {8: 1, 16: 1, 32: 1, 64: 1}),
    ],
)
def test_published_spectral_gaps(family, expected):
    for size, published in expected.items():
        # To the digits that are published: three, or four where the first is a 0.
        assert gap(family(size)) == pytest.approx(published, abs=0.5e-3 if published >= 0.1 else 0.51e-4)


@pytest.mark.parametrize("size", range(2, 71))
def test_spectral_gap_of_the_static_exponential_graph(size):
    formula = 2 / (1 + math.ceil(math.log2(size)))
    if size % 2 == 0:
        assert gap(static_exponential(size)) == pytest.approx(formula, abs=1e-12)
    else:
        assert gap(static_exponential(size)) > formula + 1e-3


def test_random_regular_graphs_agree_fast_at_any_size():
    for size in (100, 400):
        assert gap(random_regular(size)) > 0.9 * (1 - (1 + 2 * math.sqrt(3)) / 5)
        assert gap(random_regular(size)) > 50 * gap(ring(size))


@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 2**64))
def test_random_regular_graphs_are_regular(size, degree, seed):
    degree = min(degree, size - 1)
    if size * degree % 2 or (degree == 1 and size > 2):
        with pytest.raises(TopologyError):
            random_regular(size, degree, seed)
    else:
        graph = graph_of(random_regular(size, degree, seed))
        assert {d for _, d in graph.out_degree} == {degree}
        assert nx.is_strongly_connected(graph)


def test_random_regular_graphs_of_degree_two_are_rings_in_any_order():
    rings = {frozenset(graph_of(random_regular(7, 2, seed)).edges) for seed in range(200)}
    assert len(rings) > 100  # of 7!/14 = 360


def test_erdos_renyi_graphs_have_the_edges_that_chance_gives():
    size, p = 200, 0.1
    edges = [graph_of(erdos_renyi(size, p, seed)).number_of_edges() / 2 for seed in range(20)]
    mean, spread = p * size * (size - 1) / 2, math.sqrt(p * (1 - p) * size * (size - 1) / 2)
    assert np.mean(edges) == pytest.approx(mean, abs=4 * spread / math.sqrt(20))
    same_matrices(erdos_renyi(9, probability=1), complete(9))


@given(sizes, st.integers(0, 1000))
def test_small_worlds_that_are_not_rewired_are_circulant(size, seed):
    same_matrices(small_world(size, rewire=0, seed=seed), circulant(size, [1, 2, -1, -2]))


def test_small_worlds_are_small():
    size = 400
    world = nx.Graph(graph_of(small_world(size)))
    assert world.number_of_edges() == 2 * size
    lattice = nx.Graph(graph_of(small_world(size, rewire=0)))
    stayed = len(set(map(frozenset, world.edges)) & set(map(frozenset, lattice.edges)))
    assert stayed / (2 * size) == pytest.approx(0.9, abs=0.05)
    assert nx.average_shortest_path_length(world) < 0.3 * nx.average_shortest_path_length(lattice)


@given(st.integers(2, 40), st.one_of(st.none(), st.integers(1, 9)), st.booleans(), st.integers(0, 2**64))
def test_equistatic_by_its_definition(size, hops, directed, seed):
    count = hops or math.ceil(math.log2(size))
    tries = ([1 + below(size - 1, draw(seed, attempt, m)) for m in range(count)] for attempt in range(10**6))
    drawn = next(a for a in tries if math.gcd(size, *a) == 1)
    # W = 1/M Σ_m (I/n + (n - 1)/n S^{a_m})
    shifts = [np.roll(np.eye(size), a, axis=0) for a in drawn]
    w = np.mean([np.eye(size) / size + (size - 1) / size * shift for shift in shifts], axis=0)
    topology = equistatic(size, hops, directed, seed)
    np.testing.assert_allclose(topology.matrix(0), w if directed else (w + w.T) / 2, rtol=0, atol=1e-15)


def test_equistatic_hops_are_uniform():
    drawn = Counter(next(iter(equistatic(11, hops=1, seed=seed).turn(0, 0).sends)) for seed in range(5000))
    assert set(drawn) == set(range(1, 11))
    assert max(drawn.values()) < 500 + 5 * math.sqrt(450)
    assert min(drawn.values()) > 500 - 5 * math.sqrt(450)


def test_equistatic_agrees_as_fast_on_many_ranks():
    # The rate depends on the number of hops only, which is 16 at every size.
    gaps = [np.mean([gap(equistatic(size, 16, seed=seed)) for seed in range(5)]) for size in (50, 100, 200)]
    assert min(gaps) > 0.3
    assert gap(static_exponential(200)) < 0.23


@pytest.mark.parametrize("family", DRAWN)
def test_draws_depend_on_the_seed_only(family):
    drawn = [family(50, seed=seed) for seed in range(20)]
    again = [family(50, seed=seed) for seed in range(20)]
    assert [one.describe() for one in drawn] == [other.describe() for other in again]
    assert len({topology.describe() for topology in drawn}) == 20
    assert family(50).describe() == drawn[0].describe()
    assert family(50, seed=2**64 + 1).describe() != family(50, seed=1).describe()


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("size", [0, -1, 2.0, "4", True, None])
def test_wrong_sizes_are_refused(family, size):
    with pytest.raises(TopologyError, match=r"^the size of a.* must be an integer of at least 1, not "):
        family(size)


@pytest.mark.parametrize("family", UNDIRECTED)
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("rule", ["equal", "", None, 0.5, ["metropolis"]])
def test_wrong_weights_are_refused(family, size, rule):
    with pytest.raises(TopologyError) as caught:
        family(size, weights=rule)
    assert str(caught.value) == f"there are no weights {rule!r}: pass weights='metropolis' or weights='uniform'"


@pytest.mark.parametrize("family", DRAWN)
@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
def test_wrong_seeds_are_refused(family, seed):
    with pytest.raises(TopologyError, match=r"^the seed of an? .* must be an integer of at least 0, not "):
        family(4, seed=seed)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: grid(16, (3, 5)),
            "a grid of shape (3, 5) has 15 ranks, not 16: pass a shape with product 16, as in shape=(4, 4), or start "
            "15 ranks",
        ),
        (
            lambda: torus(7, [2, 2]),
            "a torus of shape (2, 2) has 4 ranks, not 7: pass a shape with product 7, as in shape=(1, 7), or start "
            "4 ranks",
        ),
        (
            lambda: torus(4, (-2, -2)),
            "the shape of a torus has a length for each axis, each at least 1, not (-2, -2)",
        ),
        (lambda: grid(4, 4), "the shape of a grid must be a sequence of integers, as in [1, 2], not 4"),
        (
            lambda: grid(4, "22"),
            "the shape of a grid must be a sequence of integers, as in [1, 2], on a command line 1,2, not '22'",
        ),
        (
            lambda: hypercube(12),
            "a hypercube has 2^d ranks, and 12 is no power of two: start 8 or 16 ranks, or take "
            "static_exponential(12), which has any number of them",
        ),
        (
            lambda: random_regular(4, 4),
            "degree=4 does not fit a random regular graph of size 4, where a rank has only 3 others: pass degree=3 or "
            "less, or start more ranks",
        ),
        (
            lambda: random_regular(2, 2),
            "degree=2 does not fit a random regular graph of size 2, where a rank has only 1 other: pass degree=1, or "
            "start more ranks",
        ),
        (
            lambda: random_regular(1, 1),
            "degree=1 does not fit a random regular graph of size 1, where a rank has no other: leave the degree out, "
            "or start more ranks",
        ),
        (
            lambda: random_regular(6, 1),
            "degree=1 joins 6 ranks to separate pairs, which would never agree: pass degree=2 or more",
        ),
        (
            lambda: random_regular(7, 3),
            "a random regular graph of 7 ranks with degree=3 would have 10.5 edges: pass degree=2 or degree=4, or "
            "start 6 or 8 ranks",
        ),
        (
            lambda: random_regular(4, 0),
            "the degree of a random regular graph must be an integer of at least 1, not 0",
        ),
        (
            lambda: erdos_renyi(50, probability=0.01),
            "an Erdős-Rényi graph of 50 ranks with probability=0.01 was not connected in any of 100 draws: pass "
            "probability=0.157 or more",
        ),
        (
            lambda: erdos_renyi(4, probability=1.5),
            "the probability of an Erdős-Rényi graph must be a number from 0 to 1, not 1.5",
        ),
        (
            lambda: erdos_renyi(4, probability=math.nan),
            "the probability of an Erdős-Rényi graph must be a number from 0 to 1, not nan",
        ),
        (
            lambda: small_world(8, neighbours=3),
            "neighbours=3 is odd, and half of them stand on each side in a small world: pass neighbours=2 or "
            "neighbours=4",
        ),
        (
            lambda: small_world(8, neighbours=0),
            "the number of neighbours in a small world must be an integer of at least 1, not 0",
        ),
        (
            lambda: small_world(8, rewire="often"),
            "the option rewire of a small world must be a number from 0 to 1, not 'often'",
        ),
        (
            lambda: equistatic(8, hops=0),
            "the number of hops of an EquiStatic graph must be an integer of at least 1, not 0",
        ),
        (
            lambda: circulant(8, [2, -4]),
            "CirculantGraph(size=8, period=1): in its one graph ranks 0, 2, 4 and 6 cannot reach ranks 1, 3, 5 and 7, "
            "so they would never agree: add an edge from the former to the latter",
        ),
        (
            lambda: circulant(6, [2, 4], one_by_one=True),
            "CirculantGraph(size=6, period=2): over the 2 rounds of its period ranks 0, 2 and 4 cannot reach ranks 1, "
            "3 and 5, so they would never agree: add an edge from the former to the latter in one of these rounds",
        ),
        (lambda: circulant(8, []), "a circulant graph has no hops: give at least one, as in hops=[1, -1]"),
        (lambda: circulant(8, 3), "the hops of a circulant graph must be a sequence of integers, as in [1, 2], not 3"),
        (
            lambda: circulant(8, [0.5]),
            "the hops of a circulant graph must be a sequence of integers, as in [1, 2], not [0.5]",
        ),
        (
            lambda: circulant(8, [1, 2], weights=[0.5]),
            "the weights of a circulant graph are a share for each of its 2 hops, not [0.5]",
        ),
        (
            lambda: circulant(8, [1, 2], weights=0.5),
            "the weights of a circulant graph are a share for each of its 2 hops, not 0.5",
        ),
        (
            lambda: circulant(8, [1, 2], weights=[0.5, -0.1]),
            "the weight -0.1 of hop 2 is no share: give a number above 0 and below 1",
        ),
        (
            lambda: circulant(8, [1, 2], weights=[0.5, 0.5]),
            "the weights [0.5, 0.5] of the hops [1, 2] sum to 1, and every rank must keep some: lower them until they "
            "sum to less than 1",
        ),
        (
            lambda: circulant(8, [1, 2], one_by_one=True, weights=[0.5, 1]),
            "the weights [1.0] of the hops [2] sum to 1, and every rank must keep some: lower them until they sum to "
            "less than 1",
        ),
    ],
)
def test_wrong_options_are_refused(make, sentence):
    with pytest.raises(TopologyError) as caught:
        make()
    assert str(caught.value) == sentence


def test_a_small_world_that_never_connects_is_refused(monkeypatch):
    # One in seven of these graphs connects, so a hundred draws would find one.
    monkeypatch.setattr("topologies.arrays.connectivity.TRIES", 1)
    with pytest.raises(TopologyError) as caught:
        [small_world(1000, neighbours=2, rewire=1, seed=seed) for seed in range(20)]
    assert str(caught.value) == (
        "a small world of 1000 ranks with neighbours=2 and rewire=1 was not connected in any of 1 draws: pass "
        "neighbours=4 or more, or a smaller rewire"
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in ALL if family is not erdos_renyi])
def test_a_hundred_thousand_ranks(family):
    size = 2**17 if family is hypercube else 100_000
    start = time.process_time()
    topology = family(size)
    assert topology.doubly_stochastic(0)
    assert time.process_time() - start < 10
    looks = []
    for first in range(size // 2, size // 2 + 20):
        start = time.process_time()
        for round in range(100):
            topology.turn(first + 1000 * round % 50_000 % (size - first), round)
        looks.append((time.process_time() - start) / 100)
    assert min(looks) < 50e-6


def test_erdos_renyi_graphs_of_many_ranks():
    """Fewer ranks than for other families, because networkx makes their million edges one by one."""
    start = time.process_time()
    assert erdos_renyi(30_000).doubly_stochastic(0)
    assert time.process_time() - start < 10


def test_the_hub_of_a_large_star_keeps_its_share():
    """At this size, rounding of shares that are added one by one would break the laws."""
    edges = star(100_000).edges(0)
    assert edges.keep[0] == pytest.approx(1e-5, rel=1e-9)
    assert np.abs(edges.rows() - 1).max() < 1e-14
    assert np.abs(star(100_000, weights="uniform").edges(0).columns() - 1).max() < 1e-14
