"""Graphs from a table of edges, one entry for each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from topologies.arrays.edges import Edges, Floats, Ranks
from topologies.checks import check_rank
from topologies.topology import Topology, Turn


class Table(Topology):
    """The given rounds, in turn, for ever.

    A table holds the edges of every round, sorted by sender and by receiver, so a turn costs O(degree).
    """

    def __init__(self, rounds: Sequence[Edges]) -> None:
        """`rounds`: all on the same ranks, one for each round of the period, at least one."""
        super().__init__(len(rounds[0].keep), period=len(rounds))
        self._rounds = tuple(_Round(edges) for edges in rounds)

    @final
    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        return self._rounds[round % len(self._rounds)].turn(rank)

    @final
    def edges(self, round: int) -> Edges:
        return self._rounds[round % len(self._rounds)].edges


class _Round:
    """One round, sorted for lookups of a rank."""

    def __init__(self, edges: Edges) -> None:
        self.edges = edges
        size = len(edges.keep)
        self.sends = _Rows(size, edges.source, edges.target, edges.share)
        self.receives = _Rows(size, edges.target, edges.source, edges.share)

    def turn(self, rank: int) -> Turn:
        return Turn(float(self.edges.keep[rank]), self.sends.of(rank), self.receives.of(rank))


class _Rows:
    """Peers and shares sorted by rank: those of rank r stand from start[r] to start[r + 1]."""

    def __init__(self, size: int, rank: Ranks, peer: Ranks, share: Floats) -> None:
        order = np.argsort(rank, kind="stable")
        self.start = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=size))])
        self.peer, self.share = peer[order], share[order]

    def of(self, rank: int) -> dict[int, float]:
        own = slice(self.start[rank], self.start[rank + 1])
        return dict(zip(self.peer[own].tolist(), self.share[own].tolist(), strict=True))
