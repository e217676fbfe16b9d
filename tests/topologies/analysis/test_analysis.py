"""Analysis of topologies: equal to dense numpy and networkx, lawful, and fast at any size."""

from __future__ import annotations

import copy
import json
import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import Topology, TopologyError, Turn, complete, exponential, from_networkx, ring
from topologies.analysis import (
    EXACT,
    connected,
    consensus,
    contraction,
    degrees,
    facts,
    loads,
    product,
    rounds_to,
    spectral_gap,
    window,
)
from topologies.arrays.edges import Edges
from topologies.catalogue import CATALOGUE
from topologies.composition import interleave, switch
from topologies.kinds.table import Table

MANY = 100_000


class Plain(Topology):
    """The turns of another topology only, without symmetry or arrays."""

    def __init__(self, topology: Topology, period: int | None) -> None:
        super().__init__(topology.size, period)
        self.topology = topology

    def turn(self, rank: int, round: int) -> Turn:
        return self.topology.turn(rank, round)


def plain(topology: Topology) -> Plain:
    return Plain(topology, topology.period)


def endless(topology: Topology) -> Plain:
    return Plain(topology, None)


@st.composite
def digraphs(draw: st.DrawFn, largest: int = 9, rounds: int = 4) -> Table:
    """Rounds of random directed edges with random shares, seldom doubly stochastic and not always connected."""
    size, period = draw(st.integers(1, largest)), draw(st.integers(1, rounds))
    dice = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.15, 0.4, 0.8]))
    return Table([_random_round(dice, size, density) for _ in range(period)])


def _random_round(dice: np.random.Generator, size: int, density: float) -> Edges:
    matrix = dice.random((size, size)) * (dice.random((size, size)) < density)
    np.fill_diagonal(matrix, 0.2 + dice.random(size))
    matrix /= matrix.sum(axis=0)
    keep = matrix.diagonal().copy()
    np.fill_diagonal(matrix, 0)
    target, source = np.nonzero(matrix)
    return Edges(keep, source, target, matrix[target, source])


@st.composite
def circulants(draw: st.DrawFn) -> Topology:
    size = draw(st.integers(1, 40))
    family = draw(st.sampled_from(["exponential", "ring", "directed", "complete"]))
    if family == "exponential":
        return exponential(size, peers=draw(st.integers(1, max(1, size - 1))))
    return complete(size) if family == "complete" else ring(size, directed=family == "directed")


def swept(topology: Topology) -> np.ndarray:
    assert topology.period is not None
    result = np.eye(topology.size)
    for round in range(topology.period):
        result = topology.matrix(round) @ result
    return result


def pushed(topology: Topology) -> np.ndarray:
    """D⁻¹ Π - 1 1ᵀ/n."""
    result = swept(topology)
    return result / result.sum(axis=1, keepdims=True) - 1 / topology.size


# spectrum


@pytest.mark.parametrize("degree", [3, 4])
@pytest.mark.parametrize("size", [10, 16, 30])
def test_the_gap_of_a_regular_graph_is_that_of_its_laplacian(degree, size):
    graph = nx.random_regular_graph(degree, size, seed=size)
    # P = I - L/(d + 1)
    moduli = np.sort(np.abs(1 - nx.laplacian_spectrum(graph) / (degree + 1)))
    assert spectral_gap(from_networkx(graph)) == pytest.approx(1 - moduli[-2], abs=1e-12)


@given(digraphs(rounds=1))
def test_the_gap_of_any_graph_is_that_of_its_matrix(topology):
    moduli = np.sort(np.abs(np.linalg.eigvals(topology.matrix(0))))
    expected = 1.0 if topology.size == 1 else 1 - moduli[-2]
    assert spectral_gap(topology) == pytest.approx(expected, abs=1e-9)


@given(digraphs())
def test_product_and_contraction_follow_from_the_matrices(topology):
    np.testing.assert_allclose(product(topology), swept(topology), rtol=0, atol=1e-14)
    assert contraction(topology) == pytest.approx(np.linalg.norm(pushed(topology), 2), abs=1e-12)


@given(circulants())
def test_circulant_graphs_are_judged_by_fourier_as_by_matrix(topology):
    assert contraction(topology) == pytest.approx(contraction(plain(topology)), abs=1e-12)
    if topology.period == 1:
        assert spectral_gap(topology) == pytest.approx(spectral_gap(plain(topology)), abs=1e-12)


def test_sparse_products_equal_dense_ones():
    topology = from_networkx([nx.random_regular_graph(3, 300, seed=seed) for seed in range(3)])
    np.testing.assert_allclose(product(topology), swept(topology), rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64, 2**17])
