"""Graphs by name, by function and by file, from Python and from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from topologies import SpecError, TopologyError, exponential, load, ring
from topologies.__main__ import main

FACTORIES = """
import networkx as nx
import topologies

def star(size, centre=0):
    return nx.Graph([(centre, rank) for rank in range(size) if rank != centre])

def swing(size):
    return [nx.cycle_graph(size, create_using=nx.DiGraph), nx.cycle_graph(size, create_using=nx.DiGraph).reverse()]

def sparse(size):
    return topologies.exponential(size, peers=1)

def greedy(size):
    return topologies.exponential(size, peers=99)

def short(size):
    return nx.cycle_graph(size - 1)

def nothing(size):
    pass

def apart(size):
    return nx.empty_graph(size)

def broken(size):
    return [][0]

class Lazy(topologies.Topology):
    def turn(self, rank, round):
        return topologies.Turn(1.0, {}, {})

def lazy(size):
    return Lazy(size, 1)

RING = nx.cycle_graph(4)
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_graphs.py").write_text(FACTORIES)
    (tmp_path / "half_done.py").write_text("import a_library_that_nobody_has\n")
    (tmp_path / "typo.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_graphs", "half_done", "typo"):
        sys.modules.pop(name, None)


@pytest.fixture
def graphml(tmp_path):
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(2, 0, 0.5), (0, 1, 0.25), (0, 2, 0.25), (1, 2, 0.5)])
    path = tmp_path / "three.graphml"
    nx.write_graphml(graph, path)
    return str(path)


def test_families_by_name():
    assert load("exponential", 9, peers=2).describe() == exponential(9, peers=2).describe()
    assert load("ring", 5, directed=True).describe() == ring(5, directed=True).describe()
    np.testing.assert_array_equal(load("complete", 4).matrix(0), np.full((4, 4), 0.25))


def test_factories_may_return_anything_that_is_a_graph(factories):
    assert load("my_graphs:star", 5, centre=3).turn(3, 0).sends == dict.fromkeys((0, 1, 2, 4), 0.2)
    assert load("my_graphs:swing", 4).period == 2
    assert load("my_graphs:sparse", 8).describe() == exponential(8).describe()


def test_files(graphml):
    for spec in (graphml, Path(graphml)):
        topology = load(spec, 3)
        assert topology.turn(0, 0) == (0.5, {1: 0.25, 2: 0.25}, {2: 0.5})
        assert not topology.doubly_stochastic(0)
    assert load(graphml, 3, weight=None).turn(0, 0).keep == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("exponental", {}, "there is no topology 'exponental'; did you mean exponential[?]; there are complete"),
        ("torus", {}, "there is no topology 'torus'; there are .*, package.module:factory for your own"),
        ("exponential", {"peer": 2}, r"exponential: exponential\(size, peers=1\) is called with 4, peer=2: got an un"),
        ("my_graphs:", {}, "a factory is given as package.module:factory"),
        ("absent_module:ring", {}, "absent_module:ring: there is no module absent_module: .* PYTHONPATH"),
        ("my_graphs.deep:ring", {}, "there is no module my_graphs.deep"),
        ("half_done:ring", {}, "module half_done could not be imported: No module named 'a_library_that_nobody_has'"),
        ("typo:ring", {}, "the module typo could not be imported: SyntaxError"),
        ("my_graphs:sta", {}, "the module my_graphs has no sta; did you mean star[?]"),
        ("my_graphs:RING", {}, "RING is a Graph, not a function: write one that takes the number of ranks"),
        (
            "my_graphs:star",
            {"center": 1},
            r"star\(size, centre=0\) is called with 4, center=1: got an unexpected keyword",
        ),
        ("absent.graphml", {}, "absent.graphml: there is no such file, seen from "),
        ("bad.graphml", {}, "bad.graphml: the file cannot be read as GraphML .ParseError"),
        ("my_graphs.py", {}, "the file of that name would have to be GraphML"),
        (nx.cycle_graph(4), {}, "not a Graph: a graph goes to topologies.from_networkx"),
    ],
)
def test_texts_that_lead_nowhere(factories, spec, options, message):
    Path("bad.graphml").write_text("nodes: 4")
    with pytest.raises(SpecError, match=message):
        load(spec, 4, **options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_graphs:greedy", "my_graphs:greedy: peers=99 does not fit an exponential graph of 4 ranks"),
        ("my_graphs:short", "my_graphs:short: the graph has 3 ranks, but the job has 4: start 3 ranks, or give"),
        (
            "my_graphs:nothing",
            "my_graphs:nothing: the factory returned a NoneType: let it return a topologies.Topology",
        ),
        ("my_graphs:apart", "my_graphs:apart: .* rank 0 cannot reach ranks 1, 2 and 3"),
        ("my_graphs:lazy", "my_graphs:lazy: Lazy.* rank 0 cannot reach ranks 1, 2 and 3"),
        ("my_graphs:broken", "my_graphs:broken: the factory raised IndexError for 4 ranks: list index out of range"),
        ("three.graphml", "three.graphml: the graph has 3 ranks, but the job has 4"),
        (
            "named.graphml",
            "named.graphml: the graph has 2 nodes, so their labels .* it has 'amsterdam', 'berlin': rename",
        ),
    ],
)
def test_graphs_that_are_wrong(factories, graphml, spec, message):
    nx.write_graphml(nx.Graph([("amsterdam", "berlin")]), "named.graphml")
    with pytest.raises(TopologyError, match=message) as raised:
        load(spec, 4)
    assert not isinstance(raised.value, SpecError)


