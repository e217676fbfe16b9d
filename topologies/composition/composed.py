"""The base classes of compositions: their text, their laws, and rounds that are rounds of others."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import final

from topologies.arrays.edges import Edges, Floats
from topologies.errors import TopologyError
from topologies.topology import Topology, Turn
from topologies.validation import laws, validate

SHOWN = 16
"""The largest count of numbers that a text shows one by one."""


class Composed(Topology):
    """A topology made of others, which obeys the laws if they do.

    Its text holds their texts and its own options. So `describe` distinguishes compositions with the same first rounds,
    and costs no more than describing the parts.
    """

    parts: tuple[Topology, ...]
    """The topologies that it is made of."""

    def __init__(self, size: int, period: int | None, parts: Sequence[Topology]) -> None:
        """`parts`: topologies whose laws imply those of this one."""
        super().__init__(size, period)
        self.parts = tuple(parts)

    @abstractmethod
    def options(self) -> str:
        """The options that determine the schedule besides the parts, as in "times=3"; empty if there are none."""

    @final
    def describe(self) -> str:
        """One line that is the same on all ranks that run the same composition of the same parts."""
        return self._text([part.describe() for part in self.parts])

    @final
    def __repr__(self) -> str:
        """Class, parts, options, size and period."""
        return self._text([repr(part) for part in self.parts])

    def _text(self, parts: list[str]) -> str:
        facts = [f"size={self.size}", f"period={self.period}"]
        return f"{type(self).__name__}({', '.join([*parts, *filter(None, [self.options()]), *facts])})"


@laws.register
def _(topology: Composed) -> None:
    for part in topology.parts:
        validate(part)


class Arranged(Composed):
    """A schedule whose rounds are rounds of others."""

    @abstractmethod
    def at(self, round: int) -> tuple[Topology, int]:
        """The topology that plays in `round`, and the number of its own round."""

    @final
    def turn(self, rank: int, round: int) -> Turn:
        topology, played = self.at(round)
        return topology.turn(rank, played)

    @final
    def edges(self, round: int) -> Edges:
        topology, played = self.at(round)
        return topology.edges(played)

    @final
    def mix(self, values: Floats, round: int) -> Floats:
        topology, played = self.at(round)
        return topology.mix(values, played)

    @final
    def doubly_stochastic(self, round: int) -> bool:
        topology, played = self.at(round)
        return topology.doubly_stochastic(played)

    @final
    def keeps_alike(self, round: int) -> bool:
        topology, played = self.at(round)
        return topology.keeps_alike(played)


def same_size(topologies: Iterable[Topology], who: str) -> int:
    """The number of ranks that all have; different numbers raise a `TopologyError` that begins with `who`."""
    first, *others = topologies
    for number, other in enumerate(others, start=1):
        if other.size != first.size:
            raise TopologyError(
                f"{who}: part {number}, {other!r}, has {other.size} ranks, but part 0, {first!r}, has {first.size}: "
                "make all parts with the size of the world"
            )
    return first.size


def shown(numbers: Sequence[int]) -> str:
    """The numbers as text, or, if they are more than 16, their count and a digest.

    >>> shown((2, 0, 1))
    '[2, 0, 1]'
    """
    if len(numbers) <= SHOWN:
        return str(list(numbers))
    return f"<{len(numbers)} numbers sha256:{hashlib.sha256(str(list(numbers)).encode()).hexdigest()[:16]}>"
