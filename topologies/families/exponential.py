"""Exponential graphs: hops that grow by powers, one power in each round."""

from __future__ import annotations

from topologies.checks import positive
from topologies.errors import TopologyError
from topologies.kinds.circulants import Columns, uniform
from topologies.validation import validated


class Exponential(Columns):
    """The schedule that `exponential` returns."""


def exponential(size: int, peers: int = 1) -> Exponential:
    """Exponential graph, directed, another hop in each round: `peers` messages a rank, log(n) rounds a period.

    With b = peers + 1 and L the smallest integer with b^L >= n, at least 1, rank r sends in round t to

        (r + j · b^i) mod n    for j = 1 … peers,    i = t mod L

    and every share is 1/(number of out-peers + 1). Out-peers that coincide, or are r itself, are left out, so some
    rounds have fewer than `peers`. The SGP authors' code counts each of them: see `sgp_graph` with
    kind="NPeerDynamicDirectedExponentialGraph". If n is a power of b, the L matrices multiply to the exact average. On
    other n they come close to it.

    Args:
        size: number of ranks n, from 1.
        peers: from 1 to n - 1; on a single rank any number, because there is no other rank.

    Raises:
        TopologyError: other values.

    >>> exponential(8).turn(rank=0, round=1)
    Turn(keep=0.5, sends={2: 0.5}, receives={6: 0.5})

    Source: Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv 1811.10792, appendix A. The proof
    of exactness: Ying et al., Exponential Graph is Provably Efficient, NeurIPS 2021, arXiv 2110.13363, section 4.
    """
    size = positive(size, "the size of an exponential graph")
    peers = positive(peers, "the number of peers of an exponential graph")
    if 1 < size <= peers:
        raise TopologyError(
            f"peers={peers} does not fit an exponential graph of {size} ranks, where a rank has only "
            f"{size - 1} other{'s' if size > 2 else ''}: pass peers={size - 1} or less, or start more "
            "ranks"
        )
    hops = ([j * power for j in range(1, peers + 1)] for power in powers(peers + 1, size))
    return validated(Exponential(size, [uniform(size, round) for round in hops]))


def powers(base: int, size: int) -> list[int]:
    """The powers base^i for i = 0 … L - 1, where L is the smallest number of at least 1 with base^L >= size.

    >>> powers(2, 6)
    [1, 2, 4]
    """
    found = [1]
    while found[-1] * base < size:
        found.append(found[-1] * base)
    return found
