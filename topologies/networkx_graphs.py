"""Topologies made of networkx graphs, one for each round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import networkx as nx
import numpy as np

from topologies.edges import Edges
from topologies.errors import TopologyError
from topologies.table import Table
from topologies.topology import TOLERANCE
from topologies.validation import is_share, validate

Shares: TypeAlias = dict[tuple[int, int], float]  # (u, v) -> the share of u's weight that goes to v


def from_networkx(graph_or_sequence: Any, weight: str | None = "weight") -> Table:
    """A topology of one networkx `Graph` or `DiGraph` on the nodes 0 … n - 1, or of a sequence of them, one a round.

    An edge u -> v means that u sends to v; an edge of an undirected graph goes both ways. The edge attribute named by
    `weight` is the share of u's weight that goes to v (of an undirected graph: the share both ways), and what u does
    not send it keeps. A graph without the attribute gets

        DiGraph    1 / (1 + out-degree of u)
        Graph      1 / (1 + max(degree of u, degree of v))        Metropolis-Hastings: doubly stochastic

    graph_or_sequence: the period is the length of the sequence. Ranks may be idle in some rounds, but all rounds
    together must lead from every rank to every other one.
    weight: name of the edge attribute; None ignores attributes, for graphs whose weights mean something else.
    Raises `TopologyError` for other labels, self-loops, multigraphs, graphs of different sizes or with weights on some
    edges only, shares that are not above 0 or leave a rank nothing to keep, and ranks that never connect.

    >>> from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)])).turn(rank=0, round=0)
    Turn(keep=0.333..., sends={1: 0.333..., 2: 0.333...}, receives={2: 0.5})

    The Metropolis weights: Xiao, Boyd, Lall, A Scheme for Robust Distributed Sensor Fusion Based on Average Consensus,
    IPSN 2005.
    """
    graphs, size = _graphs(graph_or_sequence)
    rounds: list[Edges] = []
    for round, graph in enumerate(graphs):
        name = "the graph" if len(graphs) == 1 else f"the graph of round {round}"
        _check_shape(graph, name)
        if len(graph) != size:
            raise TopologyError(
                f"{name} has {len(graph)} nodes, but the graph of round 0 has {size}: all graphs of "
                "a sequence need the same ranks, so add those that are idle with add_nodes_from"
            )
        rounds.append(_edges(size, _given(graph, weight, name) or _usual(graph)))
    topology = Table(rounds)
    validate(topology)
    return topology


def is_graphs(value: object) -> bool:
    """Whether `value` is something that `from_networkx` takes: a graph, or a sequence of graphs and nothing else."""
    if isinstance(value, nx.Graph):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(graph, nx.Graph) for graph in value)


def _graphs(graph_or_sequence: Any) -> tuple[Sequence[Any], int]:
    # A graph is iterable itself, over its nodes, so it comes first.
    if isinstance(graph_or_sequence, nx.Graph):
        graphs: Sequence[Any] = [graph_or_sequence]
    elif isinstance(graph_or_sequence, Iterable):
        graphs = list(graph_or_sequence)
    else:
        graphs = [graph_or_sequence]
    if not graphs:
        raise TopologyError("the sequence of graphs is empty: give one networkx graph for each round of the period")
    for round, graph in enumerate(graphs):
        if not isinstance(graph, nx.Graph):
            raise TopologyError(
                f"the topology of round {round} comes from a {type(graph).__name__}, not from a "
                "networkx Graph or DiGraph: for a matrix P, networkx.from_numpy_array(P.T, "
                "create_using=networkx.DiGraph) makes one once its diagonal is set to 0"
            )
    return graphs, len(graphs[0])


def _check_shape(graph: Any, name: str) -> None:
    size = len(graph)
    if size == 0:
        raise TopologyError(f"{name} has no nodes: add one node for each rank with add_nodes_from(range(size))")
    if graph.is_multigraph():
        raise TopologyError(
            f"{name} is a multigraph, and two ranks exchange one message each way in a round: "
            f"make it a networkx.{'DiGraph' if graph.is_directed() else 'Graph'}, adding up the shares "
            "of parallel edges"
        )
    strangers = [label for label in graph if label not in range(size)]
    if strangers:
        some = ", ".join(map(repr, strangers[:5])) + (f" and {len(strangers) - 5} more" if len(strangers) > 5 else "")
        raise TopologyError(
            f"{name} has {size} nodes, so their labels must be the ranks 0 to {size - 1}, but it has "
            f"{some}: rename them with networkx.convert_node_labels_to_integers(graph)"
        )
    for rank in nx.nodes_with_selfloops(graph):
        raise TopologyError(
            f"{name} has an edge from rank {rank} to itself: a rank keeps what it does not send, so "
            "remove it with graph.remove_edges_from(list(networkx.selfloop_edges(graph)))"
        )


def _given(graph: Any, weight: str | None, name: str) -> Shares:
    """The shares written on the edges; none where no edge has one."""
    if weight is None:
        return {}
    written = {(u, v): share for u, v, share in graph.edges(data=weight) if share is not None}
    if not written:
        return {}
    for u, v in graph.edges:
        if (u, v) not in written:
            raise TopologyError(
                f"{name} has the attribute {weight!r} on {len(written)} of its "
                f"{graph.number_of_edges()} edges, but not on {u} -> {v}: put a share on every edge, "
                "or pass weight=None to have all of them computed"
            )
    shares: Shares = {}
    for (u, v), share in written.items():
        if not is_share(share):
            raise TopologyError(
                f"{name} has {weight}={share!r} on the edge {u} -> {v}: a share is a number above 0 "
                "and below 1, so correct it or leave the edge out; pass weight=None where the "
                "attribute is no share"
            )
        shares[int(u), int(v)] = float(share)
        if not graph.is_directed():
            shares[int(v), int(u)] = float(share)
    sent: dict[int, list[float]] = {}
    for (u, _), share in shares.items():
        sent.setdefault(u, []).append(share)
    for u, parts in sorted(sent.items()):
        if math.fsum(parts) >= 1 - TOLERANCE:
            raise TopologyError(
                f"{name} lets rank {u} send {math.fsum(parts):.12g} of its weight in all (column {u}), "
                f"and every rank must keep some: lower the attribute {weight!r} on its edges until "
                "they sum to less than 1; pass weight=None where the attribute is no share"
            )
    return shares


def _usual(graph: Any) -> Shares:
    degree: dict[int, int] = dict(graph.out_degree if graph.is_directed() else graph.degree)
    shares: Shares = {}
    for u, v in graph.edges:
        if graph.is_directed():
            # P[v, u] = 1 / (1 + d_u)
            shares[int(u), int(v)] = 1 / (1 + degree[u])
        else:
            # P[v, u] = P[u, v] = 1 / (1 + max(d_u, d_v))
            shares[int(u), int(v)] = shares[int(v), int(u)] = 1 / (1 + max(degree[u], degree[v]))
    return shares


def _edges(size: int, shares: Shares) -> Edges:
    sent: list[list[float]] = [[] for _ in range(size)]
    for (u, _), share in shares.items():
        sent[u].append(share)
    ends = np.array(list(shares), dtype=np.int64).reshape(-1, 2)
    return Edges(
        np.array([1 - math.fsum(parts) for parts in sent]),
        ends[:, 0],
        ends[:, 1],
        np.array(list(shares.values()), dtype=np.float64),
    )
