"""The same graph with the ranks in other places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from topologies.arrays.edges import Edges, Floats
from topologies.checks import check_rank, integers
from topologies.composition.composed import Composed, shown
from topologies.errors import TopologyError
from topologies.topology import Topology, Turn
from topologies.validation import validate, validated


class Relabelled(Composed):
    """The schedule that `relabel` returns."""

    def __init__(self, topology: Topology, order: Sequence[int]) -> None:
        """`order`: a permutation of the ranks."""
        super().__init__(topology.size, topology.period, [topology])
        self.order = tuple(order)
        self.plays = np.array(order, dtype=np.int64)
        self.played_by = np.empty_like(self.plays)
        self.played_by[self.plays] = np.arange(self.size)

    def turn(self, rank: int, round: int) -> Turn:
        """The turn of order[rank] in the other topology, with the peers by their new numbers."""
        check_rank(rank, self.size)
        name = self.played_by
        turn = self.parts[0].turn(self.order[rank], round)
        return Turn(
            turn.keep,
            {int(name[peer]): share for peer, share in turn.sends.items()},
            {int(name[peer]): share for peer, share in turn.receives.items()},
        )

    def edges(self, round: int) -> Edges:
        keep, source, target, share = self.parts[0].edges(round)
        return Edges(keep[self.plays], self.played_by[source], self.played_by[target], share)

    def mix(self, values: Floats, round: int) -> Floats:
        return self.parts[0].mix(values[self.played_by], round)[self.plays]

    def doubly_stochastic(self, round: int) -> bool:
        return self.parts[0].doubly_stochastic(round)

    def keeps_alike(self, round: int) -> bool:
        return self.parts[0].keeps_alike(round)

    def options(self) -> str:
        return f"order={shown(self.order)}"


def relabel(topology: Topology, order: Iterable[int]) -> Relabelled:
    """The same graph with the ranks in other places: rank r plays the part of order[r].

        P'(t)[i, j] = P(t)[order[i], order[j]]

    The order decides which edges run over which cables: for example, neighbours on a ring may sit in one rack.

    Args:
        topology: any topology.
        order: a permutation of 0 … n - 1.

    Raises:
        TopologyError: `order` is no permutation, or the topology breaks the laws.

    >>> relabel(ring(4, directed=True), [0, 2, 1, 3]).turn(rank=0, round=0)
    Turn(keep=0.5, sends={2: 0.5}, receives={3: 0.5})
    """
    validate(topology)
    permutation = integers(order, "the order of relabel")
    _check(permutation, topology.size)
    return validated(Relabelled(topology, permutation))


def _check(order: Sequence[int], size: int) -> None:
    advice = f"name each of the ranks 0 to {size - 1} once"
    if len(order) != size:
        raise TopologyError(f"the order of relabel has {len(order)} entries for {size} ranks: {advice}")
    places: dict[int, int] = {}
    for place, rank in enumerate(order):
        if not 0 <= rank < size:
            raise TopologyError(f"the order of relabel has {rank} at place {place}, which is no rank: {advice}")
        if rank in places:
            missing = min(set(range(size)) - set(order))
            raise TopologyError(
                f"the order of relabel has rank {rank} at places {places[rank]} and {place}, and rank {missing} "
                f"nowhere: {advice}"
            )
        places[rank] = place
