"""A graph on which the push-sum weight matters."""

from __future__ import annotations

import networkx as nx


def lopsided(size: int) -> nx.DiGraph:
    """A ring in which every rank but the last also sends to rank 0, and rank 0 to every other second rank.

    Each source shares evenly, so columns sum to 1 and rows do not: rank 0 is heard more than it is listened to.

    >>> sorted(lopsided(4).in_degree())
    [(0, 3), (1, 1), (2, 2), (3, 1)]
    """
    ring = nx.cycle_graph(size, create_using=nx.DiGraph)
    ring.add_edges_from((rank, 0) for rank in range(1, size))
    ring.add_edges_from((0, rank) for rank in range(2, size, 2))
    return ring
