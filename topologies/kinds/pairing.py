"""Graphs in which ranks meet in pairs, each with one other rank or with nobody in a round."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar, cast, final

import numpy as np

from topologies.arrays.edges import Edges, Ranks
from topologies.topology import Topology, Turn, refuse_rank

R = TypeVar("R", int, Ranks)


class Pairing(Topology):
    """A schedule of matchings: two partners give each other the share s, and who has no partner keeps all.

        P(t)[i, j] = P(t)[j, i] = s,    P(t)[i, i] = 1 - s    where partner(i, t) = j ≠ i

    A subclass says `partner`. P is symmetric by construction, so doubly stochastic.
    """

    def __init__(self, size: int, period: int | None, share: float = 0.5) -> None:
        """`share`: s, above 0 and below 1."""
        super().__init__(size, period)
        self.share = share

    @abstractmethod
    def partner(self, rank: R, round: int) -> R:
        """Whom `rank` meets in `round`, itself where nobody; of an array of ranks, the array of their partners."""

    @final
    def turn(self, rank: int, round: int) -> Turn:
        """The turn of `rank`: give the share to the partner and get it back."""
        if not 0 <= rank < self.size:
            raise refuse_rank(rank, self.size)
        # As Python's integers: small ones of numpy wrap, and unsigned ones know no rank below 0.
        rank = int(rank)
        partner = self.partner(rank, int(round))
        if partner == rank:
            return Turn(1.0, {}, {})
        return Turn(1 - self.share, {partner: self.share}, {partner: self.share})

    @final
    def edges(self, round: int) -> Edges:
        """All turns of `round` as arrays."""
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
    """`yes` where the condition holds, else `no`; of arrays, entry by entry."""
    if isinstance(condition, np.ndarray):
        return cast(R, np.where(condition, yes, no))
    return yes if condition else no
