"""Random graphs of networkx, drawn again until they connect."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import networkx as nx
import numpy as np

from topologies.arrays.connectivity import reached
from topologies.arrays.draws import draw
from topologies.arrays.edges import Ranks

TRIES = 100
"""The number of graphs that are drawn before the search for a connected one ends."""


def first_connected(seed: int, sample: Callable[[int], nx.Graph[int]]) -> Ranks | None:
    """The edges, shape (m, 2), of the first connected graph among `sample(seed of the try)`, or None.

    The seeds of the tries follow from `seed`, so all ranks draw the same graph.

    >>> first_connected(0, lambda seed: nx.gnp_random_graph(2, 0.3, seed))
    array([[0, 1]])
    """
    for attempt in range(TRIES):
        graph = sample(draw(seed, attempt))
        ends = ends_of(graph)
        source, target = ends.T.ravel(), ends[:, ::-1].T.ravel()
        if reached(len(graph), source, target).all():
            return ends
    return None


def ends_of(graph: nx.Graph[int]) -> Ranks:
    """The edges of an undirected graph on 0 … n - 1, each once, shape (m, 2).

    >>> ends_of(nx.path_graph(3)).tolist()
    [[0, 1], [1, 2]]
    """
    return np.fromiter(chain.from_iterable(graph.edges), np.int64, 2 * graph.number_of_edges()).reshape(-1, 2)
