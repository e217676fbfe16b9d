"""What all compositions share: their text, their laws, and rounds that are rounds of others."""

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
"""Up to so many numbers stand in a text one by one."""


class Composed(Topology):
    """A topology made of others so that it obeys the laws where they do.

    Its text is theirs, and what it does with them. So `describe` tells compositions apart whose first rounds are the
    same, and costs what describing the parts costs.
    """

    parts: tuple[Topology, ...]
    """What it is made of."""

    def __init__(self, size: int, period: int | None, parts: Sequence[Topology]) -> None:
        """`parts`: topologies whose laws imply those of this one."""
        super().__init__(size, period)
        self.parts = tuple(parts)

    @abstractmethod
    def options(self) -> str:
        """What beside the parts tells the schedule, as in "times=3"; empty where nothing does."""

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
        """The topology whose turn it is in `round`, and which of its rounds it plays."""

    @final
    def turn(self, rank: int, round: int) -> Turn:
        """The turn of `rank` in the round that is played."""
        topology, played = self.at(round)
        return topology.turn(rank, played)

    @final
    def edges(self, round: int) -> Edges:
        """The edges of the round that is played."""
        topology, played = self.at(round)
        return topology.edges(played)

    @final
    def mix(self, values: Floats, round: int) -> Floats:
        """The round that is played, simulated."""
        topology, played = self.at(round)
        return topology.mix(values, played)

    @final
    def doubly_stochastic(self, round: int) -> bool:
        """Whether the rows of the round that is played sum to 1; the topology it comes from remembers."""
        topology, played = self.at(round)
        return topology.doubly_stochastic(played)

    @final
    def keeps_alike(self, round: int) -> bool:
        """Whether every rank keeps the same share in the round that is played."""
        topology, played = self.at(round)
        return topology.keeps_alike(played)


def same_size(topologies: Iterable[Topology], who: str) -> int:
    """The number of ranks that all have; raises `TopologyError` that begins with `who` where they differ."""
    first, *others = topologies
    for number, other in enumerate(others, start=1):
        if other.size != first.size:
            raise TopologyError(
                f"{who}: part {number}, {other!r}, has {other.size} ranks, but part 0, {first!r}, has {first.size}: "
                "make all parts with the size of the world"
            )
    return first.size


def shown(numbers: Sequence[int]) -> str:
    """The numbers as text, or, where they are more than 16, how many there are and a digest.

    >>> shown((2, 0, 1))
    '[2, 0, 1]'
    """
    if len(numbers) <= SHOWN:
        return str(list(numbers))
    return f"<{len(numbers)} numbers sha256:{hashlib.sha256(str(list(numbers)).encode()).hexdigest()[:16]}>"
