"""The ranks that messages reach over some edges, and random graphs drawn until they connect."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import networkx as nx
import numpy as np
import numpy.typing as npt

from topologies.arrays.draws import draw
from topologies.arrays.edges import Ranks
from topologies.errors import TopologyError


def reachable(size: int, source: Ranks, target: Ranks, start: int = 0) -> npt.NDArray[np.bool_]:
    """Shape (n,): whether the edges source -> target lead from `start` to each rank, itself included; O(n + m)."""
    order = np.argsort(source, kind="stable")
    peer = target[order]
    first = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=size))])
    found = np.zeros(size, dtype=np.bool_)
    found[start] = True
    frontier = np.array([start])
    while len(frontier):
        counts = first[frontier + 1] - first[frontier]
        # The indices in `peer` of all out-peers of the frontier, rank after rank.
        ends = np.cumsum(counts)
        places = np.arange(ends[-1]) + np.repeat(first[frontier] - ends + counts, counts)
        peers = peer[places]
        frontier = np.unique(peers[~found[peers]])
        found[frontier] = True
    return found


def is_strongly_connected(size: int, source: Ranks, target: Ranks) -> bool:
    """Whether the edges lead from every rank to every other one."""
    return bool(reachable(size, source, target).all() and reachable(size, target, source).all())


TRIES = 100
"""The number of graphs that are drawn before the search for a connected one ends."""


def first_connected(seed: int, sample: Callable[[int], nx.Graph[int]], what: str, advice: str) -> Ranks:
    """The edges, shape (m, 2), of the first connected graph among `sample(seed of the try)`.

    The seeds of the tries follow from `seed`, so all ranks draw the same graph. If no try connects, a `TopologyError`
    begins with `what` and ends with `advice`.

    >>> first_connected(0, lambda seed: nx.gnp_random_graph(2, 0.3, seed), "a graph of two ranks", "take another seed")
    array([[0, 1]])
    """
    for attempt in range(TRIES):
        graph = sample(draw(seed, attempt))
        ends = ends_of(graph)
        source, target = ends.T.ravel(), ends[:, ::-1].T.ravel()
        if reachable(len(graph), source, target).all():
            return ends
    raise TopologyError(f"{what} was not connected in any of {TRIES} draws: {advice}")


def ends_of(graph: nx.Graph[int]) -> Ranks:
    """The edges of an undirected graph on 0 … n - 1, each once, shape (m, 2).

    >>> ends_of(nx.path_graph(3)).tolist()
    [[0, 1], [1, 2]]
    """
    return np.fromiter(chain.from_iterable(graph.edges), np.int64, 2 * graph.number_of_edges()).reshape(-1, 2)
