"""Sparse weight matrices, recognised by their methods, because the library never imports scipy."""

from __future__ import annotations

import numpy as np
import pytest

from topologies import TopologyError
from topologies.custom.matrices import from_matrix, is_matrices

sparse = pytest.importorskip("scipy.sparse", reason="scipy makes the matrices, and the project does not depend on it")

P = np.array([[0.5, 0.25, 0.5], [0.25, 0.5, 0.0], [0.25, 0.25, 0.5]])


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array", "lil_matrix", "dok_array", "dia_array"])
def test_sparse_matrices_of_any_kind(kind):
    topology = from_matrix(getattr(sparse, kind)(P))
    np.testing.assert_array_equal(topology.matrix(0), P)


def test_sparse_entries_add_up_and_zeros_are_no_edges():
    rows, columns = np.nonzero(P)
    # Every share in two parts, and a stored zero.
    halves, twice = np.tile(P[rows, columns] / 2, 2), (np.tile(rows, 2), np.tile(columns, 2))
    where = (np.append(twice[0], 1), np.append(twice[1], 2))
    topology = from_matrix(sparse.coo_array((np.append(halves, 0.0), where), shape=(3, 3)))
    np.testing.assert_array_equal(topology.matrix(0), P)
    assert topology.turn(2, 0).sends == {0: 0.5}


@pytest.mark.slow
def test_a_large_sparse_matrix_is_never_made_dense():
    size = 100_000
    ring = sparse.eye_array(size, format="csr") / 2 + sparse.eye_array(size, k=-1, format="csr") / 2
    ring = ring.tolil()
    ring[0, size - 1] = 0.5
    assert from_matrix(ring.tocsr()).turn(size - 1, 0) == (0.5, {0: 0.5}, {size - 2: 0.5})


def test_a_sequence_of_graphs_is_one_round_each():
    topology = from_matrix([sparse.csr_array(P), sparse.eye_array(3)])
    assert topology.period == 2
    np.testing.assert_array_equal(topology.matrix(1), np.eye(3))
    assert is_matrices(sparse.csr_array(P))
    assert is_matrices([sparse.csr_array(P)])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (P[:2], r"has the shape \(2, 3\)"),
        (P - np.diag([0, 0, 0.02]), "column 2 sums to 0.98, not to 1: rank 2 .* 0.5 instead of 0.48"),
        (P.T, "looks transposed"),
        (P.astype(complex), "holds complex numbers"),
        (P - 2 * np.diag([0, 0.5, 0]), "has -0.5 in row 1, column 1"),
        (np.array([[0, 1], [1, 0]]), "rank 0 keep nothing"),
    ],
)
def test_wrong_arguments_are_refused(matrix, message):
    with pytest.raises(TopologyError, match=message):
        from_matrix(sparse.csr_array(matrix))
