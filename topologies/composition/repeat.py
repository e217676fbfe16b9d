"""Rounds that are held several times."""

from __future__ import annotations

from topologies.composition.composed import Arranged
from topologies.topology import Topology, positive
from topologies.validation import validate


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
    repeated = Repeated(topology, positive(times, "the number of times that repeat holds a round"))
    validate(repeated)
    return repeated
