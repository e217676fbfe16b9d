"""Graphs in which ranks meet in pairs: a rank has at most one peer in a round."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar, cast, final

import numpy as np

from topologies.arrays.edges import Edges, Ranks
from topologies.checks import check_rank
from topologies.topology import Topology, Turn

R = TypeVar("R", int, Ranks)


class Pairing(Topology):
    """A schedule of matchings: two partners give each other the share s, and a rank without a partner keeps all.

        P(t)[i, j] = P(t)[j, i] = s,    P(t)[i, i] = 1 - s    where partner(i, t) = j ≠ i

    A subclass writes `partner`. P is symmetric by construction, so doubly stochastic.
    """

    def __init__(self, size: int, period: int | None, share: float = 0.5) -> None:
        """`share`: s, above 0 and below 1."""
        super().__init__(size, period)
        self.share = share

    @abstractmethod
    def partner(self, rank: R, round: int) -> R:
        """The partner of `rank` in `round`, or `rank` itself if it rests; for an array of ranks, their partners."""

    @final
    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        # Python's integers, because small numpy integers wrap and unsigned ones have no values below 0.
        rank = int(rank)
        partner = self.partner(rank, int(round))
        if partner == rank:
            return Turn(1.0, {}, {})
        return Turn(1 - self.share, {partner: self.share}, {partner: self.share})

    @final
    def edges(self, round: int) -> Edges:
        ranks = np.arange(self.size)
        partners = self.partner(ranks, int(round))
        met = partners != ranks
        return Edges(
            np.where(met, 1 - self.share, 1.0),
            ranks[met],
            partners[met],
            np.full(int(met.sum()), self.share),
        )

    @final
    def _rows_sum_to_one(self, round: int) -> bool:
        return True


def choose(condition: Any, yes: R, no: R) -> R:
    """`yes` if the condition holds, else `no`; for arrays, entry by entry."""
    if isinstance(condition, np.ndarray):
        return cast(R, np.where(condition, yes, no))
    return yes if condition else no
