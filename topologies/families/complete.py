"""The complete graph: every rank talks to every other one."""

from __future__ import annotations

from collections.abc import Mapping

from topologies.circulant import Circulant, uniform
from topologies.topology import positive
from topologies.validation import validate


class Complete(Circulant):
    """The schedule that `complete` returns."""

    def __init__(self, size: int) -> None:
        """Lay out the one column."""
        super().__init__(size, period=1)
        self._column = uniform(size, range(size))

    def column(self, round: int) -> Mapping[int, float]:
        """The same in every round."""
        return self._column


def complete(size: int) -> Complete:
    """Complete graph: every rank sends to every other one, and one round is the exact average.

        P = 1 1ᵀ / n

    It takes n - 1 messages a rank and round: good for comparison on few ranks, while an exact average by all-reduce
    moves far fewer bytes.

    size: number of ranks n, from 1. Raises `TopologyError` for other values.

    >>> complete(4).turn(rank=1, round=0)
    Turn(keep=0.25, sends={2: 0.25, 3: 0.25, 0: 0.25}, receives={0: 0.25, 3: 0.25, 2: 0.25})
    """
    topology = Complete(positive(size, "the size of a complete graph"))
    validate(topology)
    return topology
