"""A topology of the user is checked before any communication, and the error names a remedy."""

from __future__ import annotations

import random

import pytest

from topologies import Topology, TopologyError, Turn, ring, validate


class Given(Topology):
    """The given turns, round after round."""

    def __init__(self, *rounds, period="all"):
        super().__init__(len(rounds[0]), len(rounds) if period == "all" else period)
        self.rounds = rounds

    def turn(self, rank, round):
        return self.rounds[round % len(self.rounds)][rank]


HALF = [Turn(0.5, {1: 0.5}, {1: 0.5}), Turn(0.5, {0: 0.5}, {0: 0.5})]
IDLE = [Turn(1.0, {}, {})] * 2


def lame(rank, turn):
    """Two ranks that exchange halves, except for one bad turn."""
    return Given([turn if other == rank else HALF[other] for other in range(2)])


def test_a_subclass_with_a_turn_is_enough():
    class Swing(Topology):
        def __init__(self, size):
            self.size, self.period = size, 2

        def turn(self, rank, round):
            hop = 1 if round % 2 == 0 else -1
            return Turn(0.5, {(rank + hop) % self.size: 0.5}, {(rank - hop) % self.size: 0.5})

    topology = Swing(5)
    validate(topology)
    assert topology.matrix(0)[1, 0] == topology.matrix(1)[4, 0] == 0.5
    assert topology.doubly_stochastic(1)
    assert topology.describe().startswith("Swing(size=5, period=2) sha256:")


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (
            lame(1, Turn(0.5, {0: 0.25}, {0: 0.5})),
            "in round 0 column 1 sums to 0.75, not to 1: rank 1 keeps 0.5 and sends",
        ),
        (lame(0, Turn(0.0, {1: 1.0}, {1: 0.5})), "in round 0 rank 0 keeps 0.0: every rank must keep a share above 0"),
        (lame(0, Turn(float("nan"), {1: 0.5}, {1: 0.5})), "in round 0 rank 0 keeps nan"),
        (lame(0, Turn(1.5, {1: -0.5}, {1: 0.5})), "in round 0 rank 0 keeps 1.5: every rank must keep .* at most 1"),
        (lame(0, Turn(1.0, {1: 0.0}, {1: 0.5})), "rank 0 sends the share 0.0 to rank 1: .* leave out a peer"),
        (lame(0, Turn(0.5, {1: "half"}, {1: 0.5})), "rank 0 sends the share 'half' to rank 1"),
        (lame(0, Turn(0.5, {1: 0.5}, {1: -0.5})), "rank 0 receives the share -0.5 from rank 1"),
        (
            lame(1, Turn(0.25, {0: 0.5, 1: 0.25}, {0: 0.5})),
            "round 0 rank 1 sends to itself: its own share belongs in keep",
        ),
        (lame(1, Turn(0.25, {0: 0.5, 2: 0.25}, {0: 0.5})), "round 0 rank 1 sends to 2: peers are the ranks 0 to 1"),
        (lame(1, Turn(0.5, {0.0: 0.5}, {0: 0.5})), "round 0 rank 1 sends to 0.0: peers are"),
        (lame(1, Turn(0.5, {0: 0.5}, {-1: 0.5})), "round 0 rank 1 receives from -1: peers are"),
        (
            lame(1, Turn(0.5, {0: 0.5}, {})),
            "round 0 rank 0 sends the share 0.5 to rank 1, which expects nothing from it",
        ),
        (lame(1, Turn(0.75, {0: 0.25}, {0: 0.5})), "rank 1 sends the share 0.25 to rank 0, which expects 0.5 from it"),
        (
            lame(1, Turn(1.0, {}, {0: 0.5})),
            "rank 0 expects the share 0.5 from rank 1, which sends it nothing: make the",
        ),
        (lame(0, (0.5, {1: 0.5}, {1: 0.5})), "rank 0 has a tuple for its turn: return topologies.Turn"),
        (lame(0, Turn(0.5, [1], {1: 0.5})), "rank 0 has a list for its sends: give a mapping from peer to share"),
        (Given(IDLE, IDLE), "over the 2 rounds of its period rank 0 cannot reach rank 1, .* add an edge"),
        (Given(IDLE, period=None), "over its first 64 rounds rank 0 cannot reach rank 1"),
        (Given(HALF, IDLE, period=1), "rank 0 has another turn in round 1 than in round 0, one period before"),
    ],
)
def test_wrong_arguments_are_refused(topology, message):
    with pytest.raises(TopologyError, match=message):
        validate(topology)


