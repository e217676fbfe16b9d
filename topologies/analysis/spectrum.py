"""The speed of agreement according to the matrices of a topology."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topologies.analysis.rounds import column
from topologies.arrays.edges import Floats
from topologies.errors import TopologyError
from topologies.topology import TOLERANCE, Topology

DENSE = 2048
"""The largest number of ranks whose dense matrices are built."""

QUICK = 512
"""The largest number of ranks, over up to 64 rounds, whose matrices multiply in about a second."""

FOURIER = 20_000_000
"""The count of numbers of circulant graphs that are transformed in about a second."""

SPARSE = 256
"""From this number of ranks on, a round with few edges is applied faster edge by edge than as a matrix."""


def spectral_gap(topology: Topology) -> float:
    """1 - |λ₂| of a topology with one graph for all rounds; 1 on a single rank.

    λ₂ is the eigenvalue of P of second largest modulus. Repeated gossip shrinks the disagreement by about |λ₂| a round.
    A gap near 1 agrees at once, and a small gap takes about 1/gap rounds. The eigenvalues of a circulant graph are the
    Fourier transform of a column, so such graphs may have any size.

    Args:
        topology: one graph for all rounds, on up to 2048 ranks, or circulant.

    Raises:
        TopologyError: a schedule whose graph changes, or more ranks.

    >>> from topologies.analysis import spectral_gap
    >>> round(spectral_gap(topologies.ring(8)), 3), round(spectral_gap(topologies.complete(8)), 3)
    (0.195, 1.0)

    Source: Nedić, Olshevsky, Rabbat: Network Topology and Communication-Computation Tradeoffs in Decentralized
    Optimization, Proceedings of the IEEE 2018, arXiv 1709.08765, section II.
    """
    if topology.period != 1:
        raise TopologyError(
            f"{topology!r}: a spectral gap belongs to one graph for all rounds, and this one changes: "
            "ask contraction() what a period leaves, or consensus() how the error falls"
        )
    if topology.size == 1:
        return 1.0
    moduli: Floats
    if _circulant(topology):
        moduli = np.abs(_modes(topology, 0))
    else:
        _refuse_large(topology)
        matrix = topology.matrix(0)
        symmetric = np.abs(matrix - matrix.T).max() <= TOLERANCE
        moduli = np.abs(np.linalg.eigvalsh(matrix) if symmetric else np.linalg.eigvals(matrix))
    # 1 - |λ₂|
    return float(1 - np.sort(moduli)[-2])


def product(topology: Topology) -> Floats:
    """P(L - 1) … P(1) P(0), shape (n, n): the effect of one period of L rounds.

    Args:
        topology: a schedule with a period, on up to 2048 ranks.

    Raises:
        TopologyError: a schedule without a period, or more ranks.

    >>> from topologies.analysis import product
    >>> product(topologies.exponential(4)).tolist()[0]
    [0.25, 0.25, 0.25, 0.25]
    """
    rounds = _period(topology)
    _refuse_large(topology)
    return after(topology, rounds)


def after(topology: Topology, rounds: int) -> Floats:
    """P(rounds - 1) … P(0), shape (n, n), for schedules with and without a period."""
    result: Floats = np.eye(topology.size)
    for round in range(rounds):
        result = _apply(topology, result, round)
    return result


def contraction(topology: Topology) -> float:
    """The part of the worst disagreement that one period leaves: 0 is exact consensus, 1 is no progress.

        ‖D⁻¹ Π - 1 1ᵀ/n‖₂    with Π = P(L - 1) … P(0) and D = diag(Π 1)

    D holds the push-sum weights after the period, so that the values z = x/w are judged. For doubly stochastic
    schedules D is the identity, and this is the second singular value of Π.

    Args:
        topology: a schedule with a period, on up to 2048 ranks, or of circulant graphs.

    Raises:
        TopologyError: a schedule without a period, or more ranks.

    >>> from topologies.analysis import contraction
    >>> round(contraction(topologies.exponential(8)), 12), round(contraction(topologies.exponential(6)), 2)
    (0.0, 0.22)

    Source: Kempe, Dobra, Gehrke: Gossip-Based Computation of Aggregate Information, FOCS 2003, section 3 (push-sum).
    """
    rounds = _period(topology)
    if topology.size == 1:
        return 0.0
    if _circulant(topology):
        # Circulant matrices share their eigenvectors, the Fourier modes; mode 0 is the mean.
        modes = np.ones(topology.size // 2, dtype=np.complex128)
        for round in range(rounds):
            modes *= _modes(topology, round)[1:]
        return float(np.abs(modes).max())
    _refuse_large(topology)
    result = after(topology, rounds)
    # ‖D⁻¹ Π - 1 1ᵀ/n‖₂
    return float(np.linalg.norm(result / result.sum(axis=1, keepdims=True) - 1 / topology.size, 2))


def is_quick(topology: Topology) -> bool:
    """Whether `contraction`, and `spectral_gap` if there is one, take about a second at most."""
    if topology.period is None:
        return False
    if topology.period * topology.size <= FOURIER and _circulant(topology):
        return True
    return topology.size <= QUICK and topology.period * topology.size**2 <= 64 * QUICK**2


def _circulant(topology: Topology) -> bool:
    return all(column(topology, round) is not None for round in range(topology.period or 0))


def _modes(topology: Topology, round: int) -> npt.NDArray[np.complex128]:
    # λ_k = Σ_h column[h] e^(-2πi k h / n) for k = 0 … n/2; the others are their conjugates.
    hops = column(topology, round)
    assert hops is not None
    dense = np.zeros(topology.size)
    dense[list(hops)] = list(hops.values())
    return np.asarray(np.fft.rfft(dense), dtype=np.complex128)


def _apply(topology: Topology, values: Floats, round: int) -> Floats:
    if column(topology, round) is not None:
        return topology.mix(values, round)
    edges = topology.edges(round)
    if topology.size > SPARSE and len(edges.source) < SPARSE * topology.size // 16:
        return edges.mix(values)
    dense: Floats = edges.matrix() @ values
    return dense


def _period(topology: Topology) -> int:
    if topology.period is None:
        raise TopologyError(
            f"{topology!r}: it never repeats, so no period can be judged: ask consensus() how the error falls"
        )
    return topology.period


def _refuse_large(topology: Topology) -> None:
    if topology.size > DENSE:
        raise TopologyError(
            f"{topology!r}: {topology.size} ranks are too many for a full matrix (at most {DENSE}): "
            "ask consensus(), which simulates any number of ranks"
        )
