"""The star: every rank talks to rank 0 only."""

from __future__ import annotations

import numpy as np

from topologies.arrays.weights import undirected
from topologies.checks import positive
from topologies.kinds.table import Table
from topologies.validation import validated


class Star(Table):
    """The schedule that `star` returns."""


def star(size: int, weights: str = "metropolis") -> Star:
    """Star: rank 0, the hub, exchanges with every other rank, and these with no other.

        P[i, 0] = P[0, i] = 1/n            "metropolis", doubly stochastic, spectral gap 1/n
        P[i, 0] = 1/n,  P[0, i] = 1/2      "uniform", where weight gathers at the hub

    The hub takes n - 1 messages each way in every round, as a parameter server does.

    Args:
        size: number of ranks n, from 1.
        weights: "metropolis" or "uniform", as above.

    Raises:
        TopologyError: other values.

    >>> star(4).turn(rank=2, round=0)
    Turn(keep=0.75, sends={0: 0.25}, receives={0: 0.25})

    Source: Nedić, Olshevsky, Rabbat, Network Topology and Communication-Computation Tradeoffs in Decentralized
    Optimization, Proceedings of the IEEE 2018, arXiv 1709.08765.
    """
    size = positive(size, "the size of a star")
    others = np.arange(1, size)
    return validated(Star([undirected(size, np.stack([np.zeros_like(others), others], axis=1), weights)]))
