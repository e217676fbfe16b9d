"""Circulant graphs: every rank sends over the same hops, which the caller gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from topologies.checks import flag, integers, positive
from topologies.errors import TopologyError
from topologies.kinds.circulants import Columns, uniform
from topologies.topology import TOLERANCE
from topologies.validation import is_share, validated

R = TypeVar("R", int, float)


class CirculantGraph(Columns):
    """The schedule that `circulant` returns."""


def circulant(
    size: int, hops: Iterable[int] = (1, -1), one_by_one: bool = False, weights: Sequence[float] | None = None
) -> CirculantGraph:
    """Circulant graph, directed: every rank sends over the given hops, all in every round or one in each round.

        r -> (r + h) mod n    for all h in hops,  or, one_by_one,  for h = hops[t mod period], period = len(hops)

    Shares are 1/(number of out-peers + 1), or as given. A hop and its negative make an edge that goes both ways. A
    multiple of n leads back to the rank itself and is left out, and hops that coincide modulo n are one edge. So the
    same hops serve any size. `circulant(n, range(1, n), one_by_one=True)` cycles through the complete graph.

    Args:
        size: number of ranks n, from 1.
        hops: integers of any sign, at least one.
        one_by_one: whether each round takes one hop, in turn.
        weights: the share for each hop, in the same order. In a round they sum to less than 1, and a rank keeps the
            rest.

    Raises:
        TopologyError: other values, or hops that do not connect all ranks because they and n have a common divisor.

    >>> circulant(6, [1, -2]).turn(rank=0, round=0)
    Turn(keep=0.333..., sends={1: 0.333..., 4: 0.333...}, receives={5: 0.333..., 2: 0.333...})
    >>> circulant(6, [1, -2], one_by_one=True, weights=[0.5, 0.25]).turn(rank=0, round=1)
    Turn(keep=0.75, sends={4: 0.25}, receives={2: 0.25})
    """
    size = positive(size, "the size of a circulant graph")
    hops = integers(hops, "the hops of a circulant graph")
    one_by_one = flag(one_by_one, "the option one_by_one of a circulant graph")
    if not hops:
        raise TopologyError("a circulant graph has no hops: give at least one, as in hops=[1, -1]")
    if weights is None:
        columns = [uniform(size, part) for part in _rounds(hops, one_by_one)]
    else:
        shares = _rounds(_shares(hops, weights), one_by_one)
        columns = [_column(size, *part) for part in zip(_rounds(hops, one_by_one), shares, strict=True)]
    return validated(CirculantGraph(size, columns))


def _rounds(values: Sequence[R], one_by_one: bool) -> list[Sequence[R]]:
    return [[value] for value in values] if one_by_one else [values]


def _shares(hops: Sequence[int], weights: Sequence[float]) -> list[float]:
    try:
        shares = list(weights)
    except TypeError:
        shares = []
    if len(shares) != len(hops):
        raise TopologyError(
            f"the weights of a circulant graph are a share for each of its {len(hops)} hops, not {weights!r}"
        )
    for hop, share in zip(hops, shares, strict=True):
        if not is_share(share):
            raise TopologyError(f"the weight {share!r} of hop {hop} is no share: give a number above 0 and below 1")
    return [float(share) for share in shares]


def _column(size: int, hops: Sequence[int], shares: Sequence[float]) -> dict[int, float]:
    if math.fsum(shares) >= 1 - TOLERANCE:
        raise TopologyError(
            f"the weights {list(shares)} of the hops {list(hops)} sum to {math.fsum(shares):.12g}, and every rank must "
            "keep some: lower them until they sum to less than 1"
        )
    column = {0: 0.0}
    for hop, share in zip(hops, shares, strict=True):
        column[hop % size] = column.get(hop % size, 0.0) + share
    # P[j, j] = 1 - Σ_h share(h) over the hops that lead to another rank
    return {**column, 0: 1 - math.fsum(share for hop, share in column.items() if hop)}
