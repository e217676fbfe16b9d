"""The complete graph: every rank talks to every other one."""

from __future__ import annotations

from topologies.checks import positive
from topologies.kinds.circulants import Columns, uniform
from topologies.validation import validated


class Complete(Columns):
    """The schedule that `complete` returns."""


def complete(size: int) -> Complete:
    """Complete graph: every rank sends to every other one, and one round is the exact average.

        P = 1 1ᵀ / n

    A round costs n - 1 messages a rank. The family serves for comparison on few ranks; an exact average by all-reduce
    moves far fewer bytes.

    Args:
        size: number of ranks n, from 1.

    Raises:
        TopologyError: another size.

    >>> complete(4).turn(rank=1, round=0)
    Turn(keep=0.25, sends={2: 0.25, 3: 0.25, 0: 0.25}, receives={0: 0.25, 3: 0.25, 2: 0.25})
    """
    size = positive(size, "the size of a complete graph")
    return validated(Complete(size, [uniform(size, range(size))]))