def test_a_period_of_the_exponential_graph_leaves_nothing_on_powers_of_two(size):
    assert contraction(exponential(size)) < 1e-15


def test_refusals_of_analysis_name_another_function():
    with pytest.raises(TopologyError, match=r"one graph for all rounds, and this one changes: ask contraction\(\)"):
        spectral_gap(exponential(8))
    for judge in (product, contraction):
        with pytest.raises(TopologyError, match=r"never repeats, so no period can be judged: ask consensus\(\)"):
            judge(endless(ring(4)))
    with pytest.raises(TopologyError, match=r"2049 ranks are too many for a full matrix \(at most 2048\)"):
        product(ring(2049))
    for judge in (contraction, spectral_gap):
        with pytest.raises(TopologyError, match="too many for a full matrix"):
            judge(plain(ring(2049)))
    assert 0 < spectral_gap(ring(2049)) < 1e-5


# consensus


@given(digraphs(), st.integers(0, 100))
def test_no_error_after_a_period_is_above_the_worst(topology, seed):
    run = consensus(topology, topology.period, seed=seed)
    assert run.errors[0] == (topology.size > 1)
    assert run.errors[-1] <= np.linalg.norm(pushed(topology), 2) + 1e-12


@given(digraphs(largest=6))
def test_the_error_is_the_frobenius_norm_in_the_mean(topology):
    if topology.size == 1:
        return
    drawn = [consensus(topology, topology.period, seed=seed).errors[-1] ** 2 for seed in range(40)]
    # E ‖A d‖²/‖d‖² = ‖A‖²_F/(n - 1) over centred d, since A 1 = 0
    expected = np.linalg.norm(pushed(topology)) ** 2 / (topology.size - 1)
    assert np.mean(drawn) == pytest.approx(expected, rel=0.25, abs=1e-12)


@given(circulants())
def test_the_error_never_rises_where_rounds_are_doubly_stochastic(topology):
    run = consensus(topology, 30)
    assert (np.diff(run.errors) <= 1e-15).all()
    assert run.weights == (1.0, 1.0)
    other = consensus(plain(topology), 30)
    np.testing.assert_allclose(other.errors, run.errors, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(other.messages, run.messages)


@given(digraphs(), st.integers(0, 12))
def test_weights_are_those_of_push_sum(topology, rounds):
    weights, seen = np.ones(topology.size), [1.0]
    for round in range(rounds):
        # w <- P w
        weights = topology.matrix(round) @ weights
        seen += weights.tolist()
    assert consensus(topology, rounds).weights == pytest.approx((min(seen), max(seen)), rel=1e-9)


@given(digraphs(), st.integers(0, 12))
def test_messages_are_those_of_the_busiest_rank(topology, rounds):
    busiest = [0]
    for round in range(rounds):
        turns = [topology.turn(rank, round) for rank in range(topology.size)]
        busiest.append(max(max(len(turn.sends), len(turn.receives)) for turn in turns))
    run = consensus(topology, rounds)
    assert run.messages.tolist() == np.cumsum(busiest).tolist()
    assert run.bytes(1000).tolist() == (1000 * np.cumsum(busiest)).tolist()
    assert loads(topology, rounds).tolist() == busiest[1:]
    assert run.rounds == rounds


def test_push_sum_is_judged_by_values_not_numerators():
    everyone_to_the_hub = nx.DiGraph([(0, 1), (1, 0), (2, 0), (3, 0), (0, 2), (0, 3)])
    run = consensus(from_networkx(everyone_to_the_hub), 400)
    assert run.errors[-1] < EXACT
    assert run.weights[1] > 1.2


@pytest.mark.parametrize("size", [257, 1000])
def test_simulation_edge_by_edge_equals_the_dense_one(size):
    run, other = consensus(exponential(size, peers=2), 20), consensus(plain(exponential(size, peers=2)), 20)
    np.testing.assert_allclose(other.errors, run.errors, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(other.messages, run.messages)


@pytest.mark.parametrize("size", [2, 7, 32, 300])
def test_complete_agrees_in_one_round(size):
    assert rounds_to(complete(size), EXACT) == 1
    assert consensus(complete(size), 3).rounds_to_exact() == 1


@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 64, 4096, 2**17])
def test_exponential_agrees_in_log_n_rounds_on_powers_of_two(size):
    assert rounds_to(exponential(size), EXACT) == size.bit_length() - 1
    assert rounds_to(endless(exponential(32)), EXACT) == 5


