"""Topologies from weight matrices, one for each round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, NoReturn

import networkx as nx
import numpy as np
import numpy.typing as npt

from topologies.arrays.edges import Edges, Floats, Ranks, totals
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.topology import TOLERANCE
from topologies.validation import validated

ROUNDING = 1e-5
"""The largest distance of a column's sum from 1: float32 misses by 1e-7, texts of six digits by a few 1e-6."""


def from_matrix(matrix_or_sequence: Any) -> Table:
    """A topology of one weight matrix P of shape (n, n), or of a sequence of them, one a round.

        P[i, j] = the share of rank j's weight that goes to rank i

    Columns sum to 1, and P[j, j] > 0 is the share that rank j keeps. A sum that misses 1 by at most 1e-5 counts as
    rounding. P[j, j] compensates for it, so that symmetric matrices stay doubly stochastic. Every nonzero entry is an
    edge, so set rounding noise to 0, or it costs a message.

    Args:
        matrix_or_sequence: numpy arrays of shape (n, n) or (L, n, n), nested lists, any type that numpy converts to an
            array, scipy sparse matrices, or a sequence of L of them. The period is L.

    Raises:
        TopologyError: columns with another sum, shares that are negative or not finite, a rank that keeps nothing, or
            ranks that never connect; matrices that are not square, differ in size or hold other types than real
            numbers.

    >>> from_matrix([[0.5, 0.0, 0.25], [0.5, 0.5, 0.0], [0.0, 0.5, 0.75]]).turn(rank=0, round=0)
    Turn(keep=0.5, sends={1: 0.5}, receives={2: 0.25})
    """
    matrices = _matrices(matrix_or_sequence)
    rounds: list[Edges] = []
    for round, matrix in enumerate(matrices):
        name = "the matrix" if len(matrices) == 1 else f"the matrix of round {round}"
        rounds.append(matrix_edges(matrix, name))
        size, first = len(rounds[-1].keep), len(rounds[0].keep)
        if size != first:
            raise TopologyError(
                f"{name} is {size} x {size}, but the matrix of round 0 is {first} x {first}: all matrices of a "
                "sequence need the same ranks, and one that is idle has a 1 on the diagonal"
            )
    return validated(Table(rounds))


def is_matrices(value: object) -> bool:
    """Whether `value` has the form of a matrix or a sequence of matrices, right or wrong."""
    return _is_matrix(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(_is_matrix, value)))


def matrix_edges(matrix: Any, name: str) -> Edges:
    """The edges of one matrix; a `TopologyError` begins with `name`."""
    size, target, source, share = _sparse(matrix, name) if _is_sparse(matrix) else _dense(matrix, name)
    _check_entries(target, source, share, name)
    sums = totals(size, source, share)
    off = np.flatnonzero(np.abs(sums - 1) > ROUNDING)
    own = target == source
    given = totals(size, source[own], share[own])
    if len(off):
        rows = totals(size, target, share)
        adjacency = bool((share == 1).all()) and (not own.any() or bool(sums.max() > 1))
        _refuse_columns(off.tolist(), sums, rows, given, adjacency, name)
    source, target, share = source[~own], target[~own], share[~own]
    # P[j, j] = 1 - Σ_{i≠j} P[i, j], unchanged if the column already sums to 1
    rest = 1 - totals(size, source, share)
    keep = np.where(np.abs(sums - 1) <= TOLERANCE / 2, given, rest)
    for rank in np.flatnonzero((given <= 0) | (keep <= 0)).tolist():
        raise TopologyError(
            f"{name} lets rank {rank} keep nothing: P[{rank}, {rank}] is {given[rank]:.6g}, and every rank must keep a "
            f"share above 0, so lower its sends (column {rank}), or take the mean of the matrix and the identity, "
            "(P + numpy.eye(n)) / 2"
        )
    return Edges(keep, source, target, share)


def _matrices(value: Any) -> Sequence[Any]:
    if _is_sparse(value):
        return [value]
    if hasattr(value, "__array__"):
        array = _array(value, "the array")
        if array.ndim not in (2, 3):
            raise TopologyError(
                f"the array has the shape {array.shape}: a matrix has (n, n), and a sequence of L matrices (L, n, n)"
            )
        matrices: Sequence[Any] = [array] if array.ndim == 2 else list(array)
    elif not isinstance(value, Iterable) or isinstance(value, (str, bytes, dict, nx.Graph)):
        raise TopologyError(
            f"{value!r:.60} is no weight matrix: give a numpy array of shape (n, n), or a sequence of "
            "them; a graph goes to topologies.from_networkx and a function of the round to topologies.from_function"
        )
    else:
        matrices = list(value)
        if matrices and all(_is_row(row) for row in matrices):
            matrices = [matrices]
    if not len(matrices):
        raise TopologyError("the sequence of matrices is empty: give one matrix for each round of the period")
    return matrices


def _is_sparse(value: object) -> bool:
    return hasattr(value, "tocoo")


def _is_array(value: object) -> bool:
    return _is_sparse(value) or (hasattr(value, "__array__") and not isinstance(value, np.generic))


def _is_matrix(value: object) -> bool:
    return _is_array(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(_is_row, value)))


