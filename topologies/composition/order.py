"""The rounds of other topologies in another order: taking turns, repeated, or one topology after another."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from topologies.checks import integers, positive
from topologies.composition.composed import Arranged, same_size
from topologies.errors import TopologyError
from topologies.topology import Topology
from topologies.validation import check_kind, laws, validate, validated


class Interleaved(Arranged):
    """The schedule that `interleave` returns."""

    def __init__(self, parts: Sequence[Topology], rounds: Sequence[int]) -> None:
        """`rounds`: rounds of each part in a cycle, at least 1."""
        self.rounds = tuple(rounds)
        self.ends = tuple(accumulate(self.rounds))
        cycles = _cycles(parts, rounds)
        super().__init__(parts[0].size, cycles and cycles * self.ends[-1], parts)

    def at(self, round: int) -> tuple[Topology, int]:
        """In cycle c part i plays its rounds c·r_i to c·r_i + r_i - 1."""
        cycle, place = divmod(round, self.ends[-1])
        i = bisect_right(self.ends, place)
        # place - ends[i] counts from the end of part i and is negative.
        return self.parts[i], (cycle + 1) * self.rounds[i] + place - self.ends[i]

    def options(self) -> str:
        return f"rounds={list(self.rounds)}"


def interleave(*topologies: Topology, rounds: Sequence[int] | None = None) -> Interleaved:
    """Topologies that take turns: in each cycle first r_0 rounds of part 0, then r_1 rounds of part 1, and so on.

    Each part continues its own schedule from cycle to cycle. With periods p_i the whole repeats after

        Σ_i r_i · lcm_i(p_i / gcd(p_i, r_i))

    rounds, and never if a part has no period.

    Args:
        topologies: at least one, all on the same ranks. A part need not connect all ranks by itself, as long as the
            parts together do.
        rounds: r_i, integers of at least 1; None stands for one round each.

    Raises:
        TopologyError: other values, or parts that break the laws of a topology.

    >>> both = interleave(ring(8), exponential(8), rounds=[1, 3])
    >>> both.period, [dict(both.turn(0, round).sends) for round in (1, 2)]
    (4, [{1: 0.5}, {2: 0.5}])
    """
    if not topologies:
        raise TopologyError("interleave got no topologies: pass at least one")
    for part in topologies:
        check_kind(part)
    same_size(topologies, "interleave")
    counts = [1] * len(topologies) if rounds is None else integers(rounds, "the rounds of interleave")
    if len(counts) != len(topologies):
        raise TopologyError(
            f"interleave got {len(topologies)} topologies and {len(counts)} numbers of rounds: "
            "pass one number for each topology"
        )
    for number, count in enumerate(counts):
        positive(count, f"the rounds of part {number} of interleave")
    return validated(Interleaved(topologies, counts))


def _cycles(parts: Sequence[Topology], rounds: Sequence[int]) -> int | None:
    """The number of cycles until every part is back at its beginning; None if a part never is."""
    cycles = 1
    for part, r in zip(parts, rounds, strict=True):
        if part.period is None:
            return None
        # c · r ≡ 0 modulo p
        cycles = math.lcm(cycles, part.period // math.gcd(part.period, r))
    return cycles


@laws.register
def _(topology: Interleaved) -> None:
    # If all parts obey the laws by themselves, so does the whole, and its period may be long. A part may connect only
    # together with the others: then all rounds of the whole are checked.
    try:
        for part in topology.parts:
            validate(part)
    except TopologyError:
        laws.dispatch(Topology)(topology)


class Repeated(Arranged):
    """The schedule that `repeat` returns."""

    def __init__(self, topology: Topology, times: int) -> None:
        """`times`: rounds for each round of `topology`, at least 1."""
        super().__init__(topology.size, topology.period and topology.period * times, [topology])
        self.times = times

    def at(self, round: int) -> tuple[Topology, int]:
        return self.parts[0], round // self.times

    def options(self) -> str:
        return f"times={self.times}"


def repeat(topology: Topology, times: int) -> Repeated:
    """Every round is played `times` times before the next one.

        P'(t) = P(⌊t / times⌋)

    So a peer stays the same for several steps, and the period becomes `times` as long.

    Args:
        topology: any topology.
        times: an integer of at least 1.

    Raises:
        TopologyError: other values, or a topology that breaks the laws.

    >>> [dict(repeat(exponential(8), 2).turn(0, round).sends) for round in range(4)]
    [{1: 0.5}, {1: 0.5}, {2: 0.5}, {2: 0.5}]
    """
    validate(topology)
    return validated(Repeated(topology, positive(times, "the number of times that repeat holds a round")))


class Switched(Arranged):
    """The schedule that `switch` returns."""

    def __init__(self, first: Topology, rounds: int, then: Topology) -> None:
        """`rounds`: rounds of `first`, at least 1."""
        super().__init__(first.size, None, [first, then])
        self.rounds = rounds

    def at(self, round: int) -> tuple[Topology, int]:
        first, then = self.parts
        return (first, round) if round < self.rounds else (then, round - self.rounds)

    def options(self) -> str:
        return f"rounds={self.rounds}"


def switch(first: Topology, rounds: int, then: Topology) -> Switched:
    """`first` for a number of rounds, and then `then`, from its round 0 on, for ever.

        P(t) = P_first(t)    for t < rounds,    P(t) = P_then(t - rounds)    from then on

    The schedule has no period, even if its parts have one. `topologies.hybrid` is a switch.

    Args:
        first: a topology that obeys the laws by itself.
        rounds: an integer of at least 1. Rounds count posts, so with a post at every step they are steps.
        then: likewise, on the same ranks.

    Raises:
        TopologyError: other values, or parts on different numbers of ranks.

    >>> dense_then_sparse = switch(complete(4), 100, exponential(4))
    >>> [len(dense_then_sparse.turn(0, round).sends) for round in (99, 100)]
    [3, 1]
    """
    if isinstance(rounds, Topology):
        raise TopologyError("the second argument of switch is how many rounds the first graph lasts: switch(a, 100, b)")
    validate(first)
    validate(then)
    same_size([first, then], "switch")
    return validated(Switched(first, positive(rounds, "the rounds of the first part of switch"), then))
