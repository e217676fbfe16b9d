"""Topologies from networkx graphs, one for each round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import networkx as nx
import numpy as np

from topologies.arrays.edges import Edges, Floats, Ranks, totals
from topologies.arrays.weights import undirected, weighted
from topologies.custom.matrices import ROUNDING
from topologies.errors import TopologyError
from topologies.kinds.table import Table
from topologies.topology import TOLERANCE
from topologies.validation import is_share, validated

USUAL = "weight"
"""The default name of the edge attribute with the shares."""


def from_networkx(graph_or_sequence: Any, weight: str | None = USUAL) -> Table:
    """A topology of one networkx `Graph` or `DiGraph` on the nodes 0 … n - 1, or of a sequence of them, one a round.

    An edge u -> v means that u sends to v; an edge of an undirected graph goes both ways. The edge attribute `weight`
    is the share of u's weight that goes to v; in an undirected graph it is the share both ways. Rank u keeps the rest.
    A graph without the attribute gets

        DiGraph    1 / (1 + out-degree of u)
        Graph      1 / (1 + max(degree of u, degree of v))        Metropolis-Hastings: doubly stochastic

    A self-loop is no message. If it has a weight, this must be the share that the rank keeps anyway, up to the rounding
    that `from_matrix` allows. So `networkx.from_numpy_array(W)` is accepted if the rows of W sum to 1. A loop without a
    weight changes nothing: every rank keeps a share, and degrees do not count loops.

    Args:
        graph_or_sequence: one graph, or L graphs for a period of L rounds. Ranks may be idle in some rounds, but all
            rounds together must lead from every rank to every other one.
        weight: name of the edge attribute; None ignores attributes, for graphs whose weights mean something else.

    Raises:
        TopologyError: other labels, multigraphs, graphs of different sizes, or weights on some edges only; shares that
            are not above 0 or leave a rank nothing to keep; self-loops that contradict the other edges; ranks that
            never connect.

    >>> from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)])).turn(rank=0, round=0)
    Turn(keep=0.333..., sends={1: 0.333..., 2: 0.333...}, receives={2: 0.5})

    Source: for the Metropolis weights, Xiao, Boyd, Lall, A Scheme for Robust Distributed Sensor Fusion Based on Average
    Consensus, IPSN 2005.
    """
    if weight is not None and not isinstance(weight, str):
        raise TopologyError(
            f"weight={weight!r} is no name of an edge attribute: give its name, or None to have all shares computed"
        )
    graphs = _graphs(graph_or_sequence)
    _check_weight(graphs, weight)
    rounds: list[Edges] = []
    for round, graph in enumerate(graphs):
        name = "the graph" if len(graphs) == 1 else f"the graph of round {round}"
        rounds.append(graph_edges(graph, weight, name))
        if len(graph) != len(graphs[0]):
            raise TopologyError(
                f"{name} has {len(graph)} nodes, but the graph of round 0 has {len(graphs[0])}: all graphs of "
                "a sequence need the same ranks, so add those that are idle with add_nodes_from"
            )
    return validated(Table(rounds))


def is_graphs(value: object) -> bool:
    """Whether `value` is a graph or a sequence of graphs only, as `from_networkx` takes it."""
    if isinstance(value, nx.Graph):
        return True
    return isinstance(value, Sequence) and len(value) > 0 and all(isinstance(graph, nx.Graph) for graph in value)


def graph_edges(graph: Any, weight: str | None, name: str) -> Edges:
    """The edges of one graph; a `TopologyError` begins with `name`."""
    _check_shape(graph, name)
    edges = _given(graph, weight, name)
    if edges is None:
        ends = np.array([(u, v) for u, v in graph.edges if u != v], dtype=np.int64).reshape(-1, 2)
        if graph.is_directed():
            edges = weighted(len(graph), ends[:, 0], ends[:, 1], "uniform")
        else:
            edges = undirected(len(graph), ends, "metropolis")
    return _with_loops(graph, weight, edges, name)


def _graphs(graph_or_sequence: Any) -> Sequence[Any]:
    # A graph is iterable itself, over its nodes, so it comes first. A matrix is iterable over its rows.
    if isinstance(graph_or_sequence, nx.Graph):
        graphs: Sequence[Any] = [graph_or_sequence]
    elif isinstance(graph_or_sequence, Iterable) and not isinstance(graph_or_sequence, (str, dict)):
        matrix = hasattr(graph_or_sequence, "__array__") or hasattr(graph_or_sequence, "tocoo")
        graphs = [graph_or_sequence] if matrix else list(graph_or_sequence)
    else:
        graphs = [graph_or_sequence]
    if not graphs:
        raise TopologyError("the sequence of graphs is empty: give one networkx graph for each round of the period")
    for round, graph in enumerate(graphs):
        if not isinstance(graph, nx.Graph):
            raise TopologyError(
                f"the graph of round {round} is a {type(graph).__name__}, not a networkx Graph or DiGraph: a weight "
                "matrix goes to topologies.from_matrix, a function of the round to topologies.from_function, and a "
                "file to topologies.from_file"
            )
    return graphs


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
    # A set, because a range searches itself for a label that is a numpy number.
    ranks = set(range(size))
    unknown = [label for label in graph if label not in ranks]
    if unknown:
        missing = [rank for rank in range(size) if rank not in graph]
        raise TopologyError(
            f"{name} has {size} nodes, so their labels must be the ranks 0 to {size - 1}, but it has "
            f"{_some(unknown)} and not {_some(missing)}: {_renaming(graph)}"
        )


def _some(labels: Sequence[Any]) -> str:
    return ", ".join(map(repr, labels[:5])) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def _renaming(graph: Any) -> str:
    """Advice for a graph whose labels are not 0 … n - 1."""
    labels, size = set(graph), len(graph)
    if labels == set(range(1, size + 1)):
        return (
            "they look like ranks counted from 1; networkx.relabel_nodes(graph, lambda label: label - 1) counts them "
            "from 0"
        )
    if labels == set(map(str, range(size))):
        return "they are texts; networkx.relabel_nodes(graph, int) makes numbers of them"
    if all(isinstance(label, (int, np.integer)) for label in labels):
        return (
            "add the missing ranks with add_nodes_from where they are idle, or rename the nodes with "
            'networkx.convert_node_labels_to_integers(graph, ordering="sorted")'
        )
    return (
        "rename them with networkx.convert_node_labels_to_integers(graph), which numbers the nodes in the order in "
        "which they were added, or with networkx.relabel_nodes"
    )


def _check_weight(graphs: Sequence[Any], weight: str | None) -> None:
    """Check that an attribute other than the default one is on some edge, because otherwise it is misspelt."""
    if weight in (None, USUAL):
        return
    named = {attribute for graph in graphs for *_, edge in graph.edges(data=True) for attribute in edge}
    if weight not in named and any(graph.number_of_edges() for graph in graphs):
        there = ", ".join(sorted(map(repr, named)))
        raise TopologyError(
            f"no edge has the attribute {weight!r}; "
            + (f"there are {there}" if named else "edges have no attributes at all")
            + ": correct the name, or pass weight=None to have all shares computed"
        )


def _given(graph: Any, weight: str | None, name: str) -> Edges | None:
    """The edges with the shares of the attribute; None if no edge has it."""
    if weight is None:
        return None
    written = [edge for edge in graph.edges(data=weight) if edge[0] != edge[1]]
    without = [(u, v) for u, v, share in written if share is None]
    if len(without) == len(written):
        return None
    arrow = "->" if graph.is_directed() else "-"
    for u, v in without:
        raise TopologyError(
            f"{name} has the attribute {weight!r} on {len(written) - len(without)} of its {len(written)} edges, but "
            f"not on {u} {arrow} {v}: put a share on every edge, or pass weight=None to have all of them computed"
        )
    _check_shares(written, weight, arrow, name)
    source, target = np.array([(u, v) for u, v, _ in written], dtype=np.int64).T
    shares = np.array([share for *_, share in written], dtype=np.float64)
    if not graph.is_directed():
        source, target = np.concatenate([source, target]), np.concatenate([target, source])
        shares = np.concatenate([shares, shares])
    sent = totals(len(graph), source, shares)
    for rank in np.flatnonzero(sent >= 1 - TOLERANCE).tolist():
        raise TopologyError(
            f"{name} lets rank {rank} send {sent[rank]:.12g} of its weight in all (column {rank}), "
            f"and every rank must keep some: lower the attribute {weight!r} on its edges until "
            "they sum to less than 1; pass weight=None where the attribute is no share"
        )
    return Edges(1 - sent, source, target, shares)


def _check_shares(written: Sequence[tuple[Any, Any, Any]], weight: str | None, arrow: str, name: str) -> None:
    for u, v, share in written:
        if not is_share(share):
            raise TopologyError(
                f"{name} has {weight}={share!r} on the edge {u} {arrow} {v}: a share is a number above 0 "
                "and below 1, so correct it or leave the edge out; pass weight=None where the "
                "attribute is no share"
            )


def _with_loops(graph: Any, weight: str | None, edges: Edges, name: str) -> Edges:
    """The edges, once the weights of self-loops agree: the weight of a loop is P[j, j]."""
    loops = [] if weight is None else list(nx.selfloop_edges(graph, data=weight))
    loops = [loop for loop in loops if loop[2] is not None]
    if not loops:
        return edges
    _check_shares(loops, weight, "->" if graph.is_directed() else "-", name)
    rank = np.array([u for u, *_ in loops], dtype=np.int64)
    loop_share = np.array([share for *_, share in loops], dtype=np.float64)
    off = np.abs(loop_share - edges.keep[rank])
    for place in np.flatnonzero(off > ROUNDING).tolist():
        own, kept = int(rank[place]), float(edges.keep[rank[place]])
        raise TopologyError(
            f"{name} has {weight}={loop_share[place]:.9g} on the self-loop of rank {own}, whose other edges leave it "
            f"{kept:.9g} of its weight to keep: {_remedy(graph, edges, rank, loop_share)}"
        )
    keep = edges.keep.copy()
    # As in from_matrix, unchanged if the sum already is 1.
    close = off <= TOLERANCE / 2
    keep[rank[close]] = loop_share[close]
    return edges._replace(keep=keep)


def _remedy(graph: Any, edges: Edges, rank: Ranks, loop_share: Floats) -> str:
    """Advice for a self-loop that contradicts the other edges."""
    kept = edges.keep.copy()
    kept[rank] = loop_share
    if graph.is_directed() and np.abs(edges._replace(keep=kept).rows() - 1).max() <= ROUNDING:
        return (
            "the shares that arrive at each rank sum to 1 with its loop, so the graph looks reversed: an edge u -> v "
            "is the share of u that goes to v; pass graph.reverse(), or the matrix to topologies.from_matrix"
        )
    return (
        "make the shares of each rank and its loop sum to 1, or remove the loops with "
        "graph.remove_edges_from(list(networkx.selfloop_edges(graph)))"
    )
