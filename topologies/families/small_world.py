"""Small worlds: a ring of close neighbours with some edges that lead anywhere."""

from __future__ import annotations

import networkx as nx

from topologies.arrays.connectivity import first_connected
from topologies.arrays.weights import undirected
from topologies.checks import natural, positive, probability
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.validation import validated


class SmallWorld(Table):
    """The schedule that `small_world` returns."""


def small_world(
    size: int, neighbours: int = 4, rewire: float = 0.1, seed: int = 0, weights: str = "metropolis"
) -> SmallWorld:
    """Small world: a ring with k neighbours a rank, k/2 on each side, where some edges lead to random ranks instead.

        {r, (r + h) mod n}, h = 1 … k/2, becomes {r, any other rank} with probability `rewire`

    A few far edges bring all ranks within about log n hops, and most traffic stays between close ranks. With rewire=0
    the graph is circulant. A draw that is not connected is drawn again.

    Args:
        size: number of ranks n, from 1.
        neighbours: k, even, from 2; on k ranks or fewer all of them are neighbours.
        rewire: a probability from 0 to 1.
        seed: an integer from 0.
        weights: "metropolis" or "uniform", as for `grid`.

    Raises:
        TopologyError: other values, or 100 draws of which none is connected.

    >>> small_world(8, rewire=0).turn(rank=0, round=0).sends
    {1: 0.2, 2: 0.2, 6: 0.2, 7: 0.2}

    Source: Watts, Strogatz, Collective Dynamics of 'Small-World' Networks, Nature 1998.
    """
    size = positive(size, "the size of a small world")
    seed = natural(seed, "the seed of a small world")
    rewire = probability(rewire, "the option rewire of a small world")
    neighbours = positive(neighbours, "the number of neighbours in a small world")
    if neighbours % 2:
        raise TopologyError(
            f"neighbours={neighbours} is odd, and half of them stand on each side in a small world: pass "
            f"neighbours={max(2, neighbours - 1)} or neighbours={neighbours + 1}"
        )
    ends = first_connected(
        seed,
        lambda seed: nx.watts_strogatz_graph(size, min(neighbours, size), rewire, seed),
        f"a small world of {size} ranks with neighbours={neighbours} and rewire={rewire:g}",
        f"pass neighbours={neighbours + 2} or more, or a smaller rewire",
    )
    return validated(SmallWorld([undirected(size, ends, weights)]))
