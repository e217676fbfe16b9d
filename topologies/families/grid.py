"""Grids and tori: every rank talks to its neighbours along each axis of a box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from topologies.arrays.edges import Ranks
from topologies.arrays.weights import undirected
from topologies.checks import integers, positive
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.validation import validated


class Grid(Table):
    """The schedule that `grid` returns."""


class Torus(Table):
    """The schedule that `torus` returns."""


def grid(size: int, shape: Sequence[int] | None = None, weights: str = "metropolis") -> Grid:
    """Grid: ranks fill a box, the last axis fastest, and exchange with the next ones along each axis.

        i, j are neighbours where their coordinates differ by 1 on one axis and nowhere else

    On two axes rank r stands in row r // columns and column r mod columns. One axis is a path.

    Args:
        size: number of ranks n, from 1.
        shape: the length of each axis, with product n. None stands for the most square rows × columns with rows <=
            columns, which for a prime n is one row.
        weights: "metropolis", shares 1/(1 + max(d_i, d_j)) for degrees d, doubly stochastic; or "uniform", 1/(1 + d_j).

    Raises:
        TopologyError: other values.

    >>> grid(6).turn(rank=0, round=0)
    Turn(keep=0.416..., sends={1: 0.25, 3: 0.333...}, receives={1: 0.25, 3: 0.333...})

    Source: Nedić, Olshevsky, Rabbat, Network Topology and Communication-Computation Tradeoffs in Decentralized
    Optimization, Proceedings of the IEEE 2018, arXiv 1709.08765.
    """
    size = positive(size, "the size of a grid")
    return validated(Grid([undirected(size, _neighbours(_box(size, shape, "grid"), wrapped=False), weights)]))


def torus(size: int, shape: Sequence[int] | None = None, weights: str = "metropolis") -> Torus:
    """Torus: a grid whose axes are rings, so that all ranks have equally many neighbours.

        i, j are neighbours where their coordinates differ by ±1, modulo its length, on one axis and nowhere else

    On an axis of length 2 both neighbours are the same rank, which counts once. One axis is a ring, and axes of length
    2 make a hypercube. The degree d is the same everywhere, so both rules of `weights` give the share 1/(1 + d).

    Args:
        size: as for `grid`.
        shape: as for `grid`.
        weights: as for `grid`.

    Raises:
        TopologyError: other values.

    >>> torus(12, shape=(3, 4)).turn(rank=0, round=0)
    Turn(keep=0.2, sends={1: 0.2, 3: 0.2, 4: 0.2, 8: 0.2}, receives={1: 0.2, 3: 0.2, 4: 0.2, 8: 0.2})

    Source: as for `grid`.
    """
    size = positive(size, "the size of a torus")
    return validated(Torus([undirected(size, _neighbours(_box(size, shape, "torus"), wrapped=True), weights)]))


def _box(size: int, shape: Sequence[int] | None, name: str) -> tuple[int, ...]:
    rows = max(rows for rows in range(1, math.isqrt(size) + 1) if size % rows == 0)
    if shape is None:
        return rows, size // rows
    box = integers(shape, f"the shape of a {name}")
    if not all(length > 0 for length in box):
        raise TopologyError(f"the shape of a {name} has a length for each axis, each at least 1, not {box}")
    if math.prod(box) != size:
        raise TopologyError(
            f"a {name} of shape {box} has {math.prod(box)} ranks, not {size}: pass a shape with product {size}, as in "
            f"shape={(rows, size // rows)}, or start {math.prod(box)} ranks"
        )
    return box


def _neighbours(box: tuple[int, ...], wrapped: bool) -> Ranks:
    ranks = np.arange(math.prod(box)).reshape(box)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for axis, length in enumerate(box):
        # On an axis of length 2 the edge from the last rank to the first is the same edge again.
        last = length if wrapped and length > 2 else length - 1
        here = np.arange(last)
        ends = ranks.take(here, axis), ranks.take((here + 1) % length, axis)
        pairs.append(np.stack([end.ravel() for end in ends], axis=1))
    return np.concatenate(pairs)
