"""The share that a rank gives to each of its neighbours, if the graph has no shares of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from topologies.arrays.edges import Edges, Floats, Ranks, totals
from topologies.errors import TopologyError

Rule = Callable[[Ranks, Ranks], Floats]


def metropolis(own: Ranks, other: Ranks) -> Floats:
    """Metropolis-Hastings: the same share both ways, so that rows sum to 1 as columns do.

    Source: Xiao, Boyd, Lall, A Scheme for Robust Distributed Sensor Fusion Based on Average Consensus, IPSN 2005.
    """
    # P[i, j] = 1 / (1 + max(d_i, d_j))
    shares: Floats = 1 / (1 + np.maximum(own, other))
    return shares


def uniform(own: Ranks, other: Ranks) -> Floats:
    """The same share for each neighbour and for the rank itself; rows sum to 1 only if all degrees agree."""
    # P[i, j] = 1 / (1 + d_j)
    shares: Floats = 1 / (1 + own)
    return shares


RULES: Mapping[str, Rule] = MappingProxyType({"metropolis": metropolis, "uniform": uniform})
"""From the degrees of the sender and the receiver of an edge to its share."""


def weighted(size: int, source: Ranks, target: Ranks, weights: str) -> Edges:
    """The edges source -> target with the shares of the rule `weights`, "metropolis" or "uniform".

    The degree is the number of out-peers. Metropolis weights presume that every edge also exists in the other
    direction. Any other text raises `TopologyError`.

    >>> weighted(3, np.array([0, 1, 1, 2]), np.array([1, 0, 2, 1]), "uniform").share.tolist()
    [0.5, 0.3333333333333333, 0.3333333333333333, 0.5]
    """
    rule = RULES.get(weights) if isinstance(weights, str) else None
    if rule is None:
        raise TopologyError(f"there are no weights {weights!r}: pass weights={' or weights='.join(map(repr, RULES))}")
    degree = np.bincount(source, minlength=size)
    share = rule(degree[source], degree[target])
    # P[j, j] = 1 - Σ_i P[i, j] = 1/(1 + d_j) + Σ_i (1/(1 + d_j) - P[i, j]), which rounds less if d_j is large
    even = 1 / (1 + degree)
    return Edges(even + totals(size, source, even[source] - share), source, target, share)


def undirected(size: int, ends: Ranks, weights: str) -> Edges:
    """The edges {u, v}, shape (m, 2), each given once, in both directions and sorted; `weights` as in `weighted`.

    >>> undirected(3, np.array([[0, 1], [1, 2]]), "metropolis").keep.round(3).tolist()
    [0.667, 0.333, 0.667]
    """
    u, v = ends.T
    source, target = np.divmod(np.sort(np.concatenate([u * size + v, v * size + u])), size)
    return weighted(size, source, target, weights)
