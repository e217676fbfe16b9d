"""The alternating exponential schedule: hops that grow by powers of two, forward and back in turn."""

from __future__ import annotations

from topologies.checks import positive
from topologies.families.exponential import powers
from topologies.kinds.circulants import Columns, uniform
from topologies.validation import validated


class AlternatingExponential(Columns):
    """The schedule that `alternating_exponential` returns."""


def alternating_exponential(size: int) -> AlternatingExponential:
    """Alternating exponential schedule, directed: one peer a round, 2^i ranks ahead and then 2^i ranks behind.

        P(t) = (I + S^h(t)) / 2,    h = +1, -1, +2, -2, +4, -4, …,    2^i < n,    S[(j + 1) mod n, j] = 1

    Hops that are the same modulo n count once. The SGP authors' schedule keeps both: on 8 ranks it sends +4 and then -4
    to the same peer. That schedule is `sgp_graph` with kind="DynamicDirectedExponentialGraph".

    This family serves for comparison. On powers of two, one period of 2 log₂(n) - 1 rounds gives the exact average, and
    `exponential` needs log₂(n) rounds.

    Args:
        size: number of ranks n, from 1.

    Raises:
        TopologyError: another size.

    >>> [list(alternating_exponential(8).turn(rank=0, round=round).sends) for round in range(5)]
    [[1], [7], [2], [6], [4]]

    Source: after the schedule of Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv 1811.10792.
    """
    size = positive(size, "the size of an alternating exponential schedule")
    hops = dict.fromkeys(sign * power % size for power in powers(2, size) for sign in (1, -1))
    return validated(AlternatingExponential(size, [uniform(size, [hop]) for hop in hops]))
