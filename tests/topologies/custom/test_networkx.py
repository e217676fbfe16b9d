"""Graphs of the user from networkx."""

from __future__ import annotations

import time

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import topologies
from topologies import TopologyError, from_matrix, from_networkx


@st.composite
def irregular(draw: st.DrawFn, weighted: bool) -> list[nx.DiGraph]:
    """One to three random digraphs of which the first has a cycle through all ranks."""
    size = draw(st.integers(2, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    graphs = []
    for round in range(draw(st.integers(1, 3))):
        adjacency = random.random((size, size)) < random.uniform(0, 0.6)
        np.fill_diagonal(adjacency, False)
        graph = nx.from_numpy_array(adjacency.astype(int), create_using=nx.DiGraph)
        if round == 0:
            nx.add_cycle(graph, random.permutation(size).tolist())
        for u in graph:
            raw = random.uniform(0.1, 1, graph.out_degree(u) + 1)
            for v, share in zip(list(graph.successors(u)), raw / raw.sum(), strict=False):
                graph.edges[u, v].clear()
                if weighted:
                    graph.edges[u, v]["weight"] = share
        graphs.append(graph)
    return graphs


@given(irregular(weighted=True))
def test_given_shares_are_the_matrix(graphs):
    topology = from_networkx(graphs)
    assert topology.period == len(graphs)
    for round, graph in enumerate(graphs):
        matrix = topology.matrix(round + len(graphs))
        assert np.allclose(matrix.sum(axis=0), 1, rtol=0, atol=1e-12)
        # P[v, u] is the share of u on u -> v
        expected = nx.to_numpy_array(graph, nodelist=range(len(graph))).T
        np.fill_diagonal(matrix, 0)
        np.testing.assert_array_equal(matrix, expected)


@given(irregular(weighted=False))
def test_a_digraph_without_weights_shares_evenly(graphs):
    topology = from_networkx(graphs)
    for round, graph in enumerate(graphs):
        for rank in graph:
            turn = topology.turn(rank, round)
            assert set(turn.sends) == set(graph.successors(rank))
            assert set(turn.receives) == set(graph.predecessors(rank))
            assert set(turn.sends.values()) <= {1 / (graph.out_degree(rank) + 1)}
            assert turn.keep == pytest.approx(1 / (graph.out_degree(rank) + 1), abs=1e-15)
        rows = topology.matrix(round).sum(axis=1)
        assert topology.doubly_stochastic(round) == np.allclose(rows, 1, rtol=0, atol=1e-12)


@given(irregular(weighted=True), st.integers(0, 2**32 - 1))
def test_push_sum_reaches_the_mean_over_digraphs(graphs, seed):
    topology = from_networkx(graphs)
    values = np.random.default_rng(seed).normal(size=topology.size)
    x, w = values, np.ones(topology.size)
    spread = np.inf
    for round in range(3000):
        # x <- P x ;  w <- P w
        x, w = topology.matrix(round) @ x, topology.matrix(round) @ w
        assert w.sum() == pytest.approx(topology.size)
        spread = np.abs(x / w - values.mean()).max()
        if spread < 1e-9:
            break
    assert spread < 1e-9


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_a_graph_gets_metropolis_hastings(size, seed):
    graph = nx.random_labeled_tree(size, seed=seed)
    topology = from_networkx(graph)
    for u, v in graph.edges:
        share = 1 / (1 + max(graph.degree(u), graph.degree(v)))
        assert topology.turn(u, 0).sends[v] == topology.turn(v, 0).sends[u] == share
    np.testing.assert_array_equal(topology.matrix(0), topology.matrix(0).T)
    assert topology.doubly_stochastic(0)


def test_an_undirected_share_counts_both_ways():
    turn = from_networkx(nx.Graph([(0, 1, {"weight": 0.25}), (1, 2, {"weight": 0.5})])).turn(1, 0)
    assert turn == (0.25, {0: 0.25, 2: 0.5}, {0: 0.25, 2: 0.5})


def bluefog(size):
    """Bluefog 0.3's one-way exponential graph: a weight on every edge, and on a self-loop of every rank."""
    row = np.array([1.0 if hop & (hop - 1) == 0 else 0.0 for hop in range(size)])
    row /= row.sum()
    return nx.from_numpy_array(np.array([np.roll(row, rank) for rank in range(size)]), create_using=nx.DiGraph)


def test_a_self_loop_with_the_share_that_is_kept_is_taken():
    found = from_networkx(bluefog(8))
    np.testing.assert_array_equal(found.matrix(0), topologies.static_exponential(8).matrix(0))
    assert found.turn(3, 0).sends == {4: 0.25, 5: 0.25, 7: 0.25}
    symmetric = topologies.grid(9).matrix(0)
    np.testing.assert_array_equal(from_networkx(nx.from_numpy_array(symmetric)).matrix(0), symmetric)


@given(irregular(weighted=True))
def test_a_graph_of_a_weight_matrix_is_that_matrix(graphs):
    for graph in graphs[:1]:
        matrix = from_networkx(graph).matrix(0)
        again = nx.from_numpy_array(matrix.T, create_using=nx.DiGraph)
        np.testing.assert_array_equal(from_networkx(again).matrix(0), from_matrix(matrix).matrix(0))
        coarse = nx.from_numpy_array(matrix.T.astype(np.float32), create_using=nx.DiGraph)
        np.testing.assert_allclose(from_networkx(coarse).matrix(0), matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
def test_a_self_loop_without_a_weight_changes_nothing(kind):
    graph = nx.star_graph(4).to_directed() if kind is nx.DiGraph else nx.star_graph(4)
    looped = graph.copy()
    looped.add_edges_from((rank, rank) for rank in (0, 2))
    np.testing.assert_array_equal(from_networkx(looped).matrix(0), from_networkx(graph).matrix(0))
    ones = nx.from_numpy_array(nx.to_numpy_array(looped), create_using=kind)
    np.testing.assert_array_equal(from_networkx(ones, weight=None).matrix(0), from_networkx(graph).matrix(0))
    nx.set_edge_attributes(graph, 0.125, "weight")
    loop = graph.copy()
    loop.add_edge(2, 2)
    np.testing.assert_array_equal(from_networkx(loop).matrix(0), from_networkx(graph).matrix(0))


def test_ranks_that_rest_may_say_so_by_a_self_loop():
    rounds = [np.eye(3) for _ in range(2)]
    rounds[0][:2, :2] = rounds[1][1:, 1:] = 0.5
    found = from_networkx([nx.from_numpy_array(matrix) for matrix in rounds])
    assert [found.turn(2, round).keep for round in range(2)] == [1.0, 0.5]
    assert from_networkx(nx.from_numpy_array(np.ones((1, 1)))).turn(0, 0) == (1.0, {}, {})


def test_the_weight_option_names_another_attribute_or_none():
    graph = nx.cycle_graph(4)
    nx.set_edge_attributes(graph, 7.5, "weight")  # a distance, say
    nx.set_edge_attributes(graph, 0.125, "share")
    assert from_networkx(graph, weight="share").turn(0, 0).keep == 0.75
    assert from_networkx(graph, weight=None).turn(0, 0).keep == pytest.approx(1 / 3)
    with pytest.raises(TopologyError, match=r"no edge has the attribute 'sahre'; there are 'share', 'weight': correct"):
        from_networkx(graph, weight="sahre")
    assert from_networkx([nx.cycle_graph(4), graph], weight="share").turn(0, 0).keep == pytest.approx(1 / 3)


def test_ranks_may_rest_and_rounds_may_differ_in_kind():
    pairs = [nx.Graph([(0, 1)]), nx.DiGraph([(1, 2), (2, 0)])]
    for graph in pairs:
        graph.add_nodes_from(range(3))
    topology = from_networkx(graph for graph in pairs)
    assert topology.turn(2, 0) == (1.0, {}, {})
    assert topology.turn(2, 1) == (0.5, {0: 0.5}, {1: 0.5})
    assert [topology.doubly_stochastic(round) for round in range(2)] == [True, False]


def test_the_order_of_nodes_does_not_matter():
    graph = nx.DiGraph()
    graph.add_nodes_from([2, 0, 1])
    nx.add_cycle(graph, [0, 1, 2])
    assert from_networkx(graph).turn(2, 0).sends == {0: 0.5}


def test_numpy_labels_and_shares_become_python_numbers():
    graph = nx.DiGraph()
    graph.add_edge(np.int64(0), np.int64(1), weight=np.float32(0.5))
    graph.add_edge(np.int64(1), np.int64(0), weight=1 / 4)
    turn = from_networkx(graph).turn(0, 0)
    assert repr(turn) == "Turn(keep=0.5, sends={1: 0.5}, receives={1: 0.25})"


def weighted(*edges, kind=nx.DiGraph):
    graph = kind()
    graph.add_weighted_edges_from(edges)
    return graph


def with_ranks(size, *edges):
    graph = nx.empty_graph(size)
    graph.add_edges_from(edges)
    return graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            nx.relabel_nodes(nx.cycle_graph(4), {0: 4}),
            "the graph has 4 nodes, so their labels must be the ranks 0 to 3, but it has 4 and not 0: they look like "
            "ranks counted from 1; networkx.relabel_nodes",
        ),
        (nx.Graph([("a", "b")]), "it has 'a', 'b' and not 0, 1: rename them with networkx.convert_node_labels"),
        (nx.Graph([("0", "1")]), "they are texts; networkx.relabel_nodes.graph, int. makes numbers of them"),
        (nx.Graph([((0, 0), (0, 1))]), r"it has \(0, 0\), \(0, 1\) and not 0, 1: rename"),
        (
            nx.path_graph(range(10, 30)),
            "it has 20, 21, 22, 23, 24 and 5 more and not 0, 1, 2, 3, 4 and 5 more: add the missing ranks .*"
            'ordering="sorted"',
        ),
        (
            weighted((0, 1, 0.5), (1, 0, 0.25), (1, 1, 0.5)),
            "has weight=0.5 on the self-loop of rank 1, whose other edges leave it 0.75 .*: make the shares of each",
        ),
        (
            weighted((0, 1, 0.5), (0, 0, 0.25), (1, 1, 0.5), kind=nx.Graph),
            "has weight=0.25 on the self-loop of rank 0, whose other edges leave it 0.5 .*: make the shares of each",
        ),
        (
            nx.DiGraph([(0, 1), (1, 0), (1, 1, {"weight": 0.25})]),
            "has weight=0.25 on the self-loop of rank 1, whose other edges leave it 0.5 of its weight to keep",
        ),
        (weighted((0, 1, 0.5), (1, 0, 0.5), (1, 1, -0.5)), "has weight=-0.5 on the edge 1 -> 1: a share is"),
        (weighted((0, 1, 0.5), (1, 0, 0.5), (1, 1, "half")), "has weight='half' on the edge 1 -> 1: a share is"),
        (
            nx.from_numpy_array(np.array([[0.5, 0.25], [0.5, 0.75]]), create_using=nx.DiGraph),
            "weight=0.5 on the self-loop of rank 0, .* leave it 0.75 .*looks reversed.* pass graph.reverse",
        ),
        (nx.MultiGraph([(0, 1), (0, 1)]), "is a multigraph, .*: make it a networkx.Graph"),
        (nx.MultiDiGraph([(0, 1), (1, 0)]), "is a multigraph, .*: make it a networkx.DiGraph"),
        (nx.Graph(), "has no nodes: add one node for each rank"),
        ([], "the sequence of graphs is empty"),
        ([nx.cycle_graph(3), nx.cycle_graph(4)], "the graph of round 1 has 4 nodes, but the graph of round 0 has 3"),
        ([nx.cycle_graph(3), "ring"], "the graph of round 1 is a str, not a networkx Graph or DiGraph"),
        (np.eye(3), "the graph of round 0 is a ndarray, .*: a weight matrix goes to topologies.from_matrix"),
        (3, "the graph of round 0 is a int"),
        ("ring.graphml", "is a str, .* a file to topologies.from_file"),
        (nx.cycle_graph, "is a function, .* a function of the round to topologies.from_function"),
        (
            weighted((0, 1, 0.5), (1, 0, 1.0)),
            r"lets rank 1 send 1 of its weight in all \(column 1\), and every rank must",
        ),
        (weighted((0, 1, 0.4), (0, 2, 0.7), (1, 0, 0.1), (2, 0, 0.1)), "lets rank 0 send 1.1 of its weight"),
        (weighted((0, 1, 0.5), (1, 2, 0.5), kind=nx.Graph), "lets rank 1 send 1 of its weight"),
        (
            weighted((0, 1, 0.5), (1, 0, 0.0)),
            "has weight=0.0 on the edge 1 -> 0: a share is a number above 0 and below 1",
        ),
        (weighted((0, 1, 0.5), (1, 0, -0.5)), "has weight=-0.5 on the edge 1 -> 0"),
        (weighted((0, 1, 0.5), (1, 0, float("nan"))), "has weight=nan on the edge 1 -> 0"),
        (weighted((0, 1, 0.5), (1, 0, float("inf"))), "has weight=inf on the edge 1 -> 0"),
        (weighted((0, 1, 0.5), (1, 0, "0.5")), "has weight='0.5' on the edge 1 -> 0"),
        (
            nx.DiGraph([(0, 1, {"weight": 0.5}), (1, 0, {})]),
            "has the attribute 'weight' on 1 of its 2 edges, but not on 1 -> 0: put a share on every edge, or pass",
        ),
        (weighted((0, 1, -0.5), kind=nx.Graph), "has weight=-0.5 on the edge 0 - 1: a share is"),
        (nx.empty_graph(3), "rank 0 cannot reach ranks 1 and 2"),
        (
            nx.Graph([(0, 1), (2, 3)]),
            "in its one graph ranks 0 and 1 cannot reach ranks 2 and 3, nor the latter the former, .* each way between",
        ),
        (
            [with_ranks(4, (0, 1), (2, 3)), with_ranks(4, (1, 0))],
            "over the 2 rounds of its period ranks 0 and 1 cannot reach ranks 2 and 3, nor the latter",
        ),
        (
            with_ranks(4, (0, 1), (1, 3)),
            "rank 2 has no edge, so it would stay alone: connect it to the others, or make the topology of the other 3",
        ),
        (
            [with_ranks(5, (0, 1)), with_ranks(5, (1, 4))],
            "ranks 2 and 3 have no edge in any of the 2 rounds of its period, so each .*: connect them to the others",
        ),
        (
            [nx.DiGraph([(0, 1), (1, 0), (2, 1)])] * 2,
            "over the 2 rounds of its period ranks 0 and 1 cannot reach rank 2",
        ),
        (nx.DiGraph([(0, 1), (1, 2), (2, 1)]), "in its one graph ranks 1 and 2 cannot reach rank 0, .* the latter$"),
    ],
)
def test_wrong_arguments_are_refused(graph, message):
    with pytest.raises(TopologyError, match=message):
        from_networkx(graph)


def test_a_bad_graph_of_a_late_round_is_named():
    bad = weighted((0, 1, 0.5), (1, 0, 1.5))
    with pytest.raises(TopologyError, match=r"the graph of round 2 has weight=1.5 on the edge 1 -> 0"):
        from_networkx([nx.path_graph(2), nx.path_graph(2), bad])


def test_a_large_graph_is_read_in_seconds():
    graph = nx.cycle_graph(100_000)
    start = time.process_time()
    topology = from_networkx(graph)
    assert time.process_time() - start < 10
    assert topology.turn(99_999, 5).sends.keys() == {0, 99_998}
