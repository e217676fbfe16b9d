"""The graph of the survivors after the death of some ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from topologies.arrays.connectivity import reachable
from topologies.arrays.edges import Edges, Floats, Ranks
from topologies.checks import check_rank, integers
from topologies.composition.composed import Arranged, Composed, shown
from topologies.composition.order import Interleaved
from topologies.errors import TopologyError
from topologies.kinds.circulants import Columns, uniform
from topologies.topology import Topology, Turn
from topologies.validation import rounds_of, validate, validated

FIRST_LOOK = 16
"""The number of rounds after which connectivity of the survivors is first tested."""

Shares = dict[int, dict[int, float]]


class Without(Composed):
    """The schedule that `without` returns if the survivors connect."""

    def __init__(self, topology: Topology, dead: Sequence[int]) -> None:
        """`dead`: some of the ranks, not all."""
        self.dead = tuple(sorted(dead))
        super().__init__(topology.size - len(self.dead), topology.period, [topology])
        alive = np.ones(topology.size, dtype=np.bool_)
        alive[list(self.dead)] = False
        self.survivors = np.flatnonzero(alive)
        # The new number of a survivor; -1 - k for dead rank number k.
        self.number = np.where(alive, np.cumsum(alive) - 1, np.cumsum(~alive) * -1)

    def turn(self, rank: int, round: int) -> Turn:
        """The turn of survivor `rank`; only dead ranks that its edges reach over dead ranks are read."""
        check_rank(rank, self.size)
        number, own = self.number, int(self.survivors[rank])
        turn = self.parts[0].turn(own, round)
        keep, sends, receives = turn.keep, dict(turn.sends), dict(turn.receives)
        passed, came = self._around(turn, round)
        if passed:
            for peer in passed:
                sends.pop(peer, None)
                receives.pop(peer, None)
            for source, target, share in _forwarded(passed, came, own):
                if source == target:
                    keep += share
                elif source == own:
                    sends[target] = sends.get(target, 0.0) + share
                else:
                    receives[source] = receives.get(source, 0.0) + share
        return Turn(
            min(keep, 1.0),
            {int(number[peer]): share for peer, share in sends.items()},
            {int(number[peer]): share for peer, share in receives.items()},
        )

    def edges(self, round: int) -> Edges:
        edges, number, size = self.parts[0].edges(round), self.number, self.size
        alive = (number[edges.source] >= 0) & (number[edges.target] >= 0)
        passed: Shares = {rank: {} for rank in self.dead}
        came: Shares = {rank: {} for rank in self.dead}
        for j, i, part in zip(*(column[~alive].tolist() for column in edges[1:]), strict=True):
            if j in passed:
                passed[j][i] = part
            if i in passed:
                came[i][j] = part
        # Direct shares come first, as in `turn`, so that sums have the same digits.
        forwarded = np.array(list(_forwarded(passed, came)), dtype=[("j", "i8"), ("i", "i8"), ("share", "f8")])
        source = number[np.concatenate([edges.source[alive], forwarded["j"]])]
        target = number[np.concatenate([edges.target[alive], forwarded["i"]])]
        share: Floats = np.concatenate([edges.share[alive], forwarded["share"]])
        # The share that a rank keeps is an edge to itself.
        ranks, kept = np.arange(size), edges.keep[self.survivors]
        places = np.concatenate([ranks * size + ranks, source * size + target])
        pairs, place = np.unique(places, return_inverse=True)
        shares = np.bincount(place, np.concatenate([kept, share]))
        source, target = np.divmod(pairs, size)
        own = source == target
        return Edges(np.minimum(shares[own], 1.0), source[~own], target[~own], shares[~own])

    def _rows_sum_to_one(self, round: int) -> bool:
        # The stochastic complement of a doubly stochastic matrix is one.
        return self.parts[0].doubly_stochastic(round) or super()._rows_sum_to_one(round)

    def options(self) -> str:
        return f"without={shown(self.dead)}"

    def _around(self, turn: Turn, round: int) -> tuple[Shares, Shares]:
        """Sends and receives of the dead ranks that are linked to the peers of `turn` by dead ranks."""
        passed: Shares = {}
        came: Shares = {}
        near = [peer for peers in turn[1:] for peer in peers if self.number[peer] < 0]
        while near:
            rank = near.pop()
            if rank not in passed:
                _, sends, receives = self.parts[0].turn(rank, round)
                passed[rank], came[rank] = dict(sends), dict(receives)
                near += [peer for peers in (sends, receives) for peer in peers if self.number[peer] < 0]
        return passed, came


class Bridged(Arranged):
    """The schedule that `without` returns if the survivors do not connect: every second round is a bridge."""

    def __init__(self, survivors: Without) -> None:
        size = survivors.size
        # 2^i for all of them below n
        bridge = Columns(size, [uniform(size, [1 << i]) for i in range((size - 1).bit_length())])
        self.schedule = Interleaved([survivors, bridge], [1, 1])
        super().__init__(size, self.schedule.period, [*survivors.parts, bridge])
        self.dead = survivors.dead

    def at(self, round: int) -> tuple[Topology, int]:
        return self.schedule.at(round)

    def options(self) -> str:
        return f"without={shown(self.dead)}, bridged by one-peer exponential rounds"


def without(topology: Topology, ranks: Iterable[int]) -> Topology:
    """The graph of the survivors when `ranks` are dead, renumbered 0 … m - 1 in their old order.

    A message for a dead rank travels on as that rank would have sent it in this round, until it meets a survivor. With
    the survivors S and the dead D this is the stochastic complement:

        P' = P_SS + P_SD (I - P_DD)⁻¹ P_DS

    P' is column-stochastic again, doubly stochastic if P was, and symmetric if P was. With one peer a rank sends about
    one message, as before. If a rank of degree k dies, its neighbours exchange with each other, over up to k² edges. A
    rank keeps a share that comes back to it, and a share for dead ranks that pass nothing on to survivors.

    If the dead were the only link between survivors, every second round is one of the one-peer exponential graph on the
    survivors. The text of the topology then says "bridged".

    Args:
        topology: any topology.
        ranks: dead ranks, each once, not all. With no ranks the result is `topology` itself.

    Raises:
        TopologyError: other values, or a topology that breaks the laws.

    >>> survivors = without(exponential(8), [2])
    >>> survivors.turn(rank=1, round=0), survivors.turn(rank=2, round=0).receives
    (Turn(keep=0.5, sends={2: 0.5}, receives={0: 0.5}), {1: 0.5})

    Source: Meyer, Stochastic Complementation, Uncoupling Markov Chains, SIAM Review 31 (1989), section 2.
    """
    validate(topology)
    dead = integers(ranks, "the dead ranks")
    _check(dead, topology.size)
    if not dead:
        return topology
    survivors = Without(topology, dead)
    return validated(survivors if _connects(survivors) else Bridged(survivors))


def _check(dead: Sequence[int], size: int) -> None:
    seen: set[int] = set()
    for rank in dead:
        if not 0 <= rank < size:
            raise TopologyError(
                f"rank {rank} cannot be dead in a topology of {size} ranks, 0 to {size - 1}: name ranks of this "
                "topology, by their numbers in it"
            )
        if rank in seen:
            raise TopologyError(f"rank {rank} is named twice among the dead ranks: name each rank once")
        seen.add(rank)
    if len(seen) == size:
        raise TopologyError(f"all {size} ranks are dead, so no graph is left: name the dead ranks only")


def _forwarded(passed: Shares, came: Shares, around: int | None = None) -> Iterator[tuple[int, int, float]]:
    """The shares that survivors send to survivors over the dead: source, target, share; consumes `passed` and `came`.

    Dead ranks are eliminated one after the other: a share that came to the rank is divided as the rank would have sent
    it. Nothing is subtracted, so no digits are lost, and the share of an edge is the same to the last bit for every
    caller.

    Args:
        passed: dead rank -> the shares that it sends.
        came: dead rank -> the shares that it receives.
        around: the survivor whose edges are wanted; None for all.

    Source: Grassmann, Taksar, Heyman, Regenerative Analysis and Steady State Distributions, Operations Research 33
    (1985).
    """
    for rank in sorted(passed):
        # 1 - P[d, d]
        total = math.fsum(passed[rank].values())
        if not total:
            continue
        onward = {target: share / total for target, share in passed[rank].items()}
        # The keys of `came` are the dead ranks that are not yet eliminated.
        sources = came.pop(rank)
        wanted = {target: part for target, part in onward.items() if target in came or target == around}
        for target in onward:
            if target in came:
                del came[target][rank]
        for source, share in sources.items():
            dead = source in came
            if dead:
                del passed[source][rank]
            # P[i, j] <- P[i, j] + P[i, d] P[d, j] / (1 - P[d, d])
            for target, part in (onward if dead or around in (None, source) else wanted).items():
                if dead and target != source:
                    passed[source][target] = passed[source].get(target, 0.0) + share * part
                if target in came and target != source:
                    came[target][source] = came[target].get(source, 0.0) + share * part
                elif not dead:
                    yield source, target, share * part
    for rank in sorted(came):
        yield from ((source, source, share) for source, share in came[rank].items() if around in (None, source))


def _connects(survivors: Without) -> bool:
    """Whether the survivors connect over the rounds that are checked.

    A dead rank passes messages on within a round only, so it counts as another node in each round. The test takes
    O(edges), even if the survivors of a star are all linked with each other.
    """
    size, deaths, topology = survivors.size, len(survivors.dead), survivors.parts[0]
    node = np.where(survivors.number >= 0, survivors.number, size - 1 - survivors.number)
    sources: list[Ranks] = []
    targets: list[Ranks] = []
    last = rounds_of(topology) - 1
    for round in range(last + 1):
        edges = topology.edges(round)
        for ends, found in ((edges.source, sources), (edges.target, targets)):
            own = node[ends]
            found.append(own + (own >= size) * deaths * round)
        # Few rounds may connect by long paths only, which take long to follow. Most long periods connect early.
        if round == last or (round + 1 >= FIRST_LOOK and round & (round + 1) == 0):
            nodes = size + deaths * (round + 1)
            source, target = np.concatenate(sources), np.concatenate(targets)
            if all(reachable(nodes, *ends)[:size].all() for ends in ((source, target), (target, source))):
                return True
    return False
