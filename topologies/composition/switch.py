"""One topology for the first rounds, another one ever after."""

from __future__ import annotations

from topologies.composition.composed import Arranged, same_size
from topologies.errors import TopologyError
from topologies.topology import Topology, positive
from topologies.validation import validate


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
    topology = Switched(first, positive(rounds, "the rounds of the first part of switch"), then)
    validate(topology)
    return topology
