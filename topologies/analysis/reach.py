"""Peers of a rank, messages of the busiest rank, and the rounds until the values of every rank reach every other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from topologies.analysis.rounds import busiest, column
from topologies.arrays.connectivity import is_strongly_connected
from topologies.arrays.edges import Ranks
from topologies.topology import Topology
from topologies.validation import rounds_of


@dataclass(frozen=True)
class Span:
    """The number of peers of a rank in a round, over all ranks and the judged rounds."""

    low: int
    """The fewest."""
    high: int
    """The most."""
    mean: float
    """The mean over ranks and rounds."""


@dataclass(frozen=True)
class Degrees:
    """The result of `degrees`."""

    out: Span
    """Peers that a rank sends to."""
    into: Span
    """Peers that a rank receives from; the mean is that of `out`."""


def degrees(topology: Topology, rounds: int | None = None) -> Degrees:
    """The number of peers that a rank sends to and receives from in a round: lowest, highest, mean.

    Args:
        topology: the schedule.
        rounds: the number of judged first rounds; None for one period, or for 64 rounds without a period.

    >>> from topologies.analysis import degrees
    >>> degrees(topologies.ring(5, directed=True)).out
    Span(low=1, high=1, mean=1.0)
    """
    size, judged = topology.size, rounds_of(topology) if rounds is None else rounds
    sent: list[Span] = []
    received: list[Span] = []
    for round in range(judged):
        hops = column(topology, round)
        if hops is not None:
            sent.append(Span(len(hops) - 1, len(hops) - 1, len(hops) - 1))
            received.append(sent[-1])
        else:
            edges = topology.edges(round)
            sent.append(_span(np.bincount(edges.source, minlength=size)))
            received.append(_span(np.bincount(edges.target, minlength=size)))
    return Degrees(_over_rounds(sent), _over_rounds(received))


def loads(topology: Topology, rounds: int | None = None) -> Ranks:
    """Shape (rounds,): messages that the busiest rank of each round sends or receives, whichever are more.

    Args:
        topology: the schedule.
        rounds: as in `degrees`.

    >>> from topologies.analysis import loads
    >>> loads(topologies.exponential(5, peers=3)).tolist()
    [3, 3]
    """
    judged = rounds_of(topology) if rounds is None else rounds
    counts: list[int] = []
    for round in range(judged):
        hops = column(topology, round)
        counts.append(busiest(topology.edges(round)) if hops is None else len(hops) - 1)
    return np.array(counts, dtype=np.int64)


def connected(topology: Topology) -> bool:
    """Whether the edges of all rounds of a period, or of the first 64, lead from every rank to every other one.

    Args:
        topology: the schedule.

    >>> from topologies.analysis import connected
    >>> connected(topologies.exponential(8))
    True
    """
    rounds, union = rounds_of(topology), _Union(topology)
    # Usually a few rounds suffice, and to gather all of them takes long.
    ends = [1 << power for power in range(rounds.bit_length()) if 1 << power < rounds]
    return any(union.connects(0, end) for end in [*ends, rounds])


def window(topology: Topology, work: float = math.inf) -> int | None:
    """The smallest B such that any B rounds in a row lead from every rank to every other one.

    One period is judged as a cycle, so a window may pass its end; without a period the first 64 rounds are judged. None
    if even all of these do not connect the ranks. B bounds the staleness of values from the farthest rank, and the rate
    of push-sum over a changing directed graph.

    Args:
        topology: the schedule.
        work: about the largest number of edges to follow; None is returned beyond it.

    >>> from topologies.analysis import window
    >>> window(topologies.ring(8)), window(topologies.exponential(8))
    (1, 3)

    Source: Nedić, Olshevsky: Distributed Optimization over Time-Varying Directed Graphs, IEEE TAC 2015, arXiv
    1303.2289, assumption 1.
    """
    union = _Union(topology)
    rounds = rounds_of(topology)
    longest, end = 1, 0
    for start in range(rounds):
        # A window that begins later ends no sooner.
        end = max(end, start + 1)
        limit = start + rounds if topology.period else rounds
        while not union.connects(start, end):
            end += 1
            if end > limit:
                # The window from `start` to the last judged round does not connect. All longer ones begin before it.
                return max(longest, rounds - start + 1) if start else None
            if union.work > work:
                return None
        longest = max(longest, end - start)
    return longest


class _Union:
    """The union of the edges of some rounds."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.work = 0
        """How many edges were followed so far."""
        self._kept: dict[int, Ranks] = {}

    def connects(self, start: int, end: int) -> bool:
        """Whether the rounds start … end - 1 lead from every rank to every other one."""
        size = self.topology.size
        columns = [column(self.topology, round) for round in range(start, end)]
        # The ranks that rank 0 reaches over circulant rounds are the multiples of gcd(n, all hops).
        if math.gcd(size, *(hop for hops in columns if hops is not None for hop in hops)) == 1:
            return True
        if None not in columns:
            return False
        pairs = np.concatenate([self._pairs(round) for round in range(start, end)])
        source, target = pairs // size, pairs % size
        self.work += size + len(pairs)
        # Most windows that are too short leave out a rank, and this is cheaper to test than a missing path.
        ends = (np.bincount(end, minlength=size).all() for end in (source, target))
        return all(ends) and is_strongly_connected(size, source, target)

    def _pairs(self, round: int) -> Ranks:
        phase = round % rounds_of(self.topology)
        if phase not in self._kept:
            edges = self.topology.edges(phase)
            self._kept[phase] = edges.source * self.topology.size + edges.target
        return self._kept[phase]


def _span(peers: Ranks) -> Span:
    return Span(int(peers.min()), int(peers.max()), float(peers.mean()))


def _over_rounds(rounds: Sequence[Span]) -> Span:
    return Span(
        min(span.low for span in rounds), max(span.high for span in rounds), fmean(span.mean for span in rounds)
    )