def test_a_converging_schedule_is_not_exact():
    run = consensus(ring(8), 400)
    assert run.errors[-1] <= EXACT
    assert run.rounds_to_exact() is None
    assert run.rounds_to(1e-3) == rounds_to(ring(8), 1e-3) == int(np.argmax(run.errors <= 1e-3))
    assert run.rounds_to(1e-300) is None
    assert rounds_to(ring(8), 1e-3, limit=3) is None


def test_different_seeds_draw_different_values():
    assert consensus(ring(9), 5, seed=1).errors.tolist() == consensus(ring(9), 5, seed=1).errors.tolist()
    assert consensus(ring(9), 5, seed=1).errors.tolist() != consensus(ring(9), 5, seed=2).errors.tolist()


@pytest.mark.parametrize("rounds", [-1, 2.5, None])
def test_wrong_rounds_are_refused(rounds):
    with pytest.raises(TopologyError, match="the number of rounds to simulate"):
        consensus(ring(4), rounds)


@pytest.mark.parametrize("error", [0, -1.0, float("nan")])
def test_an_error_of_0_or_less_is_refused(error):
    with pytest.raises(TopologyError, match="is never reached: give a number above 0"):
        rounds_to(ring(4), error)


# reach


def shortest(topology: Topology, rounds: int) -> int | None:
    """The window by trial of all windows."""
    starts = rounds if topology.period else 1
    for length in range(1, rounds + 1):
        graphs = []
        for start in range(starts if topology.period else rounds - length + 1):
            union = nx.DiGraph()
            union.add_nodes_from(range(topology.size))
            for round in range(start, start + length):
                union.add_edges_from((j, i) for j in range(topology.size) for i in topology.turn(j, round).sends)
            graphs.append(union)
        if all(map(nx.is_strongly_connected, graphs)):
            return length
    return None


@given(digraphs(largest=6, rounds=5))
def test_the_window_is_the_shortest_that_connects(topology):
    expected = shortest(topology, topology.period)
    assert window(topology) == expected
    assert connected(topology) == (expected is not None)


@given(circulants())
def test_the_window_of_circulant_graphs_needs_no_edges(topology):
    assert window(topology) == window(plain(topology)) == shortest(topology, topology.period)


class Once(Topology):
    """A ring in the given rounds, and no edges in all others; no period."""

    def __init__(self, size: int, rounds: set[int]) -> None:
        super().__init__(size, None)
        self.rounds = rounds

    def turn(self, rank: int, round: int) -> Turn:
        if round not in self.rounds:
            return Turn(1.0, {}, {})
        return Turn(0.5, {(rank + 1) % self.size: 0.5}, {(rank - 1) % self.size: 0.5})


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [({0}, 64), ({63}, 64), ({31}, 33), ({10, 20, 50}, 30), (set(range(64)), 1), (set(), None), ({64}, None)],
)
def test_the_window_of_a_schedule_that_never_repeats_lies_in_its_first_64_rounds(rounds, expected):
    topology = Once(3, rounds)
    assert window(topology) == expected == shortest(topology, 64)


def test_a_schedule_that_never_repeats_is_judged_over_its_first_64_rounds():
    found = facts(Once(3, set(range(0, 100, 2))))
    assert (found.period, found.judged_rounds, found.window, found.messages_per_round) == (None, 64, 2, 0.5)


@given(digraphs())
def test_degrees_are_those_of_the_turns(topology):
    turns = [topology.turn(rank, round) for rank in range(topology.size) for round in range(topology.period)]
    for span, peers in (
        (degrees(topology).out, [len(turn.sends) for turn in turns]),
        (degrees(topology).into, [len(turn.receives) for turn in turns]),
    ):
        assert (span.low, span.high) == (min(peers), max(peers))
        assert span.mean == pytest.approx(np.mean(peers))


# facts


@given(circulants())
def test_facts_depend_on_turns_only(topology):
    found, other = facts(topology).as_dict(), facts(plain(topology)).as_dict()
    assert found.pop("name") != other.pop("name")
    for fact in ("contraction", "spectral_gap"):
        assert found.pop(fact) == pytest.approx(other.pop(fact), abs=1e-12)
    assert found == other


@given(digraphs())
def test_facts_of_stochasticity_and_symmetry(topology):
    matrices = [topology.matrix(round) for round in range(topology.period)]
    found = facts(topology)
    even = [bool(np.abs(matrix.sum(axis=1) - 1).max() <= 1e-12) for matrix in matrices]
    assert found.doubly_stochastic_rounds == sum(even)
    assert found.doubly_stochastic == all(even)
    assert found.symmetric == all(np.allclose(matrix, matrix.T, atol=1e-12) for matrix in matrices)
    assert found.judged_rounds == topology.period


