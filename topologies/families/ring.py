"""Rings: every rank talks to its next neighbours only."""

from __future__ import annotations

from topologies.checks import flag, positive
from topologies.kinds.circulants import Columns, uniform
from topologies.validation import validated


class Ring(Columns):
    """The schedule that `ring` returns."""


def ring(size: int, directed: bool = False) -> Ring:
    """Ring: every rank sends to its two neighbours, or, `directed`, to the next one only.

        P = (I + S + Sᵀ)/3    or, directed,    P = (I + S)/2,    S[(j + 1) mod n, j] = 1

    On two ranks both neighbours are the same one, which gets 1/2. A rank has few messages for any n, and agreement is
    slow: the spectral gap falls with 1/n².

    Args:
        size: number of ranks n, from 1.
        directed: whether a rank sends to the next rank only.

    Raises:
        TopologyError: other values.

    >>> ring(5).turn(rank=0, round=0)
    Turn(keep=0.3333333333333333, sends={1: 0.3333333333333333, 4: 0.3333333333333333}, receives={4: ..., 1: ...})

    Source: Lian et al., Can Decentralized Algorithms Outperform Centralized Algorithms?, NeurIPS 2017, arXiv
    1705.09056.
    """
    size = positive(size, "the size of a ring")
    return validated(Ring(size, [uniform(size, (1,) if flag(directed, "the option directed of a ring") else (1, -1))]))
