"""Graphs that change from round to round: their laws at any size, and figures of the literature."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies.catalogue import CATALOGUE
from topologies.custom.networkx_graphs import from_networkx
from topologies.errors import TopologyError
from topologies.families.alternating_exponential import alternating_exponential
from topologies.families.base_graph import BaseGraph, base_graph
from topologies.families.bipartite_exponential import BipartiteExponential, bipartite_exponential
from topologies.families.complete import complete
from topologies.families.equidyn import UndirectedEquiDyn, equidyn, walk_partner
from topologies.families.exponential import exponential
from topologies.families.linear import Linear, linear
from topologies.families.matcha import Matcha, matcha
from topologies.families.one_peer_hypercube import one_peer_hypercube
from topologies.families.random_pairs import RandomPairs, random_pairs
from topologies.families.random_peer import RandomPeer, random_peer
from topologies.families.ring import ring
from topologies.families.sgp_graph import HOPS, sgp_graph
from topologies.kinds.pairing import Pairing
from topologies.topology import Topology

PERIODIC: dict[str, Callable[[int], Topology]] = {
    "alternating_exponential": alternating_exponential,
    "bipartite_exponential": bipartite_exponential,
    "linear": linear,
    "one_peer_hypercube": lambda size: one_peer_hypercube(1 << size.bit_length() - 1),
    "sgp_graph": sgp_graph,
    "sgp_graph of linear hops": lambda size: sgp_graph(
        size, "DynamicDirectedLinearGraph", min(3, 2 * (size // 2) or 1)
    ),
    **{f"base {peers}": lambda size, peers=peers: base_graph(size, peers) for peers in (1, 2, 3, 4, 7)},
}
APERIODIC: dict[str, Callable[[int, int], Topology]] = {
    "equidyn": lambda size, seed: equidyn(size, seed=seed),
    "equidyn undirected": lambda size, seed: equidyn(size, directed=False, eta=1, seed=seed),
    "random_pairs": random_pairs,
    "random_peer": lambda size, seed: random_peer(size, seed=seed),
    "random_peer any": lambda size, seed: random_peer(size, hops="any", seed=seed),
    "matcha": lambda size, seed: matcha(size, seed=seed),
    "matcha of all": lambda size, seed: matcha(size, complete(size), budget=0.3, seed=seed),
}


@st.composite
def varying(draw: st.DrawFn) -> Topology:
    size = draw(st.integers(1, 40))
    name = draw(st.sampled_from([*PERIODIC, *APERIODIC]))
    return PERIODIC[name](size) if name in PERIODIC else APERIODIC[name](size, draw(st.integers(0, 2**40)))


def window(topology: Topology) -> int:
    return topology.period or 64


def product(topology: Topology, rounds: int | None = None) -> np.ndarray:
    found = np.eye(topology.size)
    for round in range(rounds or window(topology)):
        found = topology.matrix(round) @ found
    return found


def residual(topology: Topology, rounds: int | None = None) -> float:
    return float(np.linalg.norm(product(topology, rounds) - 1 / topology.size, 2))


# Laws


@given(varying(), st.integers(0, 1000))
def test_rows_sum_to_one_unless_ranks_choose_independently(topology, round):
    if isinstance(topology, RandomPeer) and topology.size > 2:
        assert sum(not topology.doubly_stochastic(round) for round in range(16)) > 3
        return
    assert topology.doubly_stochastic(round)
    np.testing.assert_allclose(topology.matrix(round).sum(axis=1), 1, rtol=0, atol=1e-12)


@given(varying(), st.integers(0, 2**40))
def test_partners_are_partners_of_each_other(topology, round):
    if not isinstance(topology, Pairing):
        return
    partners = topology.partner(np.arange(topology.size), round)
    assert partners[partners].tolist() == list(range(topology.size))
    assert [topology.partner(rank, round) for rank in range(topology.size)] == partners.tolist()


@pytest.mark.parametrize("make", APERIODIC.values(), ids=APERIODIC)
def test_the_text_of_aperiodic_schedules_names_the_seed(make):
    assert make(9, 3).period is None
    assert make(1, 3).period == 1
    assert "seed=3" in repr(make(9, 3))
    assert repr(make(9, 3)) != repr(make(9, 4))
    assert make(9, 3).describe() != make(9, 4).describe()


def test_descriptions_distinguish_options_with_equal_first_rounds():
    different = [
        equidyn(8),
        equidyn(8, directed=False),
        equidyn(8, eta=0.5 + 1e-15),
        random_peer(3),
        random_peer(3, hops="any"),
        matcha(8),
        matcha(8, budget=0.5 + 1e-15),
        matcha(8, exponential(8, peers=7)),
        matcha(8, from_networkx(nx.path_graph(8))),
        base_graph(4),
        base_graph(4, peers=2),
    ]
    assert len({repr(topology) for topology in different}) == len(different)


# Exact averages, and what other schedules leave


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64])
def test_powers_of_two(size):
    bits = size.bit_length() - 1
    assert one_peer_hypercube(size).period == max(1, bits)
    assert residual(one_peer_hypercube(size)) == 0
    assert base_graph(size).period == max(1, bits)
    assert residual(base_graph(size)) < 1e-15
    alternating = alternating_exponential(size)
    assert alternating.period == max(1, 2 * bits - 1)
    assert residual(alternating) < 1e-15
    if size > 2:
        assert residual(alternating, 2 * bits - 2) > 0.1


@pytest.mark.parametrize(
    ("peers", "lengths"),
    [
        (1, {3: 3, 5: 5, 6: 4, 7: 5, 9: 7, 10: 6, 12: 5, 15: 7, 17: 9, 24: 6, 25: 9, 31: 9, 33: 11}),
        (2, {3: 1, 5: 3, 6: 2, 7: 4, 9: 2, 12: 3, 17: 5, 25: 6, 33: 6, 64: 6}),
    ],
)
def test_published_lengths_of_base(peers, lengths):
    assert {size: base_graph(size, peers).period for size in lengths} == lengths
    assert all(residual(base_graph(size, peers)) < 1e-14 for size in lengths)


@pytest.mark.parametrize("peers", [1, 2, 3, 4])
def test_base_is_exact_for_every_number_of_ranks(peers):
    for size in range(1, 66):
        topology = base_graph(size, peers)
        for round in range(window(topology)):
            matrix = topology.matrix(round)
            assert (matrix == matrix.T).all()
            assert np.count_nonzero(matrix, axis=0).max() <= peers + 1
        assert residual(topology) < 1e-14, (size, peers)
        # Fewer rounds are not enough, so every round is needed.
        assert size == 1 or residual(topology, window(topology) - 1) > 1e-3 or window(topology) == 1


@pytest.mark.parametrize(("size", "peers"), [(1000, 1), (1000, 9), (65_537, 3), (100_000, 1), (99_991, 2)])
def test_base_is_exact_on_many_ranks(size, peers):
    topology = BaseGraph(size, peers)
    values = np.random.default_rng(0).normal(size=size)
    mixed = values
    for round in range(window(topology)):
        mixed = topology.mix(mixed, round)
    assert abs(mixed - values.mean()).max() < 1e-12


def test_base_graphs_that_equal_other_graphs():
    for size, peers in [(7, 6), (5, 9), (2, 3)]:
        assert base_graph(size, peers).period == 1
        np.testing.assert_allclose(base_graph(size, peers).matrix(0), complete(size).matrix(0), atol=1e-16)
    for round in range(4):
        np.testing.assert_array_equal(base_graph(16).matrix(round), one_peer_hypercube(16).matrix(round))


@pytest.mark.parametrize(
    ("topology", "hops"),
    [
        (alternating_exponential(9), [1, 8, 2, 7, 4, 5]),
        (alternating_exponential(6), [1, 5, 2, 4]),
        (linear(7), [1, 3, 5]),
        (linear(8), [1, 3, 5, 7]),
        (linear(2), [1]),
    ],
)
def test_hops_of_directed_schedules(topology, hops):
    assert [list(topology.turn(0, round).sends) for round in range(window(topology))] == [[hop] for hop in hops]


# The hops of one period as fairscale 0.4.13's classes of these names give them, run for each rank.
DIRECTED, NPEER = "DynamicDirectedExponentialGraph", "NPeerDynamicDirectedExponentialGraph"
BIPARTITE, LINEAR, BIPARTITE_LINEAR = (
    "DynamicBipartiteExponentialGraph",
    "DynamicDirectedLinearGraph",
    "DynamicBipartiteLinearGraph",
)


@pytest.mark.parametrize(
    ("kind", "size", "peers", "hops"),
    [
        (DIRECTED, 2, 1, [[1], [1]]),
        (DIRECTED, 3, 1, [[1], [2], [2], [1]]),
        (DIRECTED, 8, 1, [[1], [7], [2], [6], [4], [4]]),
        (DIRECTED, 12, 1, [[1], [11], [2], [10], [4], [8], [8], [4]]),
        (DIRECTED, 8, 2, [[1, 7], [2, 6], [4, 4]]),
        (DIRECTED, 5, 3, [[1, 4, 2], [3, 4, 1]]),
        (DIRECTED, 6, 4, [[1, 5, 2, 4], [4, 2, 1, 5], [2, 4, 4, 2]]),
        (NPEER, 10, 1, [[1], [2], [4], [8]]),
        (NPEER, 6, 2, [[1, 2], [3, 0]]),
        (NPEER, 10, 2, [[1, 2], [3, 6], [9, 8]]),
        (NPEER, 10, 3, [[1, 2, 3], [4, 8, 2]]),
        (BIPARTITE, 4, 1, [[1], [3], [3], [1]]),
        (BIPARTITE, 8, 1, [[1], [7], [3], [5], [5], [3]]),
        (BIPARTITE, 12, 1, [[1], [11], [3], [9], [5], [7], [9], [3]]),
        (BIPARTITE, 16, 1, [[1], [15], [3], [13], [5], [11], [9], [7]]),
        (BIPARTITE, 6, 2, [[1, 5], [3, 3], [5, 1]]),
        (BIPARTITE, 6, 4, [[1, 5, 3, 3], [5, 1, 1, 5], [3, 3, 5, 1]]),
        (LINEAR, 8, 1, [[1], [7], [3], [5], [5], [3], [7], [1]]),
        (LINEAR, 5, 3, [[1, 4, 3], [2, 1, 4], [3, 2, 1], [4, 3, 2]]),
        (LINEAR, 9, 2, [[1, 8], [3, 6], [5, 4], [7, 2]]),
        (BIPARTITE_LINEAR, 10, 1, [[1], [9], [3], [7], [5], [5], [7], [3], [9], [1]]),
        ("RingGraph", 8, 1, [[1]]),
        ("RingGraph", 9, 2, [[1, 8]]),
    ],
)
def test_sgp_graphs_send_over_the_published_hops(kind, size, peers, hops):
    topology = sgp_graph(size, kind, peers)
    assert topology.period == len(hops)
    for round, row in enumerate(hops):
        expected = np.eye(size) / (1 + peers)
        for rank in range(size):
            for hop in row:
                expected[(rank + hop) % size, rank] += 1 / (1 + peers)
        np.testing.assert_allclose(topology.matrix(round), expected, rtol=0, atol=1e-15)


def test_families_that_equal_sgp_graphs_on_some_sizes():
    for size in (2, 5, 8, 24):
        npeer = sgp_graph(size, NPEER)
        assert all(np.array_equal(npeer.matrix(round), exponential(size).matrix(round)) for round in range(10))
    twice = [list(sgp_graph(8).turn(0, round).sends) for round in range(6)]
    assert twice == [[1], [7], [2], [6], [4], [4]]
    assert [list(alternating_exponential(8).turn(0, round).sends) for round in range(6)] == [*twice[:5], [1]]
    assert sgp_graph(8, peers=2).turn(0, 2).sends == {4: 2 / 3}
    # Ranks 0 and 1 are partners in one schedule, and send round the ring in the other.
    assert bipartite_exponential(8).turn(1, 0).sends.keys() == {0}
    assert sgp_graph(8, BIPARTITE).turn(1, 0).sends.keys() == {2}


@pytest.mark.parametrize("kind", HOPS)
def test_an_sgp_graph_of_one_rank_keeps_all(kind):
    assert sgp_graph(1, kind, peers=3).turn(0, 5) == (1.0, {}, {})


@pytest.mark.parametrize("size", [4, 8, 12, 16, 24, 32])
def test_residuals_of_linear(size):
    assert residual(linear(size)) == pytest.approx(2 ** (-size / 4))


@pytest.mark.parametrize("size", range(2, 41))
def test_bipartite_exponential_joins_even_and_odd(size):
    topology = bipartite_exponential(size)
    hops = [1, *(1 + 2**power for power in range(1, 6) if 2**power < size)]
    assert topology.period == len(hops)
    for round, hop in enumerate(hops):
        resting = 0
        for rank in range(size):
            partner = topology.partner(rank, round)
            resting += partner == rank
            if partner != rank:
                assert (rank + partner) % 2 == 1
                assert (partner - rank) % (size + size % 2) == (hop if rank % 2 == 0 else -hop % (size + size % 2))
        assert resting == size % 2


def test_residuals_of_bipartite_exponential():
    assert residual(bipartite_exponential(16)) == pytest.approx(0.604, abs=0.001)


def test_bipartite_sgp_graphs_need_an_even_number_of_ranks():
    with pytest.raises(TopologyError, match=r"of 7 ranks does not exist, .*: start 6 or 8 ranks, or take a directed"):
        sgp_graph(7, BIPARTITE_LINEAR)


@pytest.mark.parametrize(("size", "near"), [(3, "2 or 4"), (24, "16 or 32"), (33, "32 or 64")])
def test_one_peer_hypercube_needs_a_power_of_two(size, near):
    with pytest.raises(
        TopologyError, match=rf"{size} is no power of two: start {near} ranks, or take base_graph\({size}\)"
    ):
        one_peer_hypercube(size)


# EquiDyn


def test_the_walk_of_equidyn_is_the_greedy_one():
    for size in range(2, 41):
        ranks = np.arange(size)
        for hop, start in itertools.product(range(1, size), range(0, size, 1 if size < 14 else 5)):
            expected = [*range(size)]
            free = [True] * size
            for step in range(size):
                i, j = (start + step) % size, (start + step + hop) % size
                if free[i] and free[j]:
                    expected[i], expected[j] = j, i
                    free[i] = free[j] = False
            assert walk_partner(ranks, size, hop, start).tolist() == expected, (size, hop, start)


@pytest.mark.parametrize("directed", [True, False])
@pytest.mark.parametrize(("size", "eta"), [(5, 0.5), (8, 1), (12, 0.25)])
def test_shares_of_equidyn(directed, size, eta):
    topology = equidyn(size, directed, eta, seed=2)
    # (1 - η) I + η W(a),    W(a) has 1/n and (n - 1)/n
    turns = [topology.turn(rank, round) for round in range(64) for rank in range(size)]
    assert {share for turn in turns for share in turn.sends.values()} == {eta * (size - 1) / size}
    kept = {turn.keep for turn in turns}
    assert min(kept) == pytest.approx(1 - eta + eta / size)
    assert kept - {min(kept)} <= (set() if directed else {1.0})


def test_equidyn_takes_every_hop():
    topology = equidyn(17, seed=4)
    taken = [next(iter(topology.turn(0, round).sends)) for round in range(3200)]
    counts = np.bincount(taken, minlength=17)[1:]
    assert counts.sum() == 3200
    assert abs(counts - 200).max() < 60


@pytest.mark.parametrize("directed", [True, False])
def test_a_round_of_equidyn_does_not_depend_on_the_number_of_ranks(directed):
    for size in (16, 200):
        topology = equidyn(size, directed, seed=1)
        values = np.random.default_rng(0).normal(size=size)
        values -= values.mean()
        left = [float((topology.mix(values, round) ** 2).sum()) for round in range(300)]
        assert 0.4 < np.mean(left) / (values**2).sum() < 0.6


# Random pairs and random peers


@pytest.mark.parametrize(("size", "factor"), [(8, 6 / 14), (24, 22 / 46), (9, 0.5), (25, 0.5)])
def test_random_pairs_halve_the_squared_disagreement(size, factor):
    topology = random_pairs(size, seed=1)
    values = np.random.default_rng(0).normal(size=size)
    values -= values.mean()
    left = [float((topology.mix(values, round) ** 2).sum()) for round in range(600)]
    assert np.mean(left) / (values**2).sum() == pytest.approx(factor, abs=0.03)


@pytest.mark.parametrize("size", [2, 6, 7, 12])
def test_random_pairs_leave_at_most_one_rank_alone(size):
    topology = random_pairs(size)
    for round in range(50):
        assert len(topology.edges(round).source) == size - size % 2


def test_rounds_of_random_pairs_are_independent():
    size, rounds = 10, 1500
    topology = random_pairs(size)
    partners = np.array([topology.partner(np.arange(size), round) for round in range(rounds)])
    again = (partners[1:] == partners[:-1]).mean()
    assert again == pytest.approx(1 / (size - 1), abs=0.01)
    for rank in range(size):
        assert np.bincount(partners[:, rank], minlength=size).max() < 1.4 * rounds / (size - 1)


@pytest.mark.parametrize(("hops", "expected", "published"), [("exponential", 0.43, 0.442), ("any", 0.205, 0.210)])
def test_residuals_of_random_peers_after_five_rounds(hops, expected, published):
    squares = [np.linalg.svd(product(RandomPeer(32, hops, seed), 5), compute_uv=False)[1] ** 2 for seed in range(150)]
    assert np.mean(squares) == pytest.approx(expected, abs=0.02)
    assert np.mean(squares) == pytest.approx(published, rel=0.07)


@pytest.mark.parametrize("size", [2, 8, 33, 34, 1000])
def test_random_peers_choose_independently_among_all_hops(size):
    for hops in ("exponential", "any"):
        topology = random_peer(size, hops=hops, seed=3)
        found = set()
        for round in range(400 if size < 1000 else 64):
            edges = topology.edges(round)
            found.update(((edges.target - edges.source) % size).tolist())
        if hops == "exponential":
            assert found == {2**power for power in range(10) if 2**power < size}
        else:
            assert found >= set(range(1, size)) if size < 1000 else len(found) > 800
    if size > 2:
        assert len({len(topology.turn(rank, 0).receives) for rank in range(size)}) > 1


# MATCHA


@given(st.integers(2, 14), st.floats(0.2, 1), st.integers(0, 99))
def test_matchings_have_no_rank_in_common_and_hold_every_edge(size, density, seed):
    graph = nx.gnp_random_graph(size, density, seed=seed)
    nx.add_path(graph, range(size))
    topology = matcha(size, from_networkx(graph), seed=seed)
    degree = max(dict(graph.degree).values())
    assert topology.matchings <= 2 * degree - 1
    matchings: dict[int, list[int]] = {}
    edges = set()
    for rank, links in enumerate(topology._links):
        for matching, peer in links.items():
            assert topology._links[peer][matching] == rank
            matchings.setdefault(matching, []).append(rank)
            edges.add(frozenset((rank, peer)))
    assert all(len(set(ranks)) == len(ranks) for ranks in matchings.values())
    assert edges == {frozenset(edge) for edge in graph.edges}


def test_matcha_with_all_matchings_is_its_base():
    graph = nx.star_graph(6)
    metropolis = from_networkx(graph).matrix(0)
    for round in range(3):
        np.testing.assert_allclose(matcha(7, from_networkx(graph), budget=1).matrix(round), metropolis, atol=1e-15)


@pytest.mark.parametrize("budget", [0.2, 0.5, 0.9])
def test_matcha_sends_its_budget(budget):
    size, rounds = 12, 1000
    base = complete(size)
    topology = matcha(size, base, budget=budget, seed=1)
    sent = sum(len(topology.edges(round).source) for round in range(rounds))
    assert sent / rounds / len(base.edges(0).source) == pytest.approx(budget, abs=0.02)


def test_matchings_are_active_independently():
    topology = matcha(12, seed=2)
    assert topology.matchings == 2
    states = np.array(
        [[len(topology.turn(0, round).sends), len(topology.turn(1, round).sends)] for round in range(4000)]
    )
    # Two matchings, each active in half of the rounds: none, one or both at a rank.
    assert (np.bincount(states[:, 0], minlength=3) / 4000).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "torus"}, "the base of a MATCHA schedule is a topology"),
        ({"base": ring(5)}, r"has 5 ranks where 4 are asked for: make it of 4 ranks"),
        ({"base": exponential(4)}, "changes from round to round: give one graph for all rounds"),
        ({"base": ring(4, directed=True)}, "has the edge 0 -> 1 and not 1 -> 0"),
        ({"budget": 0}, "the budget of a MATCHA schedule must be a number above 0 and at most 1, not 0"),
        ({"budget": 1e-12}, "activates so few of the 2 matchings that 64 rounds do not connect all ranks: raise it"),
        ({"budget": "half"}, "not 'half'"),
        ({"seed": -1}, "the seed of a MATCHA schedule must be an integer of at least 0, not -1"),
    ],
)
def test_wrong_options_of_matcha_are_refused(options, message):
    with pytest.raises(TopologyError, match=message):
        matcha(4, **options)


# Options, and cost


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("base_graph", {"peers": 0}, "the number of peers of a base graph must be an integer of at least 1, not 0"),
        ("equidyn", {"eta": 0}, "eta of an EquiDyn schedule must be a number above 0 and at most 1, not 0"),
        ("equidyn", {"eta": 1.5}, "at most 1, not 1.5"),
        ("equidyn", {"seed": 1.5}, "an integer of at least 0, not 1.5"),
        ("random_pairs", {"seed": None}, "an integer of at least 0, not None"),
        ("random_peer", {"hops": "some"}, "are 'exponential' or 'any', not 'some'"),
        ("random_peer", {"hops": ["any"]}, r"not \['any'\]"),
        ("sgp_graph", {"kind": "ring"}, "kind of an SGP graph must be one of DynamicDirected.*, not 'ring'"),
        ("sgp_graph", {"kind": []}, r"not \[\]"),
        ("sgp_graph", {"peers": 7}, "peers=7 does not fit a DynamicDirectedExponentialGraph of 8 ranks, .* has 6 hops"),
        ("sgp_graph", {"kind": "RingGraph", "peers": 3}, "whose list has 2 hops: pass peers=2 or less"),
        ("random_peer", {"seed": True}, "an integer of at least 0, not True"),
    ],
)
def test_wrong_options_of_families_are_refused(family, options, message):
    with pytest.raises(TopologyError, match=message):
        CATALOGUE[family](8, **options)


NAMES = [
    "alternating_exponential",
    "base_graph",
    "bipartite_exponential",
    "equidyn",
    "linear",
    "matcha",
    "one_peer_hypercube",
    "random_pairs",
    "random_peer",
    "sgp_graph",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, -1, 2.0, "4", True, None])
def test_wrong_sizes_are_refused(name, size):
    with pytest.raises(TopologyError, match=r"the size of .* must be an integer of at least 1"):
        CATALOGUE[name](size)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_outside_the_topology_is_refused(name):
    with pytest.raises(TopologyError, match="rank 4 asked for its turn in a topology of 4 ranks, 0 to 3"):
        CATALOGUE[name](4).turn(4, 0)


MANY: dict[str, Callable[[int], Any]] = {
    "alternating_exponential": alternating_exponential,
    "base_graph": lambda size: BaseGraph(size, 1),
    "base of 3 peers": lambda size: BaseGraph(size, 3),
    "bipartite_exponential": BipartiteExponential,
    "equidyn": equidyn,
    "equidyn undirected": lambda size: UndirectedEquiDyn(size, 0.5, 0),
    "linear": Linear,
    "matcha": lambda size: Matcha(ring(size), 0.5, 0),
    "random_pairs": lambda size: RandomPairs(size, 0),
    "random_peer": lambda size: RandomPeer(size, "exponential", 0),
    "random_peer any": lambda size: RandomPeer(size, "any", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_many_ranks(make):
    size = 100_000
    topology = make(size)
    values = np.random.default_rng(0).normal(size=size)
    start = time.process_time()
    for round in range(10):
        values = topology.mix(values, round)
    assert time.process_time() - start < 15
    ranks = [rank * 7919 % size for rank in range(200)]
    seconds = []
    for _ in range(10):
        start = time.process_time()
        for round, rank in enumerate(ranks):
            topology.turn(rank, round)
        seconds.append((time.process_time() - start) / len(ranks))
    # The minimum of ten, because other processes can only slow this one down.
    assert min(seconds) < 100e-6
