"""Graphs in which all ranks do the same, each relative to its own number."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import final

import numpy as np

from topologies.arrays.edges import Edges, Floats
from topologies.checks import check_rank
from topologies.topology import Topology, Turn
from topologies.validation import check_period, check_turn, laws, refuse_unconnected, rounds_of

MANY_HOPS = 64
"""From this number of hops on, a Fourier transform simulates a round faster than one pass for each hop."""


class Circulant(Topology):
    """A schedule of circulant matrices: column j of P(t) is column 0, moved down by j.

        P(t)[(j + h) mod n, j] = column(t)[h]

    A subclass writes `column`. Every turn follows from it, so sends and receives agree, and rows have the sum of
    columns. Rank 0 stands for all ranks: the cost of checking, describing and comparing is O(degree) a round for any n.
    """

    @abstractmethod
    def column(self, round: int) -> Mapping[int, float]:
        """The share that goes to each hop, 0 <= hop < n, in `round`; hop 0 is the share that a rank keeps."""

    @final
    def turn(self, rank: int, round: int) -> Turn:
        size = self.size
        check_rank(rank, size)
        # Python's integers, because small numpy integers wrap and unsigned ones have no rank - hop below 0.
        rank, column = int(rank), self.column(int(round))
        return Turn(
            column[0],
            {(rank + hop) % size: share for hop, share in column.items() if hop},
            {(rank - hop) % size: share for hop, share in column.items() if hop},
        )

    @final
    def edges(self, round: int) -> Edges:
        column, ranks = self.column(int(round)), np.arange(self.size)
        hops = [hop for hop in column if hop]
        return Edges(
            np.full(self.size, column[0]),
            np.tile(ranks, len(hops)),
            np.concatenate([(ranks + hop) % self.size for hop in hops] or [ranks[:0]]),
            np.repeat([column[hop] for hop in hops] or [0.0], self.size)[: len(hops) * self.size],
        )

    @final
    def mix(self, values: Floats, round: int) -> Floats:
        """P(round) @ values: the sum over hops h of column[h] times the values moved down by h."""
        column = self.column(int(round))
        if len(column) < MANY_HOPS:
            # y = Σ_h column[h] S^h x
            return np.asarray(sum(share * np.roll(values, hop, axis=0) for hop, share in column.items()))
        dense = np.zeros(self.size)
        dense[list(column)] = list(column.values())
        # y = F⁻¹ (F column · F x)
        spectrum = np.fft.rfft(dense).reshape(-1, *[1] * (values.ndim - 1))
        mixed: Floats = np.fft.irfft(spectrum * np.fft.rfft(values, axis=0), self.size, axis=0)
        return mixed

    @final
    def _representatives(self) -> Sequence[int]:
        return range(1)

    @final
    def _rows_sum_to_one(self, round: int) -> bool:
        # Row 0 holds the shares of column 0 in another order, and columns sum to 1.
        return True

    @final
    def _diagonal_is_constant(self, round: int) -> bool:
        return True


class Columns(Circulant):
    """Circulant matrices from a list of columns, one for each round of the period."""

    def __init__(self, size: int, columns: Sequence[Mapping[int, float]]) -> None:
        """`columns`: hop -> share as in `Circulant.column`, at least one."""
        super().__init__(size, period=len(columns))
        self._columns = tuple(columns)

    def column(self, round: int) -> Mapping[int, float]:
        return self._columns[round % len(self._columns)]


def uniform(size: int, hops: Iterable[int]) -> dict[int, float]:
    """A column with equal shares for hop 0 and all `hops` modulo `size`; hops that coincide count once.

    >>> uniform(4, [1, 5, -1, 8])
    {0: 0.3333333333333333, 1: 0.3333333333333333, 3: 0.3333333333333333}
    """
    distinct = dict.fromkeys((0, *(hop % size for hop in hops)))
    return dict.fromkeys(distinct, 1 / len(distinct))


@laws.register
def _(topology: Circulant) -> None:
    rounds = rounds_of(topology)
    step = topology.size
    for round in range(rounds):
        turn = topology.turn(0, round)
        check_turn(topology, 0, round, turn)
        check_period(topology, 0, round, turn)
        # The ranks that rank 0 reaches are the multiples of gcd(n, all hops).
        step = math.gcd(step, *turn.sends)
    if step != 1:
        reached = range(0, topology.size, step)
        refuse_unconnected(topology, reached, [rank for rank in range(topology.size) if rank % step])
