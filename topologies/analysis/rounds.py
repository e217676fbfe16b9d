"""Rounds of a schedule in the form that is cheapest to judge or to simulate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from topologies.arrays.edges import Edges, Floats
from topologies.composition.composed import Arranged
from topologies.kinds.circulants import Circulant
from topologies.topology import Topology

REMEMBERED = 12_000_000
"""The largest count of numbers of a periodic schedule that are kept between rounds, about 100 MB."""

SMALL = 256
"""Up to this number of ranks several values a rank are simulated at once, and a round is one dense product."""


def played(topology: Topology, round: int) -> tuple[Topology, int]:
    """The topology whose round it is, and the number of its own round; a composition only refers to its parts."""
    while isinstance(topology, Arranged):
        topology, round = topology.at(round)
    return topology, round


def column(topology: Topology, round: int) -> Mapping[int, float] | None:
    """Hop -> share, for a round in which all ranks do the same; None for others.

    Such a round is never expanded edge by edge, so a complete graph of 100 000 ranks can be judged.
    """
    topology, round = played(topology, round)
    return topology.column(round) if isinstance(topology, Circulant) else None


def busiest(edges: Edges) -> int:
    """Messages that the busiest rank of one round sends or receives, whichever are more."""
    return int(max(np.bincount(end, minlength=1).max() for end in (edges.source, edges.target)))


class PreparedRound(NamedTuple):
    """One round, ready to be applied."""

    operator: Circulant | Edges | Floats
    round: int
    """The number of the round in a circulant schedule."""
    load: int
    """Messages that the busiest rank sends or receives."""
    held: int
    """The count of numbers in memory."""

    def mix(self, values: Floats) -> Floats:
        """P @ values."""
        if isinstance(self.operator, Circulant):
            return self.operator.mix(values, self.round)
        if isinstance(self.operator, Edges):
            return self.operator.mix(values)
        mixed: Floats = self.operator @ values
        return mixed


class Rounds:
    """The rounds of a topology; those that come again are remembered."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.kept: dict[int, PreparedRound] = {}
        self.room = REMEMBERED

    def of(self, round: int) -> PreparedRound:
        """The prepared round of this number."""
        period = self.topology.period
        phase = round if period is None else round % period
        if phase in self.kept:
            return self.kept[phase]
        made = self._prepared(phase)
        if period is not None and made.held <= self.room:
            self.kept[phase] = made
            self.room -= made.held
        return made

    def _prepared(self, round: int) -> PreparedRound:
        size = self.topology.size
        playing, phase = played(self.topology, round)
        if isinstance(playing, Circulant) and size > SMALL:
            return PreparedRound(playing, phase, len(playing.column(phase)) - 1, held=1)
        edges = self.topology.edges(round)
        if size <= SMALL:
            return PreparedRound(edges.matrix(), phase, busiest(edges), held=size**2)
        return PreparedRound(edges, phase, busiest(edges), held=size + 3 * len(edges.source))
