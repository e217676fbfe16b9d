"""The linear schedule: one peer, at every odd distance in turn."""

from __future__ import annotations

from collections.abc import Mapping

from topologies.checks import positive
from topologies.kinds.circulants import Circulant, uniform
from topologies.validation import validated


class Linear(Circulant):
    """The schedule that `linear` returns."""

    def __init__(self, size: int) -> None:
        super().__init__(size, period=max(1, size // 2))

    def column(self, round: int) -> Mapping[int, float]:
        return uniform(self.size, [2 * (round % (self.size // 2 or 1)) + 1])


def linear(size: int) -> Linear:
    """Linear schedule, directed: one peer a round, 1, 3, 5, … ranks ahead, every odd distance below n in turn.

        P(t) = (I + S^h)/2,    h = 2 (t mod ⌊n/2⌋) + 1,    S[(j + 1) mod n, j] = 1

    The SGP authors' linear schedules go h ahead and then h behind, and keep hops that come twice. In this package they
    are `sgp_graph` with kind="DynamicDirectedLinearGraph".

    This family serves for comparison. A period of ⌊n/2⌋ rounds leaves 2^(-n/4) of a disagreement if n is a multiple of
    4. On powers of two `exponential` leaves nothing after log₂(n) rounds.

    Args:
        size: number of ranks n, from 1.

    Raises:
        TopologyError: another size.

    >>> [list(linear(7).turn(rank=0, round=round).sends) for round in range(4)]
    [[1], [3], [5], [1]]

    Source: after one half of the schedule of Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv
    1811.10792.
    """
    return validated(Linear(positive(size, "the size of a linear schedule")))
