"""One round of a schedule in the form that is cheapest to judge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from topologies.arrays.edges import Edges
from topologies.composition.composed import Arranged
from topologies.kinds.circulants import Circulant
from topologies.topology import Topology


def played(topology: Topology, round: int) -> tuple[Topology, int]:
    """The topology whose round it is, and which of its rounds: a composition may only say whose turn it is."""
    while isinstance(topology, Arranged):
        topology, round = topology.at(round)
    return topology, round


def column(topology: Topology, round: int) -> Mapping[int, float] | None:
    """Hop -> share, of a round in which all ranks do the same; None of others.

    Such a round is never laid out edge by edge, so a complete graph of 100 000 ranks can be judged.
    """
    topology, round = played(topology, round)
    return topology.column(round) if isinstance(topology, Circulant) else None


def busiest(edges: Edges) -> int:
    """How many messages the busiest rank of one round sends or receives, whichever is more."""
    return int(max(np.bincount(end, minlength=1).max() for end in (edges.source, edges.target)))
