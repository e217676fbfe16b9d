"""The places of ranks in a picture, so that the shape of a graph is visible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import networkx as nx
import numpy as np

from topologies.arrays.edges import Edges, Floats, Ranks
from topologies.families.node_aware import NodeAware
from topologies.topology import Topology

FEW = 4
"""Below this many ranks every layout is a circle."""

HOST_GAP = 0.8
"""The gap between two hosts on the circle, in steps from one rank to the next."""


def layout(topology: Topology, rounds: Sequence[Edges]) -> Floats:
    """Places of all ranks, shape (n, 2), within -1 to 1: a lattice, a star, a tree, or a circle with a gap per host.

    >>> (layout(topologies.ring(4), []).round(6) + 0).tolist()
    [[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]]
    """
    size = topology.size
    if shape := lattice(size, rounds):
        return _lattice(*shape)
    graph = nx.Graph(_pairs(rounds))
    graph.add_nodes_from(range(size))
    if size >= FEW and nx.is_tree(graph):
        [hub, *_] = sorted(graph, key=lambda rank: -graph.degree[rank])
        if graph.degree[hub] == size - 1:
            return np.insert(_circle([1] * (size - 1), gap=0), hub, 0.0, axis=0)
        depth = nx.single_source_shortest_path_length(graph, 0)
        if max(depth.values()) <= math.log2(size) + 1:
            return _tree(graph, depth)
    counts = [len(ranks) for ranks in hosts(topology)]
    return _circle(counts, gap=HOST_GAP) if counts else _circle([1] * size, gap=0)


def lattice(size: int, rounds: Sequence[Edges]) -> tuple[int, int] | None:
    """Rows and columns if the edges of all rounds together are those of a grid or a torus, row after row.

    >>> lattice(6, [topologies.from_networkx(nx.convert_node_labels_to_integers(nx.grid_2d_graph(2, 3))).edges(0)])
    (2, 3)
    """
    pairs = _pairs(rounds)
    ranks = np.arange(size)
    for rows in range(2, size // 2 + 1):
        if size % rows:
            continue
        box = ranks.reshape(rows, -1)
        inside = _steps(box[:, :-1], box[:, 1:]) | _steps(box[:-1], box[1:])
        around = _steps(box[:, -1], box[:, 0]) | _steps(box[-1], box[0])
        if pairs in (inside, inside | around):
            return box.shape[0], box.shape[1]
    return None


def _pairs(rounds: Sequence[Edges]) -> set[tuple[int, int]]:
    return {
        (min(ends), max(ends))
        for edges in rounds
        for ends in zip(edges.source.tolist(), edges.target.tolist(), strict=True)
    }


def _steps(here: Ranks, there: Ranks) -> set[tuple[int, int]]:
    ends = np.sort(np.stack([here.ravel(), there.ravel()], axis=1), axis=1)
    return {(j, i) for j, i in ends.tolist()}


def hosts(topology: Topology) -> Sequence[range]:
    """The ranks of each host if the topology knows several hosts, else an empty list.

    >>> hosts(topologies.families.node_aware.node_aware(5, hosts=[3, 2]))
    [range(0, 3), range(3, 5)]
    """
    if not isinstance(topology, NodeAware) or len(topology.hosts) == 1:
        return []
    return [range(end - count, end) for count, end in zip(topology.hosts, accumulate(topology.hosts), strict=True)]


def _circle(groups: Sequence[int], gap: float) -> Floats:
    """Clockwise from the top, a gap after each group."""
    steps = np.array([1.0 + (gap if last else 0) for group in groups for last in [0] * (group - 1) + [1]])
    angle = 2 * np.pi * (np.cumsum(steps) - steps) / steps.sum()
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _lattice(rows: int, columns: int) -> Floats:
    """Row after row from the top left, the longer side from -1 to 1."""
    half = max(rows, columns, 2) - 1
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.stack([(2 * column - columns + 1) / half, (rows - 1 - 2 * row) / half], axis=1)


def _tree(graph: nx.Graph, depth: dict[int, int]) -> Floats:
    """Rank 0 at the top; leaves side by side, and every other rank above the middle of its children."""
    children = {rank: sorted(peer for peer in graph[rank] if depth[peer] > depth[rank]) for rank in graph}
    order = list(nx.dfs_preorder_nodes(nx.DiGraph([(r, c) for r in sorted(graph) for c in children[r]]), 0))
    leaves = [rank for rank in order if not children[rank]]
    across = dict(zip(leaves, accumulate([0.0] + [1.0] * (len(leaves) - 1)), strict=True))
    for rank in sorted(graph, key=lambda rank: -depth[rank]):
        if children[rank]:
            across[rank] = (across[children[rank][0]] + across[children[rank][-1]]) / 2
    places = np.array([(across[rank], -depth[rank]) for rank in range(len(depth))])
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray(2 * (places - low) / (high - low) - 1) * (1, 0.8)
