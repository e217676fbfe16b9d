"""Graphs in which all ranks do the same, each seen from where it stands."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import final

from topologies.topology import Topology, Turn, refuse_rank
from topologies.validation import check_period, check_turn, laws, refuse_unconnected, rounds_of


class Circulant(Topology):
    """A schedule of circulant matrices: column j of P(t) is column 0, moved down by j.

        P(t)[(j + h) mod n, j] = column(t)[h]

    A subclass says `column`. As `turn` follows from it for every rank alike, sends and receives agree and rows sum to
    what columns sum to; rank 0 speaks for all, and checking, describing and comparing cost O(degree) a round for any n.
    """

    @abstractmethod
    def column(self, round: int) -> Mapping[int, float]:
        """The share that goes to each hop, 0 <= hop < n, in `round`; hop 0 is what a rank keeps."""

    @final
    def turn(self, rank: int, round: int) -> Turn:
        """The turn of `rank`: column 0 of P(round), moved to where `rank` stands."""
        size = self.size
        if not 0 <= rank < size:
            raise refuse_rank(rank, size)
        column = self.column(round)
        return Turn(
            column[0],
            {(rank + hop) % size: share for hop, share in column.items() if hop},
            {(rank - hop) % size: share for hop, share in column.items() if hop},
        )

    @final
    def _representatives(self) -> Sequence[int]:
        return range(1)


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
