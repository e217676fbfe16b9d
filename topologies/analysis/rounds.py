"""One round of a schedule in the form that is cheapest to judge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from topologies.arrays.edges import Edges
from topologies.composition.composed import Arranged
from topologies.kinds.circulants import Circulant
from topologies.topology import Topology


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
