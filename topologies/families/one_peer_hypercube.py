"""The one-peer hypercube: ranks that differ in one bit meet, another bit in each round."""

from __future__ import annotations

from topologies.checks import positive
from topologies.errors import TopologyError
from topologies.kinds.pairing import Pairing, R
from topologies.validation import validated


class OnePeerHypercube(Pairing):
    """The schedule that `one_peer_hypercube` returns."""

    def __init__(self, size: int) -> None:
        self.bits = max(1, size.bit_length() - 1)
        super().__init__(size, period=self.bits)

    def partner(self, rank: R, round: int) -> R:
        return rank ^ (1 << round % self.bits & self.size - 1)


def one_peer_hypercube(size: int) -> OnePeerHypercube:
    """One-peer hypercube: pairs along one dimension of the cube a round; log₂(n) rounds are the exact average.

        partner(r, t) = r xor 2^(t mod log₂ n)

    The period and the number of messages are those of `exponential`, but ranks meet in pairs, so every matrix is
    symmetric.

    Args:
        size: number of ranks n, a power of two; on other numbers `base_graph` is exact.

    Raises:
        TopologyError: another size.

    >>> [one_peer_hypercube(8).partner(5, round) for round in range(3)]
    [4, 7, 1]

    Source: Shi, Li, Johansson, Johansson: Finite-Time Convergent Gossiping, IEEE/ACM Transactions on Networking 24(5),
    2016. The paper also shows that averages of two ranks are never exact on other numbers of ranks.
    """
    size = positive(size, "the size of a one-peer hypercube")
    if size & size - 1:
        below = 1 << size.bit_length() - 1
        raise TopologyError(
            f"a one-peer hypercube of {size} ranks does not exist, as {size} is no power of two: start {below} or "
            f"{2 * below} ranks, or take base_graph({size}), which is exact with one peer on any number of ranks"
        )
    return validated(OnePeerHypercube(size))
