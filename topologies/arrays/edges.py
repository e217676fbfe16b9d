"""One round of a topology as arrays: what analysis, simulation and checks read at any number of ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]


class Edges(NamedTuple):
    """P(t) without its zeros: the diagonal, and one entry of each array for each edge.

    >>> edges = topologies.ring(3, directed=True).edges(0)
    >>> edges.source.tolist(), edges.target.tolist(), edges.share.tolist()
    ([0, 1, 2], [1, 2, 0], [0.5, 0.5, 0.5])
    """

    keep: Floats
    """Shape (n,): P[j, j], the share that rank j keeps of its own weight."""
    source: Ranks
    """Shape (m,): the rank j that sends."""
    target: Ranks
    """Shape (m,): the rank i that receives; an ordered pair (j, i) occurs at most once."""
    share: Floats
    """Shape (m,): P[i, j], the share of rank j's weight that goes to rank i."""

    def matrix(self) -> Floats:
        """P, shape (n, n)."""
        matrix = np.diag(self.keep)
        matrix[self.target, self.source] = self.share
        return matrix

    def mix(self, values: Floats) -> Floats:
        """P @ values, for values of shape (n,) or (n, d), in O(m · d)."""
        size = len(self.keep)
        # y_i = P[i, i] x_i + Σ_j P[i, j] x_j
        if values.ndim == 1:
            arrived = np.bincount(self.target, self.share * values[self.source], minlength=size)
            return self.keep * values + arrived
        return np.stack([self.mix(column) for column in values.T], axis=1)

    def columns(self) -> Floats:
        """Shape (n,): the sum of the shares that each rank keeps and sends, Σ_i P[i, j]."""
        return self.keep + totals(len(self.keep), self.source, self.share)

    def rows(self) -> Floats:
        """Shape (n,): the sum of the shares that each rank keeps and receives, Σ_j P[i, j]."""
        return self.keep + totals(len(self.keep), self.target, self.share)


def totals(size: int, rank: Ranks, share: Floats) -> Floats:
    """Shape (n,): the sum of the shares of each rank.

    >>> totals(2, np.array([0, 0, 1]), np.array([0.5, 0.25, 0.5]))
    array([0.75, 0.5 ])
    """
    # A hundred thousand equal shares, added one by one, miss 1 by 2e-12. Multiples of 2^-52 add up without rounding
    # as long as the sum stays below 2, and the remainders of the shares are too small to matter.
    coarse = (share + 1) - 1
    fine = share - coarse
    sums = np.bincount(rank, coarse, minlength=size) + np.bincount(rank, fine, minlength=size)
    return np.asarray(sums, dtype=np.float64)