def test_a_file_takes_the_options_of_from_networkx(graphml):
    with pytest.raises(SpecError, match=r"from_networkx\(.*, weight='weight'\) is called with the graph, peers=2"):
        load(graphml, 3, peers=2)


@pytest.mark.parametrize("size", [0, "4", None])
def test_sizes_that_are_none(size):
    with pytest.raises(TopologyError, match="the number of ranks must be an integer of at least 1"):
        load("ring", size)


def run(capsys, *arguments):
    try:
        code = main(arguments)
    except SystemExit as exit:  # argparse's way
        code = exit.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_the_command_line_says_what_it_offers(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    for word in ("exponential", "ring", "complete", "peers=1", "package.module:factory", ".graphml", "--help"):
        assert word in out


def test_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "exit codes" in out
    assert "python -m topologies show exponential --size 8" in out


def test_show(capsys):
    code, out, _ = run(capsys, "show", "exponential", "--size", "9", "--option", "peers=2", "--rank", "4")
    assert code == 0
    facts = {line.split("  ")[1]: line.split("  ")[-1].strip() for line in out.splitlines() if line.startswith("  ")}
    assert facts["ranks"] == "9"
    assert facts["period"] == "2"
    assert facts["out-peers"] == "2 a rank and round"
    assert facts["doubly stochastic"] == "in every round"
    assert exponential(9, 2).describe() in out
    assert "round 1    keeps 0.3333   sends 0.3333@1 0.3333@7" in out


def test_check(capsys, factories, graphml):
    code, out, _ = run(capsys, "check", graphml)
    assert code == 0
    assert "out-peers            1 to 2 a rank and round" in out
    assert "in 0 of 1 rounds" in out
    assert "fit for gossip" in out
    code, out, err = run(capsys, "check", "my_graphs:apart", "--size", "4")
    assert code == 1
    assert not out
    assert err.startswith("python -m topologies: my_graphs:apart: ")
    assert "cannot reach" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "tours", "--size", "4"), "there is no topology 'tours'"),
        (("check", "tours", "--size", "4"), "there is no topology 'tours'"),
        (("check", "absent.graphml"), "absent.graphml: there is no such file"),
        (("show", "ring"), "ring comes in many sizes: say which with --size N"),
        (("show", "ring", "--size", "0"), "the number of ranks is an integer of at least 1, not '0'"),
        (("show", "ring", "--size", "many"), "not 'many'"),
        (("show", "ring", "--size", "4", "--rank", "4"), "--rank 4 does not exist among 4 ranks, 0 to 3"),
        (("show", "exponential", "--size", "4", "--option", "peers=4"), "peers=4 does not fit"),
        (("show", "exponential", "--size", "4", "--option", "peers"), "not of the form name=value"),
        (("show", "exponential", "--size", "4", "--option", "peer=1"), "unexpected keyword"),
        (("draw", "ring"), "invalid choice: 'draw'"),
        (("show",), "SPEC"),
    ],
)
def test_wrong_input_exits_with_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert not out
    assert message in err
    assert "Traceback" not in err


def test_as_a_module(factories):
    def python_m(*arguments):
        root = Path(__file__).parents[1]
        return subprocess.run(
            [sys.executable, "-m", "topologies", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": f"{root}"},
            cwd=factories,
        )

    found = python_m("check", "my_graphs:star", "--size", "6")
    assert (found.returncode, found.stderr) == (0, "")
    missing = python_m("show", "rnig", "--size", "6")
    assert missing.returncode == 2
    assert "did you mean ring?" in missing.stderr
