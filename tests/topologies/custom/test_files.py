"""Graphs and matrices in files; errors name the line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import spawn

from topologies import SpecError, TopologyError, from_networkx, load
from topologies.custom.files import READERS, from_file, is_file
from topologies.custom.matrices import from_matrix

WEIGHTED = nx.DiGraph()
WEIGHTED.add_weighted_edges_from([(2, 0, 0.5), (0, 1, 0.25), (0, 2, 0.125), (1, 2, 0.75)])
PLAIN = nx.DiGraph([(2, 0), (0, 1), (0, 2), (1, 2)])
UNDIRECTED = nx.Graph([(3, 0), (0, 1), (0, 2)])
MATRIX = from_networkx(WEIGHTED).matrix(0)

WRITERS = {
    "a.graphml": nx.write_graphml,
    "a.GraphML": nx.write_graphml,
    "a.gml": nx.write_gml,
    "a.gexf": nx.write_gexf,
    "a.edgelist": nx.write_edgelist,
    "a.edges": nx.write_weighted_edgelist,
    "a.txt": nx.write_weighted_edgelist,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WRITERS)
def test_files_written_by_networkx_keep_their_shares(folder, name):
    WRITERS[name](WEIGHTED, name)
    for path in (name, Path(name)):
        assert from_file(path).describe() == from_networkx(WEIGHTED).describe()
    assert from_file(name, weight=None).describe() == from_networkx(PLAIN).describe()
    assert load(name, 3).describe() == from_networkx(WEIGHTED).describe()


@pytest.mark.parametrize("name", WRITERS)
def test_self_loops_in_a_file_may_hold_the_kept_share(folder, name):
    looped = nx.from_numpy_array(MATRIX.T, create_using=nx.DiGraph)
    assert nx.number_of_selfloops(looped) == 3
    WRITERS[name](looped, name)
    assert from_file(name).describe() == from_networkx(WEIGHTED).describe()


@pytest.mark.parametrize("name", ["a.graphml", "a.gml", "a.gexf"])
def test_formats_that_hold_the_direction(folder, name):
    WRITERS[name](UNDIRECTED, name)
    assert from_file(name).describe() == from_networkx(UNDIRECTED).describe()


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.edgelist", nx.write_edgelist), ("a.txt", nx.write_edgelist), ("a.adjlist", nx.write_adjlist)],
)
def test_formats_without_a_direction_take_the_option(folder, name, write):
    write(UNDIRECTED, name)
    assert from_file(name, directed=False).describe() == from_networkx(UNDIRECTED).describe()
    with pytest.raises(TopologyError, match=r"cannot reach .* pass directed=False if edges go both ways"):
        from_file(name)
    write(PLAIN, name)
    assert from_file(name).describe() == from_networkx(PLAIN).describe()


def test_handwritten_edge_lists_are_read(folder):
    Path("a.edges").write_text(
        "\ufeff# who  whom  share\n\n0 1 0.25\n0\t2 0.125 # and keeps the rest\n1 2 .75\n2 0 5e-1\n"
    )
    assert from_file("a.edges").describe() == from_networkx(WEIGHTED).describe()
    Path("a.edges").write_text("2 0\n0 1\r\n0 2\n1 2")
    assert from_file("a.edges").describe() == from_networkx(PLAIN).describe()
    Path("a.edges").write_text("0 1 {'share': 0.25}\n0 2 {'share': 0.125}\n1 2 {'share': 0.75}\n2 0 {'share': 0.5}\n")
    assert from_file("a.edges", weight="share").describe() == from_networkx(WEIGHTED).describe()
    Path("a.edges").write_text("0 1\n1 0\n1 2\n2 1\n2 1\n")
    assert from_file("a.edges", directed=False).describe() == from_networkx(nx.path_graph(3)).describe()


def test_gml_knows_nodes_by_label_or_by_id(folder):
    Path("a.gml").write_text("graph [ node [ id 0 ] node [ id 1 ] edge [ source 0 target 1 ] ]")
    assert from_file("a.gml").describe() == from_networkx(nx.path_graph(2)).describe()


def test_matrices(folder):
    other = np.full((3, 3), 1 / 3)
    both = from_matrix([MATRIX, other]).describe()
    np.save("a.npy", MATRIX)
    assert from_file("a.npy").describe() == from_matrix(MATRIX).describe()
    np.save("a.npy", np.stack([MATRIX, other]))
    assert from_file("a.npy").describe() == both
    np.savez("a.npz", MATRIX, other)
    assert from_file("a.npz").describe() == both
    np.savez_compressed("a.npz", z=MATRIX, a=other)
    assert from_file("a.npz").describe() == both
    np.savez("a.npz", np.stack([MATRIX, other]))
    assert from_file("a.npz").describe() == both
    np.savetxt("a.csv", MATRIX, delimiter=",", header="columns sum to 1")
    assert from_file("a.csv").describe() == from_matrix(MATRIX).describe()
    np.savetxt("a.csv", np.concatenate([MATRIX, other]), delimiter=",", fmt="%.17g")
    assert from_file("a.csv").describe() == both


def test_every_file_ending_is_tested():
    assert set(READERS) == {Path(name).suffix.lower() for name in WRITERS} | {".adjlist", ".npy", ".npz", ".csv"}
    assert is_file("graphs/ring.GEXF")
    assert not is_file("graphs.py")
    assert not is_file("my_graphs:ring")


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.graphml", "nodes: 4", {}, "a.graphml: the file cannot be read as GraphML .ParseError"),
        ("a.graphml", "<a/>", {}, "cannot be read as GraphML"),
        ("a.gml", "nodes: 4", {}, "cannot be read as GML .NetworkXError.*: networkx.write_gml"),
        ("a.gexf", "<gexf/>", {}, "cannot be read as GEXF"),
        ("a.npy", "1 0", {}, "cannot be read as a numpy array .*: numpy.save"),
        ("a.npy", "", {}, "cannot be read as a numpy array"),
        ("a.npz", "1 0", {}, "cannot be read as numpy arrays"),
        ("a.edges", "# nothing\n", {}, "a.edges: the file is empty, but for comments"),
        ("a.edges", "0 1\n\n1,0\n", {}, "line 3 is '1,0', and an edge is written u v, u v share or .* by blanks"),
        ("a.edges", "# who whom\n0 1 0.5\n1 0 half\n", {}, "line 3 is '1 0 half', which cannot be read .*half"),
        ("a.edges", "0 1 0.5\n1 0 0.5 0.5\n", {}, "line 2 is '1 0 0.5 0.5', which cannot be read"),
        ("a.edges", "0 1 {'weight': 0.5}\n1 0 {'weight' 0.5}\n", {}, "line 2 is .*, which cannot be read"),
        ("a.edges", "0 1 0.5\n1 0 0.5\n0 1 0.25", {}, "line 3 gives the edge 0 1 another share than line 1 does"),
        ("a.edges", "0 1 0.5\n1 0 0.25", {"directed": False}, "line 2 gives the edge 1 0 another share than line 1"),
        (
            "a.txt",
            "5.0e-01 5.0e-01\n5.0e-01 5.0e-01\n",
            {},
            "line 1 .* 5.0e-01 is no rank: .* a matrix goes into a .csv",
        ),
        (
            "a.csv",
            "0.5,0.5\n0.5;0.5\n",
            {},
            "line 2 cannot be read .could not convert .*0.5;0.5.*: a line holds one row",
        ),
        ("a.csv", "0.5,0.5\n\n0.5\n", {}, "line 3 has 1 numbers and line 1 has 2"),
        ("a.csv", "", {}, "the file is empty"),
        ("a.edges", b"\xff\xfe0", {}, "cannot be read as an edge list .UnicodeDecodeError"),
        (
            "a.edges",
            "0 1",
            {"peers": 2},
            "a.edges: a file that ends in .edges has options weight and directed, and was",
        ),
        ("a.csv", "0 1", {"weight": None}, "a file that ends in .csv has no options, and was given weight=None"),
        ("a.graphml", "0 1", {"directed": True}, "has options weight, and was given directed=True"),
        (
            "a.dot",
            "0 1",
            {},
            "a.dot: the ending of a file determines its format, and '.dot' is not one of .graphml .gml",
        ),
        ("ring", "0 1", {}, "ring: the ending of a file determines its format, and 'none' is not one of"),
        (
            "absent/a.csv",
            None,
            {},
            "absent/a.csv: there is no such file, seen from .*: give a path that holds on every",
        ),
    ],
)
def test_files_that_cannot_be_read(folder, name, text, options, message):
    if text is not None:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match=message):
        from_file(name, **options)


def test_a_folder_is_refused_as_a_file(folder):
    Path("a.edges").mkdir()
    with pytest.raises(SpecError, match=r"cannot be read as an edge list .IsADirectoryError"):
        from_file("a.edges")
    with pytest.raises(SpecError, match="from_file takes a path, not a int"):
        from_file(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.edges", "1 2\n2 3\n3 1\n", "a.edges: the graph has 3 nodes, .* it has 3 and not 0: .* counted from 1"),
        ("a.edges", "source target\n0 1\n1 0\n", "it has 'source', 'target' and not 2, 3"),
        ("a.edges", "0 1 0.5\n1 0 0.5\n1 1 0.25\n", "has weight=0.25 on the self-loop of rank 1, .* leave it 0.5 of"),
        ("a.edges", "0 1 0.5\n1 0\n", "has the attribute 'weight' on 1 of its 2 edges, but not on 1 -> 0"),
        ("a.edges", "0 1 0.5\n1 0 -0.5\n", "has weight=-0.5 on the edge 1 -> 0"),
        ("a.edges", "0 1\n1 2\n", "ranks 1 and 2 cannot reach rank 0, .*; u v was read as an edge from u to v only"),
        ("a.adjlist", "0 1\n1 0\n2\n", "a.adjlist: .* rank 2 has no edge"),
        ("a.csv", "0.5,0.5\n0.5,0.48\n", "a.csv: the matrix: column 1 sums to 0.98, not to 1"),
        (
            "a.csv",
            "0.5,0.5\n" * 3,
            "has 3 rows of 2 numbers: a matrix of 2 ranks has 2 rows, and several stand one bel",
        ),
        ("a.csv", "0.5,0.5\n" * 2 + "0.5,nan\n" * 2, "the matrix of round 1 has nan in row 0, column 1"),
    ],
)
def test_wrong_graphs_are_refused(folder, name, text, message):
    Path(name).write_text(text)
    with pytest.raises(TopologyError, match=message) as raised:
        from_file(name)
    assert not isinstance(raised.value, SpecError)


def test_arrays_of_objects_and_sparse_archives_are_not_unpickled(folder):
    np.save("a.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(SpecError, match="Object arrays cannot be loaded when allow_pickle=False"):
        from_file("a.npy")
    # The format of scipy.sparse.save_npz.
    np.savez("a.npz", indices=[0], indptr=[0, 1], format=b"csr", shape=(1, 1), data=[1.0])
    with pytest.raises(SpecError, match=r"holds a scipy sparse matrix: topologies.from_matrix.scipy.sparse.load_npz"):
        from_file("a.npz")


def mutations(folder, count, seed):
    command = [sys.executable, "-m", "workers.mutated_graphs", str(folder), str(count), str(seed)]
    path = f"{spawn.ROOT}:{spawn.SUPPORT}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mutated_files(tmp_path):
    """No file crashes the interpreter, hangs or runs code, and a graph that loads obeys the laws."""
    said = mutations(tmp_path, 300, 0)
    assert ".npz, refused" in said
    assert ".graphml, loaded" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_10000_mutated_files(tmp_path):
    print(mutations(tmp_path, 10_000, 1))
