"""What the matrices of a topology say about how fast ranks agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from topologies.analysis.rounds import column
from topologies.arrays.edges import Floats
from topologies.errors import TopologyError
from topologies.topology import TOLERANCE, Topology

DENSE = 2048
"""The largest number of ranks whose matrices are laid out in full."""

QUICK = 512
"""The largest number of ranks, over up to 64 rounds, whose matrices multiply in about a second."""

FOURIER = 20_000_000
"""How many numbers of circulant graphs are transformed in about a second."""

SPARSE = 256
"""From here on a round with few edges is applied edge by edge, which is then faster than a matrix product."""


def spectral_gap(topology: Topology) -> float:
    """1 - |λ₂| of a topology with one graph for all rounds; 1 on a single rank.

    λ₂ is the eigenvalue of P of second largest modulus. Repeated gossip shrinks the disagreement by about |λ₂| a round,
    so a gap near 1 agrees at once and a gap near 0 takes about 1/gap rounds. Up to 2048 ranks; circulant graphs of any
    size, whose eigenvalues are the Fourier transform of a column.

    Raises `TopologyError` for a schedule whose graph changes and for more ranks.

    >>> from topologies.analysis import spectral_gap
    >>> round(spectral_gap(topologies.ring(8)), 3), round(spectral_gap(topologies.complete(8)), 3)
    (0.195, 1.0)

    Nedić, Olshevsky, Rabbat: Network Topology and Communication-Computation Tradeoffs in Decentralized Optimization,
    Proceedings of the IEEE 2018, arXiv 1709.08765, section II.
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
    """P(L - 1) … P(1) P(0), shape (n, n): what one period of L rounds does.

    Raises `TopologyError` where there is no period, and for more than 2048 ranks.

    >>> from topologies.analysis import product
    >>> product(topologies.exponential(4)).tolist()[0]
    [0.25, 0.25, 0.25, 0.25]
    """
    rounds = _period(topology)
    _refuse_large(topology)
    return after(topology, rounds)


def after(topology: Topology, rounds: int) -> Floats:
    """P(rounds - 1) … P(0), shape (n, n), whether the schedule repeats or not."""
    result: Floats = np.eye(topology.size)
    for round in range(rounds):
        result = _apply(topology, result, round)
    return result


def contraction(topology: Topology) -> float:
    """What one period leaves of a disagreement, at worst: 0 is exact consensus, 1 is no progress.

        ‖D⁻¹ Π - 1 1ᵀ/n‖₂    with Π = P(L - 1) … P(0) and D = diag(Π 1)

    D holds the push-sum weights after the period, so that schedules which are not doubly stochastic are judged by what
    their ranks hold, z = x/w. Where they are, D is the identity and this is the second singular value of Π. Up to 2048
    ranks; schedules of circulant graphs of any size.

    Raises `TopologyError` where there is no period, and for more ranks.

    >>> from topologies.analysis import contraction
    >>> round(contraction(topologies.exponential(8)), 12), round(contraction(topologies.exponential(6)), 2)
    (0.0, 0.22)

    Kempe, Dobra, Gehrke: Gossip-Based Computation of Aggregate Information, FOCS 2003, section 3 (push-sum).
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


def quick(topology: Topology) -> bool:
    """Whether `contraction`, and `spectral_gap` where there is one, take about a second at most."""
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
