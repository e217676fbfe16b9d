"""The bipartite exponential schedule: even ranks meet odd ones, at distances that grow by powers of two."""

from __future__ import annotations

from topologies.checks import positive
from topologies.families.exponential import powers
from topologies.kinds.pairing import Pairing, R, choose
from topologies.validation import validated


class BipartiteExponential(Pairing):
    """The schedule that `bipartite_exponential` returns."""

    def __init__(self, size: int) -> None:
        # An odd hop leads from even places to odd ones everywhere only if the circle is even.
        self.circle = size + size % 2
        self.hops = tuple(1 if power == 1 else 1 + power for power in powers(2, self.circle))
        super().__init__(size, period=len(self.hops))

    def partner(self, rank: R, round: int) -> R:
        hop = self.hops[round % len(self.hops)]
        # r + h where r is even, r - h where it is odd
        place = (rank + hop * (1 - 2 * (rank % 2))) % self.circle
        return choose(place < self.size, place, rank)


def bipartite_exponential(size: int) -> BipartiteExponential:
    """Bipartite exponential schedule: pairs of an even and an odd rank, at distances 1, 3, 5, 9, 17, … in turn.

        partner(r, t) = r + h(t) for even r,  r - h(t) for odd r,  mod n;    h = 1 and then 1 + 2^i,    2^i < n

    An odd number of ranks stands on a circle of n + 1 places. The last place is empty, and the rank that would meet it
    rests. An even rank always meets an odd one. So ranks that lock each other while they meet never wait in a circle if
    the even ones begin.

    The SGP authors' schedule of this name has the same distances and no pairs: all ranks send h ahead and then h
    behind. That schedule is `sgp_graph` with kind="DynamicBipartiteExponentialGraph". This family serves for
    comparison: on 16 ranks a period leaves .60 of a disagreement.

    Args:
        size: number of ranks n, from 1.

    Raises:
        TopologyError: another size.

    >>> [bipartite_exponential(6).partner(0, round) for round in range(3)]
    [1, 3, 5]

    Source: for the two sides, Lian, Zhang, Zhang, Liu: Asynchronous Decentralized Parallel SGD, ICML 2018, arXiv
    1710.06952. The distances are after Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv
    1811.10792.
    """
    return validated(BipartiteExponential(positive(size, "the size of a bipartite exponential schedule")))
