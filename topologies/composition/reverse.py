"""Every edge in the other direction."""

from __future__ import annotations

import math

import numpy as np

from topologies.arrays.edges import Edges, Floats
from topologies.composition.composed import Composed
from topologies.topology import TOLERANCE, Topology, Turn
from topologies.validation import validate, validated

REMEMBERED = 4_000_000
"""About the largest number of row sums that are kept."""


class Reversed(Composed):
    """The schedule that `reverse` returns."""

    def __init__(self, topology: Topology) -> None:
        super().__init__(topology.size, topology.period, [topology])
        # Without the sums, a turn needs the turn of each in-peer, so they are worth 8 bytes a rank and round.
        self._sums = _row_sums(topology)

    def turn(self, rank: int, round: int) -> Turn:
        """The entries of the row, divided by its sum: O(degree), or O(degree²) without a short period."""
        turn = self.parts[0].turn(rank, round)
        own = self._row_sum(rank, round, turn)
        # P'[j, i] = P[i, j] / Σ_k P[i, k]
        return Turn(
            turn.keep / own,
            {peer: share / own for peer, share in turn.receives.items()},
            {peer: share / self._row_sum(peer, round) for peer, share in turn.sends.items()},
        )

    def edges(self, round: int) -> Edges:
        edges = self.parts[0].edges(round)
        sums = _settled(edges.rows())
        return Edges(edges.keep / sums, edges.target, edges.source, edges.share / sums[edges.target])

    def options(self) -> str:
        return ""

    def _row_sum(self, rank: int, round: int, turn: Turn | None = None) -> float:
        if self._sums is not None:
            sums = self._sums[round % len(self._sums)]
            return 1.0 if sums is None else float(sums[rank])
        if turn is None:
            turn = self.parts[0].turn(rank, round)
        # Σ_j P[i, j]
        total = math.fsum((turn.keep, *turn.receives.values()))
        return 1.0 if abs(total - 1) <= TOLERANCE else total


def reverse(topology: Topology) -> Reversed:
    """Every edge in the other direction: a rank sends to the ranks that it received from.

        P'(t) = P(t)ᵀ D⁻¹,    D the diagonal matrix of the row sums Σ_j P(t)[i, j]

    If rows sum to 1 this is the transpose, and reversing twice gives the old graph. Otherwise each column is divided by
    its sum, so that P' is column-stochastic too.

    Args:
        topology: any topology.

    Raises:
        TopologyError: the topology breaks the laws.

    >>> reverse(exponential(8)).turn(rank=0, round=1)
    Turn(keep=0.5, sends={6: 0.5}, receives={2: 0.5})
    """
    validate(topology)
    return validated(Reversed(topology))


def _settled(sums: Floats) -> Floats:
    # A sum that is 1 up to rounding becomes 1, so that shares keep their last digits.
    settled: Floats = np.where(np.abs(sums - 1) <= TOLERANCE, 1.0, sums)
    return settled


def _row_sums(topology: Topology) -> list[Floats | None] | None:
    """The row sums of each round of the period, or None if they would be too many.

    A round whose sums are all 1 has None.
    """
    if topology.period is None or topology.period * topology.size > REMEMBERED:
        return None
    return [
        None if topology.doubly_stochastic(round) else _settled(topology.edges(round).rows())
        for round in range(topology.period)
    ]
