"""Groups of ranks that gossip at the same time, each with its own topology and without edges between groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topologies.arrays.edges import Edges, Ranks
from topologies.checks import check_rank
from topologies.topology import Topology, Turn


class SideBySide(Topology):
    """Several groups of ranks that gossip among themselves.

    The period is the longest of the groups' periods, so that it stays short. A group with a shorter period starts over
    with it: in round t a group plays its round t mod period.
    """

    def __init__(self, blocks: Sequence[tuple[Topology, Ranks]]) -> None:
        """`blocks`: a topology on k ranks, and the groups that run it, shape (groups, k); each rank in one group."""
        periods = [topology.period for topology, _ in blocks]
        longest = None if None in periods else max(period or 0 for period in periods)
        super().__init__(sum(members.size for _, members in blocks), longest)
        self.blocks = tuple((topology, np.asarray(members, dtype=np.int64)) for topology, members in blocks)
        self._block, self._group, self._place = np.empty((3, self.size), dtype=np.int64)
        for number, (_, members) in enumerate(self.blocks):
            self._block[members] = number
            self._group[members], self._place[members] = np.indices(members.shape)

    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        topology, members = self.blocks[self._block[rank]]
        names = members[self._group[rank]]
        turn = topology.turn(int(self._place[rank]), self._phase(round))
        return Turn(
            turn.keep,
            {int(names[peer]): share for peer, share in turn.sends.items()},
            {int(names[peer]): share for peer, share in turn.receives.items()},
        )

    def edges(self, round: int) -> Edges:
        keep, sources, targets, shares = np.empty(self.size), [], [], []
        for topology, members in self.blocks:
            edges = topology.edges(self._phase(round))
            keep[members] = edges.keep
            sources.append(members[:, edges.source].ravel())
            targets.append(members[:, edges.target].ravel())
            shares.append(np.tile(edges.share, len(members)))
        return Edges(keep, np.concatenate(sources), np.concatenate(targets), np.concatenate(shares))

    def doubly_stochastic(self, round: int) -> bool:
        return all(topology.doubly_stochastic(self._phase(round)) for topology, _ in self.blocks)

    def _phase(self, round: int) -> int:
        return round if self.period is None else round % self.period
