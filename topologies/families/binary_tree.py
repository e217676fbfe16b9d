"""The binary tree: every rank talks to its parent and its two children."""

from __future__ import annotations

import numpy as np

from topologies.arrays.weights import undirected
from topologies.checks import positive
from topologies.kinds.table import Table
from topologies.validation import validated


class BinaryTree(Table):
    """The schedule that `binary_tree` returns."""


def binary_tree(size: int, weights: str = "metropolis") -> BinaryTree:
    """Binary tree, filled level by level: rank 0 is the root, and every other rank exchanges with its parent.

        parent(r) = (r - 1) // 2,    children 2r + 1 and 2r + 2 where they exist

    A rank has at most three messages for any n, and any two ranks are at most 2 log₂ n hops apart. Agreement is slow,
    because the two halves meet in the root only.

    Args:
        size: number of ranks n, from 1.
        weights: "metropolis" or "uniform", as for `grid`.

    Raises:
        TopologyError: other values.

    >>> binary_tree(7).turn(rank=1, round=0)
    Turn(keep=0.25, sends={0: 0.25, 3: 0.25, 4: 0.25}, receives={0: 0.25, 3: 0.25, 4: 0.25})
    """
    size = positive(size, "the size of a binary tree")
    ranks = np.arange(1, size)
    return validated(BinaryTree([undirected(size, np.stack([(ranks - 1) // 2, ranks], axis=1), weights)]))