def _is_row(value: object) -> bool:
    """Whether `value` is one row of a matrix that is written as rows."""
    if isinstance(value, (list, tuple)):
        return all(isinstance(entry, str) or not hasattr(entry, "__len__") for entry in value)
    return not _is_sparse(value) and getattr(value, "ndim", None) == 1


def _array(value: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:  # the other library may raise any error
        raise TopologyError(f"{name} cannot be read as a numpy array ({type(error).__name__}: {error})") from error


def _dense(matrix: Any, name: str) -> tuple[int, Ranks, Ranks, Floats]:
    """The size, and row, column and share of each entry that is not 0."""
    if not _is_array(matrix) and not isinstance(matrix, (list, tuple)):
        raise TopologyError(f"{name} is {matrix!r:.60}: give a numpy array of shape (n, n)")
    if isinstance(matrix, (list, tuple)) and all(map(_is_row, matrix)):
        for place, row in enumerate(matrix):
            if len(row) != len(matrix[0]):
                raise TopologyError(f"{name} has {len(row)} entries in row {place} and {len(matrix[0])} in row 0")
    array = _array(matrix, name)
    size = _check_square(array.shape, name)
    _check_dtype(array, name)
    target, source = np.nonzero(array)
    return size, target, source, array[target, source].astype(np.float64)


def _sparse(matrix: Any, name: str) -> tuple[int, Ranks, Ranks, Floats]:
    # Read by its attributes, so that this module does not import scipy.
    size = _check_square(matrix.shape, name)
    entries = matrix.tocoo()
    _check_dtype(entries.data, name)
    # A sparse matrix may store an entry as several that add up.
    places, inverse = np.unique(entries.row.astype(np.int64) * size + entries.col, return_inverse=True)
    share = np.bincount(inverse, entries.data.astype(np.float64), minlength=len(places))
    target, source = np.divmod(places[share != 0], size)
    return size, target, source, share[share != 0]


def _check_square(shape: tuple[int, ...], name: str) -> int:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise TopologyError(
            f"{name} has the shape {shape}: a weight matrix has a row and a column for each of the n ranks, (n, n)"
        )
    if shape[0] == 0:
        raise TopologyError(f"{name} has no rows: a topology has at least one rank")
    return shape[0]


def _check_dtype(array: npt.NDArray[Any], name: str) -> None:
    if array.dtype.kind in "fiub":
        return
    if array.dtype.kind == "c":
        raise TopologyError(
            f"{name} holds complex numbers ({array.dtype}), and a share is a real number: pass matrix.real if the "
            "imaginary parts are rounding"
        )
    for place, entry in np.ndenumerate(array):
        if not isinstance(entry, Real):
            shown = entry.item() if isinstance(entry, np.generic) else entry
            row, column = place if len(place) == 2 else ("?", "?")
            raise TopologyError(
                f"{name} has {shown!r} in row {row}, column {column}: a share is a number; matrix.astype(float) "
                "makes numbers of texts"
            )
    raise TopologyError(f"{name} holds Python objects (dtype {array.dtype}): pass matrix.astype(float)")


def _check_entries(target: Ranks, source: Ranks, share: Floats, name: str) -> None:
    for place in np.flatnonzero(~((share > 0) & np.isfinite(share))).tolist():
        i, j = int(target[place]), int(source[place])
        what = f"rank {j} keeps" if i == j else f"rank {j} gives to rank {i}"
        if share[place] < 0 and np.isfinite(share[place]):
            advice = "make it 0, or clear rounding noise with matrix.clip(min=0)"
        else:
            advice = "find the division or the file that it comes from"
        raise TopologyError(
            f"{name} has {float(share[place])!r} in row {i}, column {j}: it is the share that {what}, a number from "
            f"0 to 1, so {advice}"
        )


def _refuse_columns(off: list[int], sums: Floats, rows: Floats, given: Floats, adjacency: bool, name: str) -> NoReturn:
    """Raise the error for the columns `off`, whose sums are not 1."""
    j, more = off[0], len(off) - 1
    others = f" (and {more} more column{'s' * (more > 1)} like it)" if more else ""
    says = f"{name}: column {j} sums to {sums[j]:.9g}, not to 1{others}"
    if (np.abs(rows - 1) <= ROUNDING).all():
        raise TopologyError(
            f"{says}, but all rows do, so it looks transposed: P[i, j] is the share of rank j's weight that goes to "
            "rank i; pass matrix.T"
        )
    if adjacency:
        raise TopologyError(
            f"{says}: its ones look like an adjacency matrix rather than shares. Where [i, j] means that i sends to j: "
            "topologies.from_networkx(networkx.from_numpy_array(matrix, create_using=networkx.DiGraph), "
            "weight=None)"
        )
    if sums[j] == 0:
        raise TopologyError(
            f"{says}: rank {j} would lose its weight, so let it keep a share, P[{j}, {j}] = 1 if it rests"
        )
    keep = 1 - (sums[j] - given[j])
    change = f"make P[{j}, {j}], the share it keeps, {keep:.6g} instead of {given[j]:.6g}, or " if keep > 0 else ""
    raise TopologyError(
        f"{says}: rank {j} must give away and keep all of its weight and no more, so {change}divide every column by "
        "its sum, matrix / matrix.sum(axis=0)"
    )
