"""Topologies made of topologies: each obeys the laws and equals its formula."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import time
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topologies import Topology, TopologyError, Turn, complete, exponential, from_networkx, ring, validate
from topologies.array_laws import obeys_laws
from topologies.arrays.draws import Shuffle, draw
from topologies.catalogue import CATALOGUE
from topologies.checks import check_rank
from topologies.composition import interleave, lift, relabel, repeat, reverse, switch, without
from topologies.composition.without import Bridged, Without
from topologies.families.hybrid import hybrid
from topologies.families.node_aware import node_aware
from topologies.kinds.circulants import Columns
from topologies.kinds.pairing import Pairing
from topologies.kinds.table import Table
from topologies.validation import laws

JUDGED = 64
"""Rounds of a schedule without a period that are looked at."""


class Meetings(Pairing):
    """Random pairs, drawn anew in each round: no period, doubly stochastic, symmetric."""

    def __init__(self, size: int, seed: int = 0) -> None:
        super().__init__(size, None)
        self.seed = seed

    def partner(self, rank, round):
        shuffle = Shuffle(self.size, draw(self.seed, round))
        if isinstance(rank, np.ndarray):
            other = shuffle.places(rank) ^ 1
            return np.where(other < self.size, shuffle.inverses(np.minimum(other, self.size - 1)), rank)
        other = shuffle.place(rank) ^ 1
        return shuffle.inverse(other) if other < self.size else rank


class Visits(Topology):
    """A ring in which one rank sends to another one too: no period, rows that do not sum to 1."""

    def __init__(self, size: int) -> None:
        super().__init__(size, None)

    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        return Turn(1.0 - sum(self.shares(rank, round).values()), self.shares(rank, round), self.received(rank, round))

    def shares(self, rank: int, round: int) -> dict[int, float]:
        peers = {(rank + 1) % self.size}
        if draw(1, round) % self.size == rank:
            peers.add(draw(2, round) % self.size)
        peers.discard(rank)
        return dict.fromkeys(sorted(peers), 1 / (1 + len(peers)))

    def received(self, rank: int, round: int) -> dict[int, float]:
        senders = {(rank - 1) % self.size, draw(1, round) % self.size} - {rank}
        return {peer: shares[rank] for peer in sorted(senders) if rank in (shares := self.shares(peer, round))}


class Clock(Columns):
    """A ring whose shares encode the round and the clock, so that no two rounds of two clocks are equal."""

    def __init__(self, size: int, period: int, number: int = 0) -> None:
        shares = [1 / (3 + number + hour / 100) for hour in range(period)]
        super().__init__(size, [{0: 1 - share, 1: share} for share in shares])


class Scripted(Topology):
    """Rounds as lists of (source, target, share), in turn, for ever; only `turn` is defined."""

    def __init__(self, size: int, *rounds: list[tuple[int, int, float]]) -> None:
        super().__init__(size, len(rounds))
        self.rounds = rounds

    def turn(self, rank: int, round: int) -> Turn:
        edges = self.rounds[round % len(self.rounds)]
        sends = {i: share for j, i, share in edges if j == rank}
        return Turn(1.0 - sum(sends.values()), sends, {j: share for j, i, share in edges if i == rank})


@functools.cache
def irregular(size: int, seed: int, rounds: int = 1) -> Table:
    """Random connected digraphs with random shares, seldom doubly stochastic."""
    dice = np.random.default_rng(seed)
    graphs = []
    for _ in range(rounds):
        graph = nx.gnp_random_graph(size, 0.3, seed=int(dice.integers(2**31)), directed=True)
        nx.add_path(graph, [*dice.permutation(size).tolist()])
        for u in graph:
            shares = dice.dirichlet(np.ones(graph.out_degree(u) + 1)).clip(1e-3)
            for v, share in zip(list(graph[u]), shares / shares.sum(), strict=False):
                graph.edges[u, v]["weight"] = float(share)
        graphs.append(graph)
    cycle = nx.cycle_graph(size, create_using=nx.DiGraph) if size > 1 else nx.empty_graph(1)
    nx.set_edge_attributes(cycle, 0.25, "weight")
    return from_networkx([*graphs, cycle])


def simple(size: int) -> st.SearchStrategy[Topology]:
    return st.one_of(
        st.just(exponential(size)),
        st.booleans().map(lambda directed: ring(size, directed)),
        st.just(complete(size)),
        st.integers(0, 50).map(lambda seed: irregular(size, seed, 1 + seed % 2)),
        st.integers(0, 50).map(lambda seed: Meetings(size, seed)),
        st.just(Visits(size)),
    )


@st.composite
def composed(draw: st.DrawFn, size: int, depth: int = 2) -> Topology:
    """A composition of compositions on `size` ranks."""
    of = functools.partial(composed, depth=depth - 1) if depth > 1 else simple
    count = st.integers(1, 3)
    kind = draw(st.sampled_from(["interleave", "repeat", "relabel", "reverse", "switch", "lift", "without"]))
    if kind == "interleave":
        parts = draw(st.lists(of(size), min_size=1, max_size=3))
        return interleave(*parts, rounds=[draw(count) for _ in parts])
    if kind == "repeat":
        return repeat(draw(of(size)), draw(count))
    if kind == "relabel":
        return relabel(draw(of(size)), draw(st.permutations(range(size))))
    if kind == "reverse":
        return reverse(draw(of(size)))
    if kind == "switch":
        return switch(draw(of(size)), draw(count), draw(of(size)))
    if kind == "lift":
        k = draw(st.sampled_from([k for k in range(1, size + 1) if size % k == 0]))
        return lift(draw(of(size // k)), draw(of(k)), rounds=draw(count))
    more = draw(st.integers(0, 3))
    dead = draw(st.lists(st.integers(0, size + more - 1), min_size=more, max_size=more, unique=True))
    return without(draw(of(size + more)), dead)


compositions = st.integers(1, 9).flatmap(composed)


def judged(topology: Topology, most: int = JUDGED) -> range:
    return range(min(topology.period or most, most))


def matrices(topology: Topology, rounds: int | None = None) -> list[np.ndarray]:
    return [topology.matrix(round) for round in range(topology.period or rounds or JUDGED)]


def same(one: Topology, other: Topology, rounds: int = 24) -> None:
    assert one.size == other.size
    for round in range(rounds):
        np.testing.assert_allclose(one.matrix(round), other.matrix(round), rtol=0, atol=1e-14)


def complement(matrix: np.ndarray, dead: list[int]) -> np.ndarray:
    alive = [rank for rank in range(len(matrix)) if rank not in dead]
    direct, out = matrix[np.ix_(alive, alive)], matrix[np.ix_(alive, dead)]
    into, among = matrix[np.ix_(dead, alive)], matrix[np.ix_(dead, dead)]
    # P' = P_SS + P_SD (I - P_DD)⁻¹ P_DS
    return direct + out @ np.linalg.solve(np.eye(len(dead)) - among, into)


def lawful(topology: Topology) -> None:
    """Turns and arrays agree to the last bit or nearly so, columns sum to 1, and both ends of an edge agree."""
    for round in judged(topology, most=10):
        matrix, told = topology.matrix(round), Topology.edges(topology, round).matrix()
        np.testing.assert_allclose(matrix, told, rtol=0, atol=1e-15)
        np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-12)
        assert (matrix >= 0).all()
        assert (matrix.diagonal() > 0).all()
        assert topology.doubly_stochastic(round) == bool(np.abs(matrix.sum(axis=1) - 1).max() <= 1e-12)
        assert topology.keeps_alike(round) == bool(np.ptp(matrix.diagonal()) <= 1e-12)
        for rank in range(topology.size):
            turn = topology.turn(rank, round)
            assert type(turn.keep) is float
            assert all(type(peer) is int and type(share) is float for peer, share in turn.sends.items())
            assert all(type(peer) is int and type(share) is float for peer, share in turn.receives.items())
            # The share is the same at both ends, although each computes it by itself.
            assert turn.receives == {
                peer: share
                for peer in range(topology.size)
                if (share := topology.turn(peer, round).sends.get(rank)) is not None
            }
            if topology.period:
                assert topology.turn(rank, round + 2 * topology.period) == turn
        values = np.arange(2.0 * topology.size).reshape(-1, 2)
        np.testing.assert_allclose(topology.mix(values, round), matrix @ values, rtol=0, atol=1e-10)


@settings(max_examples=60)
@given(compositions)
def test_compositions_of_compositions_obey_the_laws(topology):
    lawful(topology)


@settings(max_examples=60)
@given(compositions)
def test_both_checks_of_the_laws_agree(topology):
    if (topology.period or 0) <= JUDGED:
        laws.dispatch(Topology)(topology)


@settings(max_examples=60)
@given(compositions, st.integers(0, 2**32 - 1))
def test_push_sum_reaches_the_mean(topology, seed):
    values = np.random.default_rng(seed).normal(size=topology.size)
    sweep = functools.reduce(lambda product, matrix: matrix @ product, [topology.matrix(r) for r in range(JUDGED)])
    if topology.period is None or topology.period > JUDGED:
        sweep = functools.reduce(lambda product, r: topology.matrix(r) @ product, range(JUDGED, 512), sweep)
    else:
        sweep = np.linalg.matrix_power(functools.reduce(lambda product, m: m @ product, matrices(topology)), 4096)
    np.testing.assert_allclose((sweep @ values) / (sweep @ np.ones(topology.size)), values.mean(), rtol=0, atol=1e-6)


@given(compositions)
def test_compositions_pickle_and_keep_their_text(topology):
    for other in (copy.deepcopy(topology), pickle.loads(pickle.dumps(topology))):
        assert other.describe() == topology.describe()
        assert repr(other) == repr(topology)
        assert other.turn(topology.size - 1, 5) == topology.turn(topology.size - 1, 5)


@given(compositions)
def test_an_outside_rank_raises_a_topology_error(topology):
    for rank in (-1, topology.size):
        with pytest.raises(TopologyError, match=f"rank {rank} asked for its turn in a topology of "):
            topology.turn(rank, 3)


# interleave, repeat, switch


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3))
def test_the_period_is_the_smallest_one(clocks):
    parts = [Clock(3, period, number) for number, (period, _) in enumerate(clocks)]
    rounds = [count for _, count in clocks]
    topology = interleave(*parts, rounds=rounds)
    cycles = math.lcm(*(period // math.gcd(period, count) for period, count in clocks))
    assert topology.period == sum(rounds) * cycles
    told = [topology.turn(0, round) for round in range(3 * topology.period)]
    repeats = [t for t in range(1, topology.period + 1) if told[t : t + topology.period] == told[: topology.period]]
    assert repeats[-1] == topology.period
    if len(parts) > 1:
        assert len(repeats) == 1


def test_interleaved_parts_continue_their_own_schedules():
    first, second = Clock(3, 5), Clock(3, 2, number=1)
    topology = interleave(first, second, rounds=[2, 1])
    expected = [(first, 0), (first, 1), (second, 0), (first, 2), (first, 3), (second, 1), (first, 4), (first, 0)]
    for round, (part, played) in enumerate(expected):
        assert topology.turn(1, round) == part.turn(1, played)


@given(st.integers(1, 9).flatmap(simple), st.integers(1, 3))
def test_interleaving_a_topology_with_itself_repeats_rounds(topology, times):
    same(interleave(*[topology] * times), repeat(topology, times))
    same(interleave(topology, rounds=[times]), topology)
    same(repeat(repeat(topology, times), 2), repeat(topology, 2 * times))
    assert interleave(*[topology] * times).period == repeat(topology, times).period


def test_interleaving_an_aperiodic_part_has_no_period():
    for topology in (
        interleave(exponential(6), Meetings(6)),
        repeat(Meetings(6), 2),
        relabel(Meetings(6), range(6)),
        reverse(Visits(6)),
        lift(Meetings(3), 2),
        lift(ring(3), Meetings(2), rounds=2),
        without(Meetings(7), [3]),
        switch(ring(6), 2, ring(6)),
    ):
        assert topology.size == 6
        assert topology.period is None
        validate(topology)


def test_parts_may_connect_only_together():
    half = 0.5
    pairs = Scripted(4, [(0, 1, half), (1, 0, half), (2, 3, half), (3, 2, half)])
    other = Scripted(4, [(1, 2, half), (2, 1, half)])
    with pytest.raises(TopologyError, match="cannot reach"):
        validate(pairs)
    topology = interleave(pairs, other)
    lawful(topology)
    with pytest.raises(TopologyError, match=r"Interleaved\(.* over the 2 rounds of its period .* cannot reach"):
        interleave(pairs, pairs)


def test_errors_of_a_part_are_reported():
    with pytest.raises(TopologyError, match=r"Interleaved.*in round 1 column 0 sums to 0.9, not to 1"):
        interleave(ring(2), Broken(2))
    for compose in (
        lambda broken: repeat(broken, 2),
        lambda broken: relabel(broken, [1, 0]),
        reverse,
        lambda broken: switch(ring(2), 3, broken),
        lambda broken: switch(broken, 3, ring(2)),
        lambda broken: lift(broken, 2),
        lambda broken: lift(ring(2), broken),
        lambda broken: without(broken, [0]),
    ):
        with pytest.raises(TopologyError, match=r"Broken\(size=2, period=1\): in round 0 column 0 sums to 0.9"):
            compose(Broken(2))


class Broken(Topology):
    def __init__(self, size: int) -> None:
        super().__init__(size, 1)

    def turn(self, rank: int, round: int) -> Turn:
        return Turn(0.4, {1 - rank: 0.5}, {1 - rank: 0.5})


def test_a_switch_starts_the_second_schedule_at_round_0():
    topology = switch(Clock(3, 2), 5, Clock(3, 4, number=1))
    for round in range(5):
        assert topology.turn(0, round) == Clock(3, 2).turn(0, round)
    for round in range(8):
        assert topology.turn(0, 5 + round) == Clock(3, 4, number=1).turn(0, round)


# relabel, reverse


@given(st.integers(1, 9).flatmap(lambda size: st.tuples(simple(size), st.permutations(range(size)))))
def test_relabelling_permutes_rows_and_columns(drawn):
    topology, order = drawn
    inverse = np.argsort(order).tolist()
    relabelled = relabel(topology, order)
    for round in range(4):
        np.testing.assert_array_equal(relabelled.matrix(round), topology.matrix(round)[np.ix_(order, order)])
        # Exactly, without rounding.
        np.testing.assert_array_equal(relabel(relabelled, inverse).matrix(round), topology.matrix(round))
    assert relabelled.period == topology.period


@given(st.integers(1, 9).flatmap(simple))
def test_reversing_transposes_and_divides_by_the_row_sums(topology):
    reversed = reverse(topology)
    for round in range(6):
        matrix = topology.matrix(round)
        # P' = Pᵀ D⁻¹
        np.testing.assert_allclose(reversed.matrix(round), matrix.T / matrix.sum(axis=1), rtol=0, atol=1e-14)
        if topology.doubly_stochastic(round):
            np.testing.assert_array_equal(reversed.matrix(round), matrix.T)
            np.testing.assert_array_equal(reverse(reversed).matrix(round), matrix)


def test_row_sums_are_equal_with_and_without_a_table():
    topology = irregular(8, seed=4, rounds=2)
    endless = switch(topology, 64, topology)
    for round in range(3):
        by_table, by_asking = reverse(topology).matrix(round), Topology.edges(reverse(endless), round).matrix()
        np.testing.assert_allclose(by_table, by_asking, rtol=0, atol=1e-15)


# lift and node_aware


@given(st.integers(1, 5).flatmap(simple), st.integers(1, 5).flatmap(simple), st.integers(1, 3))
def test_lifting_is_a_kronecker_product(outer, inner, rounds):
    topology = lift(outer, inner, rounds)
    m, k = outer.size, inner.size
    levels = [("inner", rounds)] * (k > 1 or m == 1) + [("outer", 1)] * (m > 1)
    played = {"inner": 0, "outer": 0}
    for round, level in enumerate([name for name, count in levels for _ in range(count)] * 4):
        if level == "inner":
            expected = np.kron(np.eye(m), inner.matrix(played[level]))
        else:
            expected = np.kron(outer.matrix(played[level]), np.eye(k))
        played[level] += 1
        np.testing.assert_array_equal(topology.matrix(round), expected)


def test_a_lift_of_single_ranks_is_the_outer_graph_and_of_a_single_node_the_inner_one():
    for topology in (exponential(6), Meetings(6), irregular(6, seed=1)):
        same(lift(topology, 1), topology)
        same(lift(exponential(1), topology, rounds=1), topology)
    assert lift(exponential(6), 1).period == exponential(6).period
    assert lift(complete(1), 1).period == 1


def test_an_inner_number_is_the_complete_graph_and_the_inner_period_the_usual_number_of_rounds():
    same(lift(exponential(3), 4), lift(exponential(3), complete(4)))
    same(lift(exponential(3), exponential(8)), lift(exponential(3), exponential(8), rounds=3))
    assert lift(exponential(4), exponential(8)).period == 8


@pytest.mark.parametrize("size", range(1, 41))
@pytest.mark.parametrize("options", [{}, {"local_size": 3, "inner": "ring", "outer": "complete"}, {"inner_peers": 2}])
def test_node_aware_rounds_stay_on_a_host_or_among_equal_local_ranks(size, options):
    topology = node_aware(size, **options)
    k = options.get("local_size", 4)
    assert obeys_laws(topology, topology.period)
    for round in range(topology.period):
        edges = topology.edges(round)
        inside = edges.source // k == edges.target // k
        across = edges.source % k == edges.target % k
        assert inside.all() or across.all()
        assert topology.doubly_stochastic(round)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.sampled_from(["exponential", "ring", "complete"]))
def test_node_aware_on_uneven_hosts(hosts, inner):
    topology = node_aware(sum(hosts), hosts=hosts, inner=inner, outer="ring")
    lawful(topology)
    host = np.repeat(np.arange(len(hosts)), hosts)
    local = np.concatenate([np.arange(k) for k in hosts])
    longest = max({"exponential": exponential, "ring": ring, "complete": complete}[inner](k).period for k in hosts)
    kinds = ["inside"] * longest * (max(hosts) > 1 or len(hosts) == 1) + ["across"] * (len(hosts) > 1)
    assert topology.period == len(kinds)
    for round, kind in enumerate(kinds):
        edges = topology.edges(round)
        fixed = host if kind == "inside" else local
        np.testing.assert_array_equal(fixed[edges.source], fixed[edges.target])
    if len(hosts) > 1:
        # Every local rank that several hosts have is busy in the outer round.
        shared = [np.count_nonzero(local == place) > 1 for place in local]
        assert np.isin(np.arange(sum(hosts)), topology.edges(len(kinds) - 1).source).tolist() == shared


def test_node_aware_on_even_hosts_is_a_lift():
    same(node_aware(24, local_size=4), lift(exponential(6), exponential(4)))
    same(node_aware(24, hosts=[8] * 3, inner="ring", outer="complete"), lift(complete(3), ring(8)))
    same(node_aware(5, local_size=8), exponential(5))
    same(node_aware(5, local_size=1), exponential(5))


def test_node_aware_is_exact_where_both_levels_are():
    topology = node_aware(32, local_size=4)
    sweep = functools.reduce(lambda product, matrix: matrix @ product, matrices(topology))
    np.testing.assert_allclose(sweep, np.full((32, 32), 1 / 32), rtol=0, atol=1e-16)


def test_a_shorter_inner_period_starts_over_in_each_cycle():
    topology = node_aware(8, hosts=[5, 3])  # inner periods 3 and 2
    assert topology.period == 4
    hops = [next(iter(topology.turn(5, round).sends)) for round in range(3)]
    assert hops == [6, 7, 6]


def test_hybrid_is_a_switch():
    same(hybrid(8, rounds=3), switch(complete(8), 3, exponential(8)))
    same(hybrid(9, 4, first="exponential", first_peers=2, then="ring"), switch(exponential(9, peers=2), 4, ring(9)))
    for size in range(1, 41):
        validate(hybrid(size))


# without


def shipped(name: str, size: int) -> Topology | None:
    try:
        return CATALOGUE[name](size)
    except TopologyError:
        return None  # a size that this graph does not have


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_survivors_of_every_family(name):
    dice = np.random.default_rng(len(name))
    found = 0
    for size in range(2, 18):
        topology = shipped(name, size)
        if topology is None:
            continue
        dead = dice.choice(size, dice.integers(1, size), replace=False).tolist()
        found += 1
        survivors(topology, dead)
    assert found


def survivors(topology: Topology, dead: list[int]) -> None:
    """Check the laws of any topology without any of its ranks."""
    left = without(topology, dead)
    assert left.size == topology.size - len(dead)
    assert left.period is None or obeys_laws(left, left.period)
    graph = left.schedule.parts[0] if isinstance(left, Bridged) else left
    assert isinstance(graph, Without)
    assert graph.period == topology.period
    for round in judged(topology, most=8):
        before, after = topology.matrix(round), graph.matrix(round)
        np.testing.assert_allclose(after, Topology.edges(graph, round).matrix(), rtol=0, atol=1e-15)
        np.testing.assert_allclose(after.sum(axis=0), 1, rtol=0, atol=1e-12)
        if topology.doubly_stochastic(round):
            np.testing.assert_allclose(after.sum(axis=1), 1, rtol=0, atol=1e-12)
        if (before == before.T).all():
            np.testing.assert_allclose(after, after.T, rtol=0, atol=1e-12)
        if not trapped(before, dead):
            np.testing.assert_allclose(after, complement(before, dead), rtol=0, atol=1e-12)
        # A rank that sent one message still sends one.
        if np.count_nonzero(before, axis=0).max() <= 2 and np.count_nonzero(before, axis=1).max() <= 2:
            assert np.count_nonzero(after, axis=0).max() <= 2
    values = np.arange(left.size) % 3 - 0.5
    x, w = values, np.ones(left.size)
    for round in range(3000):
        # x <- P x ;  w <- P w
        x, w = left.mix(x, round), left.mix(w, round)
        if np.abs(x / w - values.mean()).max() < 1e-6:
            break
    np.testing.assert_allclose(x / w, np.full(left.size, values.mean()), rtol=0, atol=1e-6)


def trapped(matrix: np.ndarray, dead: list[int]) -> bool:
    """Whether some dead rank passes nothing on to survivors, so that I - P_DD is singular."""
    among = matrix[np.ix_(dead, dead)]
    return bool((1 - np.linalg.matrix_power(among, 4096).sum(axis=0) < 1e-9).any())


@given(st.integers(2, 9).flatmap(lambda size: st.tuples(composed(size, 1), st.sets(st.integers(0, size - 1)))))
def test_survivors_of_any_composition(drawn):
    topology, dead = drawn
    if 0 < len(dead) < topology.size:
        survivors(topology, sorted(dead))


@given(
    st.integers(3, 9).flatmap(
        lambda size: st.tuples(simple(size), st.permutations(range(size)), st.integers(1, size - 2))
    )
)
def test_successive_deaths_equal_simultaneous_deaths(drawn):
    topology, order, first = drawn
    dead, later = sorted(order[:first]), order[first]
    # If the survivors have to be bridged, more rounds are interleaved after each death.
    once = without(topology, [*dead, later])
    alive = [rank for rank in range(topology.size) if rank not in dead]
    before = without(topology, dead)
    if not isinstance(once, Bridged) and not isinstance(before, Bridged):
        same(without(before, [alive.index(later)]), once, rounds=8)


def test_a_message_for_a_dead_rank_travels_on_to_a_survivor():
    assert without(ring(6, directed=True), [2, 3]).turn(1, 0) == Turn(0.5, {2: 0.5}, {0: 0.5})
    # Hop 4 on 8 ranks, so the message for the dead partner comes back and is kept.
    assert without(exponential(8), [4]).turn(0, 2) == Turn(1.0, {}, {})


def test_survivors_of_a_hub_exchange_with_each_other():
    star = from_networkx(nx.star_graph(4))
    np.testing.assert_allclose(without(star, [0]).matrix(0), np.full((4, 4), 0.05) + 0.8 * np.eye(4), atol=1e-15)


def test_a_share_for_dead_ranks_without_way_to_survivors_is_kept():
    # In round 0 ranks 3 and 4 send to each other only. In round 1 all stand in a ring.
    half = 0.5
    topology = Scripted(
        5,
        [(0, 1, half), (1, 3, 0.25), (1, 2, 0.25), (2, 3, half), (3, 4, half), (4, 3, half)],
        [(j, (j + 1) % 5, half) for j in range(5)],
    )
    left = without(topology, [3, 4])
    np.testing.assert_array_equal(left.matrix(0), [[half, 0, 0], [half, 0.75, 0], [0, 0.25, 1]])
    # The message passes another dead rank, 1, half of whose messages would have reached a survivor.
    np.testing.assert_array_equal(without(topology, [1, 3, 4]).matrix(0), [[0.75, 0], [0.25, 1]])
    lawful(left)


def test_survivors_linked_by_the_dead_only_are_bridged():
    # Ranks 0 to 3 meet only rank 4, one after the other, so without it no two ranks meet.
    visits = [[(j, 4, 0.5), (4, j, 0.5)] for j in range(4)]
    left = without(Scripted(5, *visits), [4])
    assert "bridged by one-peer exponential rounds" in repr(left)
    assert left.period == 8
    for round in range(8):
        expected = exponential(4).matrix(round // 2) if round % 2 else np.eye(4)
        np.testing.assert_array_equal(left.matrix(round), expected)
    lawful(left)
    survivors(Scripted(5, *visits), [4, 0])


def test_without_no_ranks_is_the_topology_itself():
    topology = exponential(5)
    assert without(topology, []) is topology


def test_only_dead_ranks_that_edges_reach_are_read():
    asked: list[int] = []

    class Counted(Clock):
        def column(self, round):
            asked.append(round)
            return super().column(round)

    left = without(Counted(10_000, 1), [5, 6, 5_000])
    asked.clear()
    left.turn(4, 0)
    assert len(asked) == 3  # rank 4 itself, and 5 and 6 on its way
    asked.clear()
    left.turn(10, 0)
    assert len(asked) == 1


# words


@pytest.mark.parametrize(
    ("compose", "message"),
    [
        (lambda: interleave(), "interleave got no topologies: pass at least one"),
        (lambda: interleave([ring(3), ring(3)]), "a list is no topology"),
        (lambda: interleave(ring(3), 7), "a int is no topology"),
        (lambda: interleave(ring(3), ring(4)), "part 1, Ring.*, has 4 ranks, but part 0, .* has 3: make all parts"),
        (lambda: interleave(ring(3), rounds=[1, 2]), "got 1 topologies and 2 numbers of rounds"),
        (lambda: interleave(ring(3), rounds=[0]), "rounds of part 0 of interleave must be an integer of at least 1"),
        (lambda: interleave(ring(3), rounds=3), r"the rounds of interleave must be a sequence of integers"),
        (lambda: repeat(ring(3), 0), "the number of times that repeat holds a round must be an integer"),
        (lambda: repeat(nx.path_graph(3), 2), "a Graph is no topology"),
        (lambda: relabel(ring(3), [0, 1]), "has 2 entries for 3 ranks: name each of the ranks 0 to 2 once"),
        (lambda: relabel(ring(3), [0, 1, 3]), "has 3 at place 2, which is no rank"),
        (lambda: relabel(ring(3), [0, -1, 1]), "has -1 at place 1, which is no rank"),
        (lambda: relabel(ring(4), [0, 2, 3, 2]), "has rank 2 at places 1 and 3, and rank 1 nowhere"),
        (lambda: relabel(ring(3), "abc"), "the order of relabel must be a sequence of integers"),
        (lambda: relabel(ring(3), None), "the order of relabel must be a sequence of integers"),
        (lambda: reverse("ring"), "a str is no topology"),
        (lambda: switch(ring(3), 0, ring(3)), "the rounds of the first part of switch must be an integer"),
        (lambda: switch(ring(3), 2, ring(4)), "switch: part 1, .*, has 4 ranks, but part 0, .* has 3"),
        (
            lambda: switch(ring(3), ring(3), 4),
            r"the second argument of switch is how many .*: switch\(a, 100, b\)",
        ),
        (lambda: lift(ring(3), 0), "the number of ranks of a node must be an integer of at least 1, not 0"),
        (lambda: lift(ring(3), "ring"), "the inner level of lift is a str: pass a topology on the ranks of one node"),
        (lambda: lift(ring(3), Meetings(4)), "the inner level of lift, Meetings.*, has no period: pass rounds="),
        (lambda: lift(ring(3), 2, rounds=0), "the inner rounds of lift must be an integer of at least 1"),
        (lambda: lift(3, ring(3)), "a int is no topology"),
        (lambda: without(ring(3), [0, 1, 2]), "all 3 ranks are dead, so no graph is left"),
        (lambda: without(ring(3), [3]), "rank 3 cannot be dead in a topology of 3 ranks, 0 to 2"),
        (lambda: without(ring(3), [1, 1]), "rank 1 is named twice among the dead ranks"),
        (lambda: without(ring(3), 1), r"the dead ranks must be a sequence of integers, as in \[1, 2\], not 1"),
        (lambda: hybrid(0), "the size of a hybrid must be an integer of at least 1"),
        (lambda: hybrid(4, rounds=0), "the first rounds of a hybrid must be an integer of at least 1"),
        (lambda: hybrid(4, first="star"), "first='star' is none of 'complete', 'exponential', 'ring'"),
        (lambda: hybrid(4, then=["ring"]), r"then=\['ring'\] is none of"),
        (lambda: hybrid(4, first_peers=2), "first='complete' has its peers by its nature, so first_peers=2"),
        (lambda: hybrid(4, then_peers=4), "peers=4 does not fit an exponential graph of 4 ranks"),
        (lambda: node_aware(0), "the size of a node-aware graph must be an integer"),
        (lambda: node_aware(4, local_size=0), "the ranks on a host of a node-aware graph must be an integer"),
        (lambda: node_aware(4, local_size=2, hosts=[2, 2]), r"got local_size=2 and hosts=\[2, 2\]: pass one of them"),
        (lambda: node_aware(4, hosts=[2, 3]), "hosts of a node-aware graph have 5 ranks, but its size is 4"),
        (lambda: node_aware(4, hosts=[]), "hosts of a node-aware graph have 0 ranks, but its size is 4"),
        (lambda: node_aware(4, hosts=[4, 0]), "the number of ranks on host 1 of a node-aware graph must be"),
        (lambda: node_aware(4, hosts="22"), "the hosts of a node-aware graph must be a sequence of integers"),
        (lambda: node_aware(4, inner="star"), "inner='star' is none of"),
        (lambda: node_aware(8, outer_peers=0), "the outer peers of a node-aware graph must be an integer"),
        (lambda: node_aware(8, inner="ring", inner_peers=2), "inner_peers=2 does not fit: leave it out"),
    ],
)
def test_misfits_are_refused_with_a_sentence(compose: Callable[[], Topology], message: str):
    with pytest.raises(TopologyError, match=message):
        compose()


def test_descriptions_distinguish_compositions():
    e, r, late = exponential(8), ring(8), switch(complete(8), 40, ring(8))
    different = [
        interleave(e, r),
        interleave(r, e),
        interleave(e, r, rounds=[2, 1]),
        repeat(e, 2),
        repeat(e, 3),
        relabel(e, [1, 0, *range(2, 8)]),
        relabel(e, [2, 1, 0, *range(3, 8)]),
        reverse(e),
        reverse(r),
        switch(e, 40, r),
        switch(e, 40, ring(8, directed=True)),  # differs after the rounds that are read
        switch(e, 41, r),
        late,
        interleave(late, e),
        switch(complete(8), 40, relabel(e, range(7, -1, -1))),
        lift(exponential(4), 2),
        lift(exponential(2), 4),
        lift(exponential(4), 2, rounds=2),
        without(exponential(9), [3]),
        without(exponential(9), [4]),
        without(Meetings(9), [4]),
        without(Meetings(9, seed=1), [4]),
        hybrid(8),
        hybrid(8, rounds=11),
        node_aware(8, hosts=[4, 4]),
        node_aware(8, hosts=[4, 3, 1]),
        node_aware(8, hosts=[3, 4, 1]),
    ]
    assert len({topology.describe() for topology in different}) == len(different)
    large = np.arange(1000)
    orders = [large[::-1], np.roll(large, 1), np.roll(large, 2)]
    said = {relabel(complete(1000), order).describe() for order in orders}
    assert len(said) == 3
    assert max(map(len, said)) < 200


def test_not_all_rounds_of_long_periods_are_read():
    start = time.process_time()
    topology = interleave(*(Clock(1000, period) for period in (7, 11, 13, 17, 19)))
    assert topology.period == 5 * 7 * 11 * 13 * 17 * 19
    topology.describe()
    validate(reverse(repeat(topology, 5)))
    assert time.process_time() - start < 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda n: interleave(exponential(n), ring(n), rounds=[3, 1]),
        lambda n: repeat(exponential(n), 2),
        lambda n: relabel(exponential(n), np.random.default_rng(0).permutation(n)),
        lambda n: reverse(exponential(n)),
        lambda n: reverse(Meetings(n // 10)),
        lambda n: switch(ring(n), 10, exponential(n)),
        lambda n: lift(exponential(n // 8), exponential(8)),
        lambda n: without(exponential(n), np.random.default_rng(0).choice(n, n // 100, replace=False)),
        lambda n: without(Meetings(n // 10), range(0, n // 10, 200)),
        lambda n: node_aware(n),
        lambda n: node_aware(n, hosts=[4, 3, 3] * (n // 10)),
    ],
    ids=lambda make: "",
)
def test_large_compositions_are_cheap(make):
    start = time.process_time()
    topology = make(100_000)
    topology.describe()
    values = np.zeros(topology.size)
    values[0] = topology.size
    for round in range(50):
        values = topology.mix(values, round)
    assert values.sum() == pytest.approx(topology.size, rel=1e-9)
    assert time.process_time() - start < 10
    costs = []
    for rank in range(0, topology.size, topology.size // 20):
        start = time.process_time()
        for round in range(50):
            topology.turn(rank, round)
        costs.append((time.process_time() - start) / 50)
    # The fastest of several tries, because the machine may be busy.
    assert min(costs) < 100e-6