def test_errors_name_the_round():
    bad = [Turn(0.5, {1: 0.25}, {1: 0.5}), HALF[1]]
    with pytest.raises(TopologyError, match=r"Given\(size=2, period=3\): in round 2 column 0 sums to 0.75"):
        validate(Given(HALF, HALF, bad))


def test_a_late_fault_is_found_without_a_period():
    bad = [Turn(0.5, {1: 0.25}, {1: 0.5}), HALF[1]]
    with pytest.raises(TopologyError, match="in round 63 column 0"):
        validate(Given(*[HALF] * 63, bad, period=None))


def test_missing_paths_are_named_in_their_direction():
    into = [Turn(0.5, {1: 0.5}, {}), Turn(1.0, {}, {0: 0.5})]
    with pytest.raises(TopologyError, match="rank 1 cannot reach rank 0"):
        validate(Given(into))
    out_of = [Turn(1.0, {}, {1: 0.5}), Turn(0.5, {0: 0.5}, {})]
    with pytest.raises(TopologyError, match="rank 0 cannot reach rank 1"):
        validate(Given(out_of))
    validate(Given(into, out_of))


def test_column_stochastic_matrices_are_enough():
    # Rank 0 hears from 1 and 2 but sends to 1 only: columns sum to 1, rows do not.
    lopsided = Given(
        [
            Turn(0.5, {1: 0.5}, {1: 0.25, 2: 0.5}),
            Turn(0.5, {0: 0.25, 2: 0.25}, {0: 0.5}),
            Turn(0.5, {0: 0.5}, {1: 0.25}),
        ],
        [Turn(1.0, {}, {})] * 3,
    )
    validate(lopsided)
    assert [lopsided.doubly_stochastic(round) for round in (0, 1, 2, 3)] == [False, True, False, True]


def test_without_a_period_every_round_is_judged_by_itself():
    lopsided = [Turn(0.5, {1: 0.5}, {}), Turn(1.0, {}, {0: 0.5})]
    topology = Given(*[HALF] * 64, *[lopsided] * 64, period=None)
    assert topology.doubly_stochastic(0)
    assert not topology.doubly_stochastic(64)
    assert topology.doubly_stochastic(0)
    assert topology.describe().endswith(" in the first 16 rounds")


def test_a_function_with_state_is_refused():
    class Unseeded(Topology):
        def turn(self, rank, round):
            hop = generator.randrange(1, self.size)
            return Turn(0.5, {(rank + hop) % self.size: 0.5}, {(rank - hop) % self.size: 0.5})

    generator = random.Random(0)
    with pytest.raises(TopologyError, match="in round 0 rank"):
        validate(Unseeded(5, period=None))

    class Counting(Given):
        calls = 0

        def turn(self, rank, round):
            self.calls += 1
            return (IDLE if self.calls > 2 else HALF)[rank]

    with pytest.raises(TopologyError, match=r"got another turn from a second call: .* seed random graphs with the ro"):
        validate(Counting(HALF))


def test_other_objects_are_refused_as_topologies():
    with pytest.raises(TopologyError, match=r"a list is no topology: subclass topologies.Topology"):
        validate([[0.5, 0.5], [0.5, 0.5]])  # type: ignore[arg-type]

    class Bare(Given):
        def __init__(self):
            pass

    bare = Bare()
    with pytest.raises(TopologyError, match=r"Bare has no size: call super\(\).__init__\(size, period\)"):
        validate(bare)
    bare.size = 2
    with pytest.raises(TopologyError, match="Bare has no period"):
        validate(bare)
    bare.period = 0
    with pytest.raises(TopologyError, match=r"the period of Bare, .* must be an integer of at least 1, not 0"):
        validate(bare)
    with pytest.raises(TopologyError, match="the size of a topology must be"):
        Given([])


def test_a_single_rank_is_a_valid_topology():
    validate(Given([Turn(1.0, {}, {})]))


def test_long_lists_of_ranks_are_cut():
    near = [ring(20).turn(rank, 0) for rank in range(20)]
    far = [
        Turn(turn.keep, *({peer + 20: share for peer, share in shares.items()} for shares in turn[1:])) for turn in near
    ]
    with pytest.raises(TopologyError, match=r"ranks 0, 1, 2, 3, 4, 5 and 14 more cannot reach ranks 20, 21"):
        validate(Given([*near, *far]))
