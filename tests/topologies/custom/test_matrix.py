"""Weight matrices of the user; errors name row and column."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import TopologyError
from topologies.custom.matrices import from_matrix, is_matrices


@st.composite
def stochastic(draw: st.DrawFn) -> np.ndarray:
    """(L, n, n), columns sum to 1 as well as float64 can say, and the first matrix has a cycle through all ranks."""
    size, rounds = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrices = random.uniform(0.1, 1, (rounds, size, size)) * (random.random((rounds, size, size)) < 0.4)
    matrices += np.eye(size)
    order = random.permutation(size)
    matrices[0, np.roll(order, 1), order] += 1
    return matrices / matrices.sum(axis=1, keepdims=True)


def three(**entries: float) -> np.ndarray:
    """A correct matrix of three ranks, except for `p01=...`."""
    matrix = np.array([[0.5, 0.25, 0.5], [0.25, 0.5, 0.0], [0.25, 0.25, 0.5]])
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] = value
    return matrix


GIVEN = [
    lambda matrices: matrices,
    list,
    tuple,
    iter,
    lambda matrices: matrices.tolist(),
]


@given(stochastic(), st.sampled_from(GIVEN))
def test_the_rounds_are_the_matrices(matrices, given_as):
    topology = from_matrix(given_as(matrices))
    assert (topology.size, topology.period) == (matrices.shape[1], len(matrices))
    for round, matrix in enumerate(matrices):
        np.testing.assert_allclose(topology.matrix(round + len(matrices)), matrix, rtol=0, atol=1e-12)
        rows = matrix.sum(axis=1)
        assert topology.doubly_stochastic(round) == np.allclose(rows, 1, rtol=0, atol=1e-12)
        for rank in range(topology.size):
            turn = topology.turn(rank, round)
            assert set(turn.sends) == set(np.flatnonzero(matrix[:, rank])) - {rank}
            assert set(turn.receives) == set(np.flatnonzero(matrix[rank])) - {rank}


def test_a_correct_matrix_is_kept_to_the_last_bit():
    np.testing.assert_array_equal(from_matrix(three()).matrix(0), three())
    # 1 - 0.9 is not 0.1
    matrix = np.array([[0.1, 0.9], [0.9, 0.1]])
    np.testing.assert_array_equal(from_matrix(matrix).matrix(0), matrix)


@given(stochastic())
def test_float32_and_texts_of_six_digits_are_rounding(matrices):
    for rounded in (matrices.astype(np.float32), matrices.round(6)):
        topology = from_matrix(rounded)
        for round, matrix in enumerate(matrices):
            found = topology.matrix(round)
            np.testing.assert_allclose(found.sum(axis=0), 1, rtol=0, atol=1e-12)
            np.testing.assert_allclose(found, matrix, rtol=0, atol=2e-5)


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_a_symmetric_matrix_stays_doubly_stochastic_when_it_was_rounded(size, seed):
    random = np.random.default_rng(seed).uniform(0, 1 / size, (size, size))
    matrix = (random + random.T) / 2
    matrix += np.diag(1 - matrix.sum(axis=0))
    topology = from_matrix(matrix.astype(np.float32))
    assert topology.doubly_stochastic(0)
    np.testing.assert_allclose(topology.matrix(0).sum(axis=1), 1, rtol=0, atol=1e-12)


def test_one_rank_integers_and_idle_rounds_are_accepted():
    assert from_matrix([[1]]).turn(0, 0) == (1.0, {}, {})
    topology = from_matrix([np.eye(2, dtype=int), np.full((2, 2), 0.5)])
    assert topology.turn(0, 0) == (1.0, {}, {})
    assert repr(topology.turn(0, 1)) == "Turn(keep=0.5, sends={1: 0.5}, receives={1: 0.5})"


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (
            three(p22=0.48),
            r"the matrix: column 2 sums to 0.98, not to 1: rank 2 must .* make P\[2, 2\], the share it keeps, 0.5 "
            r"instead of 0.48, or divide every column by its sum, matrix / matrix.sum\(axis=0\)",
        ),
        (three(p11=0.7), r"column 1 sums to 1.2, not to 1: .* make P\[1, 1\], the share it keeps, 0.5 instead of 0.7"),
        (three(p10=1.5), "column 0 sums to 2.25, not to 1: rank 0 must give away and keep .* no more, so divide every"),
        (three() * 0.98, r"column 0 sums to 0.98, not to 1 \(and 2 more columns like it\)"),
        (three().astype(np.float16) * np.float16(1.01), r"column 0 sums to 1.\d+, not to 1"),
        (three().T, "column 0 sums to 1.25, .* all rows do, so it looks transposed: .*; pass matrix.T"),
        (three(p02=0, p22=0), r"column 2 sums to 0, .* rank 2 would lose its weight, .* P\[2, 2\] = 1 if it rests"),
        (three(p00=0, p10=0.75), r"rank 0 keep nothing: P\[0, 0\] is 0, and every .*, \(P \+ numpy.eye\(n\)\) / 2"),
        (three(p00=1e-7, p10=0.75), r"rank 0 keep nothing: P\[0, 0\] is 1e-07"),
        (
            three(p01=-0.25, p11=1.0),
            "has -0.25 in row 0, column 1: it is the share that rank 1 gives to rank 0, a number from 0 to 1, so make",
        ),
        (three(p11=-0.5), "has -0.5 in row 1, column 1: it is the share that rank 1 keeps"),
        (three(p12=-1e-18), "has -1e-18 in row 1, column 2: .* rounding noise with matrix.clip"),
        (three(p20=float("nan")), "has nan in row 2, column 0: .* find the division or the file"),
        (three(p20=float("inf")), "has inf in row 2, column 0"),
        (three(p20=-float("inf")), "has -inf in row 2, column 0: .* find the division"),
        (
            np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]),
            "column 1 sums to 2, .* ones look like an adjacency matrix .*from_networkx",
        ),
        (np.array([[0, 1.0, 0], [1, 0, 1], [0, 1, 0]]), "ones look like an adjacency matrix"),
        (np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]]), "ones look like an adjacency matrix"),
        (np.diag([1, 1, 0]), r"column 2 sums to 0, .* lose its weight"),
        (np.array([[False, True], [True, False]]), "rank 0 keep nothing"),
        (np.array([[0, 1], [1, 0]]), "rank 0 keep nothing"),
        (three().astype(complex), "holds complex numbers .complex128., and a share is a real number: pass matrix.real"),
        (three().astype(object) + Fraction(0), "holds Python objects .dtype object.: pass matrix.astype.float."),
        (three().astype(str), "has '0.5' in row 0, column 0: a share is a number; matrix.astype.float."),
        ([[0.5, 0.5], [0.5, None]], "has None in row 1, column 1: a share is a number"),
        ([[0.5, 0.5], [0.5]], "has 1 entries in row 1 and 2 in row 0"),
        (three()[:2], r"has the shape \(2, 3\): a weight matrix has a row and a column for each of the n ranks"),
        (
            np.ones(3),
            r"the array has the shape \(3,\): a matrix has \(n, n\), and a sequence of L matrices \(L, n, n\)",
        ),
        (np.float64(1), r"the array has the shape \(\)"),
        (np.empty((0, 0)), "has no rows: a topology has at least one rank"),
        (np.empty((0, 3, 3)), "the sequence of matrices is empty"),
        ([], "the sequence of matrices is empty"),
        ([three(), three(p22=0.48)], "the matrix of round 1: column 2 sums to 0.98"),
        ([three(), np.eye(2)], "the matrix of round 1 is 2 x 2, but the matrix of round 0 is 3 x 3: all"),
        ([three(), "ring"], "the matrix of round 1 is 'ring': give a numpy array"),
        ([three(), None], "the matrix of round 1 is None"),
        (3, "3 is no weight matrix: give a numpy array of shape .n, n., or .* topologies.from_networkx"),
        ("P.npy", "'P.npy' is no weight matrix"),
        (np.eye(3), "rank 0 cannot reach ranks 1 and 2"),
        (
            [np.diag([0.5, 1, 1, 1]) + np.diag([0.5, 0, 0], -1), np.diag([1, 0.5, 1, 1]) + np.diag([0.5, 0, 0], 1)],
            "ranks 2 and 3 have no edge in any of the 2 rounds of its period",
        ),
    ],
)
def test_wrong_arguments_are_refused(matrix, message):
    with pytest.raises(TopologyError, match=message):
        from_matrix(matrix)


def test_values_in_the_form_of_matrices():
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return three()

    for value in (three(), [three()], three().tolist(), [three().tolist()], Frame()):
        assert is_matrices(value)
    for value in (None, 3, "P", [], ["P"], [1.0], np.float64(1)):
        assert not is_matrices(value)
    np.testing.assert_array_equal(from_matrix(Frame()).matrix(0), three())


def test_an_unreadable_array_is_refused():
    class Remote:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("it lies on another device")

    with pytest.raises(TopologyError, match=r"the array cannot be read as a numpy array .RuntimeError: it lies on"):
        from_matrix(Remote())