def test_facts_of_known_graphs():
    found = facts(exponential(24))
    assert (found.period, found.rounds_to_exact, found.window) == (5, None, 5)
    assert found.contraction == pytest.approx(0.21, abs=0.005)
    assert found.spectral_gap is None
    assert not found.symmetric
    star = facts(from_networkx(nx.star_graph(9)))
    assert star.symmetric
    assert star.messages_per_round == star.degrees.out.high == 9
    assert star.degrees.out.low == 1
    assert star.spectral_gap == pytest.approx(0.1, abs=1e-12)
    assert star.contraction == pytest.approx(0.9, abs=1e-12)


def builtin(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and builtin(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(builtin, value))
    return value is None or type(value) in (bool, int, float, str)


@pytest.mark.parametrize("name", CATALOGUE)
def test_facts_of_every_family_are_json(name):
    for size in (1, 2, 7, 12):
        try:
            topology = CATALOGUE[name](size)
        except TopologyError:
            continue
        described = facts(topology).as_dict()
        assert builtin(described)
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        assert described["size"] == size
        assert described["window"] is not None


def test_one_rank_agrees_with_itself():
    found = facts(exponential(1))
    assert found.rounds_to_exact == found.rounds_to_thousandth == 0
    assert (found.contraction, found.spectral_gap, found.window) == (0.0, 1.0, 1)
    assert consensus(ring(1), 2).errors.tolist() == [0.0, 0.0, 0.0]


# compositions


@pytest.mark.parametrize("size", [1, 6, 300])
@pytest.mark.parametrize(
    "compose",
    [
        lambda size: switch(complete(size), 3, exponential(size)),
        lambda size: interleave(ring(size), exponential(size)),
        lambda size: interleave(from_networkx(nx.path_graph(size)), complete(size)),
    ],
    ids=["switch", "circulant", "mixed"],
)
def test_analysis_of_a_composition_equals_that_of_its_turns(compose, size):
    topology = compose(size)
    other = plain(topology)
    run, again = consensus(topology, 20), consensus(other, 20)
    np.testing.assert_allclose(again.errors, run.errors, rtol=1e-9, atol=1e-14)
    assert run.messages.tolist() == again.messages.tolist()
    assert run.weights == again.weights == (1.0, 1.0)
    assert degrees(topology) == degrees(other)
    assert window(topology) == window(other)
    if topology.period:
        assert contraction(topology) == pytest.approx(contraction(other), abs=1e-12)


def test_a_dense_part_of_a_composition_is_never_expanded():
    found = facts(switch(complete(MANY), 3, exponential(MANY)))
    assert found.degrees.out.high == MANY - 1
    assert found.rounds_to_exact == 1


# size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exponential", "base_graph", "random_pairs"])
def test_fifty_rounds_of_a_hundred_thousand_ranks_take_seconds(name):
    topology = CATALOGUE[name](MANY)
    start = time.process_time()
    run = consensus(topology, 50)
    assert time.process_time() - start < 15
    assert run.errors[-1] < 0.3
    assert run.messages[-1] <= 50 * degrees(topology, 50).into.high


def test_remembered_rounds_stay_within_bounds():
    class Asked(Topology):
        """Counts the calls of `edges`."""

        asked = 0

        def turn(self, rank: int, round: int) -> Turn:
            return exponential(self.size).turn(rank, round)

        def edges(self, round: int) -> Edges:
            Asked.asked += 1
            return exponential(self.size).edges(round)

    consensus(Asked(300, period=9), 90)
    assert Asked.asked == 9
    Asked.asked = 0
    consensus(Asked(1_000_000, period=20), 3)
    consensus(Asked(1_000_000, period=20), 3)
    assert Asked.asked == 6


def test_facts_of_a_hundred_thousand_ranks_take_seconds():
    start = time.process_time()
    found = facts(exponential(MANY))
    assert time.process_time() - start < 15
    assert (found.window, found.rounds_to_thousandth, found.period) == (17, 17, 17)
    assert found.contraction == pytest.approx(0.2, abs=0.01)
    star = facts(from_networkx(nx.star_graph(3_000)))
    assert time.process_time() - start < 10
    assert (star.spectral_gap, star.contraction, star.rounds_to_thousandth) == (None, None, None)


def test_analysis_leaves_a_topology_as_it_was():
    topology = exponential(12)
    before = copy.deepcopy(topology).describe()
    facts(topology)
    assert topology.describe() == before
