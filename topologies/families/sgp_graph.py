"""The graph classes of the SGP authors' code, by the names that they have there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from topologies.checks import positive
from topologies.errors import TopologyError
from topologies.families.exponential import powers
from topologies.kinds.circulants import Columns
from topologies.validation import validated


class SgpGraph(Columns):
    """The schedule that `sgp_graph` returns."""


def _both_ways(hops: Sequence[int]) -> list[int]:
    return [sign * hop for hop in hops for sign in (1, -1)]


def _odd(size: int) -> list[int]:
    return list(range(1, size, 2))


def _one_more(size: int) -> list[int]:
    return [1, *(1 + power for power in powers(2, size)[1:])]


HOPS: Mapping[str, Callable[[int, int], list[int]]] = MappingProxyType(
    {
        "DynamicDirectedExponentialGraph": lambda size, peers: _both_ways(powers(2, size)),
        "NPeerDynamicDirectedExponentialGraph": lambda size, peers: [
            j * power for power in powers(peers + 1, size) for j in range(1, peers + 1)
        ],
        "DynamicBipartiteExponentialGraph": lambda size, peers: _both_ways(_one_more(size)),
        "DynamicDirectedLinearGraph": lambda size, peers: _both_ways(_odd(size)),
        "DynamicBipartiteLinearGraph": lambda size, peers: _both_ways(_odd(size)),
        "RingGraph": lambda size, peers: [1, -1][:peers],
    }
)
"""From the name of a class to its list of hops, of which each round takes the next `peers`."""


def sgp_graph(size: int, kind: str = "DynamicDirectedExponentialGraph", peers: int = 1) -> SgpGraph:
    """The graph classes of the SGP authors' code by their names there, for runs that are to repeat theirs; directed.

    In round t every rank sends over the next `peers` hops of a list, which starts over at its end. Each hop has the
    share 1/(1 + peers):

        DynamicDirectedExponentialGraph         +1, -1, +2, -2, +4, -4, …      2^i < n
        NPeerDynamicDirectedExponentialGraph    j (peers + 1)^i                j = 1 .. peers,  (peers + 1)^i < n
        DynamicBipartiteExponentialGraph        +1, -1, +3, -3, +5, -5, …      1, and then 1 + 2^i,  2^i < n
        DynamicDirectedLinearGraph              +1, -1, +3, -3, +5, -5, …      every odd number below n
        DynamicBipartiteLinearGraph             the same, for even n
        RingGraph                               +1, or +1 and -1 in each round

    The list keeps hops that are the same modulo n, so the same peer may come twice. In one round this is one message
    with both shares, where that code sends two. A hop of 0 modulo n is kept.

    In the bipartite classes an even rank always sends to an odd one, but ranks do not meet in pairs;
    `bipartite_exponential` has pairs. `exponential` with one peer is the NPeer class. With more peers, and in
    `alternating_exponential`, a repeated hop counts once and a hop of 0 not at all. So on most n periods or shares
    differ.

    Args:
        size: number of ranks n, from 1, even for bipartite classes.
        kind: one of the names above.
        peers: hops that a round takes, from 1 to the length of the list.

    Raises:
        TopologyError: other values.

    >>> schedule = sgp_graph(8, "DynamicBipartiteExponentialGraph")
    >>> [list(schedule.turn(0, round).sends) for round in range(schedule.period)]
    [[1], [7], [3], [5], [5], [3]]

    Source: for the method, Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv 1811.10792. The
    lists of hops are those of the classes of the same names in fairscale 0.4.13.
    """
    size = positive(size, "the size of an SGP graph")
    peers = positive(peers, "the number of peers of an SGP graph")
    if not isinstance(kind, str) or kind not in HOPS:
        raise TopologyError(f"the kind of an SGP graph must be one of {', '.join(HOPS)}, not {kind!r}")
    if size > 1 and size % 2 and "Bipartite" in kind:
        raise TopologyError(
            f"a {kind} of {size} ranks does not exist, because even ranks send to odd ones all round the ring: start "
            f"{size - 1} or {size + 1} ranks, or take a directed class"
        )
    hops = HOPS[kind](size, peers)
    if size > 1 and peers > len(hops):
        raise TopologyError(
            f"peers={peers} does not fit a {kind} of {size} ranks, whose list has {len(hops)} "
            f"hop{'s' * (len(hops) > 1)}: pass peers={len(hops)} or less"
        )
    return validated(SgpGraph(size, _rounds(size, hops, peers) if size > 1 else [{0: 1.0}]))


def _rounds(size: int, hops: Sequence[int], peers: int) -> list[dict[int, float]]:
    """The columns of one period: `peers` hops a round, until a round begins where the first one did."""
    taken = itertools.cycle(hops)
    columns: list[dict[int, float]] = []
    for _ in range(math.lcm(peers, len(hops)) // peers):
        column = {0: 1 / (1 + peers)}
        for hop in itertools.islice(taken, peers):
            column[hop % size] = column.get(hop % size, 0.0) + 1 / (1 + peers)
        columns.append(column)
    return columns
