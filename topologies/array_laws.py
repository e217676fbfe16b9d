"""The laws of a topology that overrides `edges`, checked in numpy."""

from __future__ import annotations

import numpy as np

from topologies.arrays.connectivity import is_strongly_connected
from topologies.arrays.edges import Edges, Ranks
from topologies.topology import TOLERANCE, Topology

SAMPLED = 8
"""The number of ranks a round whose turns are compared with the arrays."""


def obeys_laws(topology: Topology, rounds: int) -> bool:
    """Whether the first `rounds` rounds obey the laws, according to the arrays and the turns of some ranks.

    The answer costs O(edges). On False, the check of every turn finds the law that is broken.
    """
    size, pairs = topology.size, np.empty(0, dtype=np.int64)
    connected = False
    asked = np.unique(np.linspace(0, size - 1, SAMPLED, dtype=np.int64)).tolist()
    for round in range(rounds):
        edges = topology.edges(round)
        if not _are_lawful(edges, size) or not all(_turn_agrees(topology, edges, rank, round) for rank in asked):
            return False
        if connected:
            continue
        pairs = _distinct(np.concatenate([pairs, edges.source * size + edges.target]))
        # A few rounds of a random graph connect it, and sorting the pairs of all rounds takes long.
        if round + 1 == rounds or round & round + 1 == 0:
            source: Ranks
            target: Ranks
            source, target = np.divmod(pairs, size)
            connected = is_strongly_connected(size, source, target)
    return connected


def _are_lawful(edges: Edges, size: int) -> bool:
    keep, source, target, share = edges
    if keep.shape != (size,) or not len(source) == len(target) == len(share):
        return False
    shares = np.concatenate([keep, share])
    if not ((shares > 0) & (shares <= 1)).all():
        return False
    ends = np.concatenate([source, target])
    if not ((ends >= 0) & (ends < size)).all() or (source == target).any():
        return False
    return len(_distinct(source * size + target)) == len(source) and bool(
        np.abs(edges.columns() - 1).max() <= TOLERANCE
    )


def _distinct(numbers: Ranks) -> Ranks:
    # For millions of numbers this is an order of magnitude faster than np.unique, which hashes.
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def _turn_agrees(topology: Topology, edges: Edges, rank: int, round: int) -> bool:
    turn = topology.turn(rank, round)
    keep, source, target, share = edges
    out, into = source == rank, target == rank
    return (
        turn.keep == keep[rank]
        and turn.sends == dict(zip(target[out].tolist(), share[out].tolist(), strict=True))
        and turn.receives == dict(zip(source[into].tolist(), share[into].tolist(), strict=True))
        and topology.turn(rank, round + (topology.period or 0)) == turn
    )
