"""Random regular graphs: every rank has equally many neighbours, drawn at random."""

from __future__ import annotations

import networkx as nx
import numpy as np

from topologies.arrays.connectivity import ends_of, first_connected
from topologies.arrays.draws import Shuffle, draw
from topologies.arrays.edges import Ranks
from topologies.arrays.weights import undirected
from topologies.checks import natural, positive
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.validation import validated


class RandomRegular(Table):
    """The schedule that `random_regular` returns."""


def random_regular(size: int, degree: int | None = None, seed: int = 0, weights: str = "metropolis") -> RandomRegular:
    """Random regular graph: every rank exchanges with d others, the same ones in all rounds, drawn by `seed`.

        every share 1/(1 + d)

    The spectral gap stays near 1 - (1 + 2√(d - 1))/(1 + d) for any n, about .11 for d = 4. The gaps of rings and grids
    fall to 0. So this graph has few messages and fast agreement. All degrees agree, so both rules of `weights` give
    these shares.

    Args:
        size: number of ranks n, from 1.
        degree: d, from 2 to n - 1, with n · d even; 1 joins no more than two ranks. None stands for 4, or n - 1 where
            that is less.
        seed: an integer from 0; a draw that is not connected is drawn again.
        weights: "metropolis" or "uniform", as for `grid`.

    Raises:
        TopologyError: other values.

    >>> sorted(random_regular(10, degree=3).turn(rank=0, round=0).sends.values())
    [0.25, 0.25, 0.25]

    Source: Steger, Wormald, Generating Random Regular Graphs Quickly, Combinatorics, Probability and Computing 1999.
    The gap: Friedman, A Proof of Alon's Second Eigenvalue Conjecture, Memoirs of the AMS 2008.
    """
    size = positive(size, "the size of a random regular graph")
    seed = natural(seed, "the seed of a random regular graph")
    degree = min(4, size - 1) if degree is None else _fitting(size, degree)
    return validated(RandomRegular([undirected(size, _ends(size, degree, seed), weights)]))


def _fitting(size: int, degree: int) -> int:
    degree = positive(degree, "the degree of a random regular graph")
    if degree >= size:
        few = {1: "no other: leave the degree out", 2: "only 1 other: pass degree=1"}
        others = few.get(size, f"only {size - 1} others: pass degree={size - 1} or less")
        raise TopologyError(
            f"degree={degree} does not fit a random regular graph of size {size}, where a rank has {others}, or start "
            "more ranks"
        )
    if degree == 1 and size > 2:
        raise TopologyError(
            f"degree=1 joins {size} ranks to separate pairs, which would never agree: pass degree=2 or more"
        )
    if size * degree % 2:
        raise TopologyError(
            f"a random regular graph of {size} ranks with degree={degree} would have {size * degree / 2} edges: pass "
            f"degree={degree - 1} or degree={degree + 1}, or start {size - 1} or {size + 1} ranks"
        )
    return degree


def _ends(size: int, degree: int, seed: int) -> Ranks:
    if 2 * degree >= size:
        # The complement is a regular graph too and has fewer edges. A graph of so high a degree is always connected.
        rest = nx.random_regular_graph(size - 1 - degree, size, draw(seed))
        return ends_of(nx.complement(rest))
    if degree == 2:
        # A connected 2-regular graph is a ring in some order. Drawing until it connects takes ever longer with n.
        order = Shuffle(size, draw(seed)).places(np.arange(size))
        return np.stack([order, np.roll(order, -1)], axis=1)
    # Nearly all graphs of degree 3 or more are connected.
    return first_connected(
        seed,
        lambda seed: nx.random_regular_graph(degree, size, seed),
        f"a random regular graph of {size} ranks with degree={degree}",
        "pass another seed",
    )
