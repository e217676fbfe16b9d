"""The hypercube: ranks whose binary digits differ in one place are neighbours."""

from __future__ import annotations

import numpy as np

from topologies.arrays.weights import undirected
from topologies.checks import positive
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.validation import validated


class Hypercube(Table):
    """The schedule that `hypercube` returns."""


def hypercube(size: int, weights: str = "metropolis") -> Hypercube:
    """Hypercube of n = 2^d ranks: rank r exchanges with the d ranks that differ from it in one binary digit.

        r  and  r xor 2^i    for i = 0 … d - 1,    every share 1/(1 + d)

    The spectral gap is 2/(1 + log₂ n). All degrees agree, so both rules of `weights` give these shares.

    Args:
        size: number of ranks n, a power of two; no other number of ranks has a hypercube.
        weights: "metropolis" or "uniform", as for `grid`.

    Raises:
        TopologyError: other values.

    >>> hypercube(8).turn(rank=5, round=0)
    Turn(keep=0.25, sends={1: 0.25, 4: 0.25, 7: 0.25}, receives={1: 0.25, 4: 0.25, 7: 0.25})

    Source: Nedić, Olshevsky, Rabbat, Network Topology and Communication-Computation Tradeoffs in Decentralized
    Optimization, Proceedings of the IEEE 2018, arXiv 1709.08765.
    """
    size = positive(size, "the size of a hypercube")
    dimensions = size.bit_length() - 1
    if size != 1 << dimensions:
        raise TopologyError(
            f"a hypercube has 2^d ranks, and {size} is no power of two: start {1 << dimensions} or "
            f"{2 << dimensions} ranks, or take static_exponential({size}), which has any number of them"
        )
    ranks = np.arange(size)
    lower = [ranks[ranks >> i & 1 == 0] for i in range(dimensions)]
    pairs = [np.stack([low, low + (1 << i)], axis=1) for i, low in enumerate(lower)]
    return validated(Hypercube([undirected(size, np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs]), weights)]))
