"""Graphs by name, by function and by file."""

from __future__ import annotations

import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from topologies import SpecError, TopologyError, exponential, from_networkx, load, ring
from topologies.custom.entry_points import families, hidden
from topologies.loading import check_spec

FACTORIES = """
import networkx as nx
import numpy as np
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

def shares(size):
    return np.full((size, size), 1 / size)

def two(size):
    return [np.eye(size), (np.eye(size) + np.roll(np.eye(size), 1, axis=0)) / 2]

def rows(size):
    return [[0.5, 0.5], [0.5, 0.5]]

def leaky(size):
    return np.full((size, size), 0.98 / size)

def schedule(size):
    return lambda round: nx.cycle_graph(size)

class Swing(topologies.Topology):
    def __init__(self, size, hop=1):
        super().__init__(size, period=2)
        self.hop = hop

    def turn(self, rank, round):
        hop = self.hop if round % 2 == 0 else -self.hop
        return topologies.Turn(0.5, {(rank + hop) % self.size: 0.5}, {(rank - hop) % self.size: 0.5})

class Graphs:
    class Deep:
        ring = nx.cycle_graph

class Half(topologies.Topology):
    def __init__(self, size):
        super().__init__(size, 1)

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
    np.testing.assert_allclose(load("my_graphs:shares", 5).matrix(0), 0.2, atol=1e-15)
    assert load("my_graphs:two", 5).turn(4, 1) == (0.5, {0: 0.5}, {3: 0.5})
    np.testing.assert_array_equal(load("my_graphs:rows", 2).matrix(0), 0.5)
    assert load("my_graphs:Graphs.Deep.ring", 5).turn(0, 0).sends.keys() == {1, 4}


def test_a_topology_is_named_by_its_class(factories):
    topology = load("my_graphs:Swing", 7, hop=3)
    assert (topology.size, topology.period) == (7, 2)
    assert topology.turn(0, 1).sends == {4: 0.5}


def test_graphs_are_loaded_from_files(graphml):
    for spec in (graphml, Path(graphml)):
        topology = load(spec, 3)
        assert topology.turn(0, 0) == (0.5, {1: 0.25, 2: 0.25}, {2: 0.5})
        assert not topology.doubly_stochastic(0)
    assert load(graphml, 3, weight=None).turn(0, 0).keep == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("exponental", {}, "there is no topology 'exponental'; did you mean .*exponential.*[?]; there are .*complete"),
        ("dodecahedron", {}, "there is no topology 'dodecahedron'; there are .*, package.module:factory for your own"),
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
        ("my_graphs.py", {}, "; a function in a Python file is given as my_graphs:factory; there are"),
        ("notes.md", {}, "a file of that name exists, but its ending is none of .graphml"),
        (Path("ring"), {}, "ring: the ending of a file determines its format, and 'none' is not one of .graphml"),
        (nx.cycle_graph(4), {}, "not a Graph: a graph goes to topologies.from_networkx, a matrix to"),
    ],
)
def test_texts_that_name_no_graph_are_refused(factories, spec, options, message):
    Path("bad.graphml").write_text("nodes: 4")
    Path("notes.md").write_text("a ring")
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
        (
            "my_graphs:schedule",
            "my_graphs:schedule: the factory returned a function: .* by topologies.from_function",
        ),
        ("my_graphs:leaky", "my_graphs:leaky: the matrix: column 0 sums to 0.98, not to 1"),
        ("my_graphs:rows", "my_graphs:rows: the graph has 2 ranks, but the job has 4"),
        ("my_graphs:Half", "my_graphs:Half: the factory raised TypeError for 4 ranks: .*abstract.* turn"),
        ("my_graphs:apart", "my_graphs:apart: .* rank 0 cannot reach ranks 1, 2 and 3"),
        ("my_graphs:lazy", "my_graphs:lazy: Lazy.* rank 0 cannot reach ranks 1, 2 and 3"),
        ("my_graphs:broken", "my_graphs:broken: the factory raised IndexError for 4 ranks: list index out of range"),
        ("three.graphml", "three.graphml: the graph has 3 ranks, but the job has 4"),
        (
            "named.graphml",
            "named.graphml: the graph has 2 nodes, so their labels .* it has 'amsterdam', 'berlin' and not 0, 1: re",
        ),
    ],
)
def test_wrong_graphs_are_refused(factories, graphml, spec, message):
    nx.write_graphml(nx.Graph([("amsterdam", "berlin")]), "named.graphml")
    with pytest.raises(TopologyError, match=message) as raised:
        load(spec, 4)
    assert not isinstance(raised.value, SpecError)


def test_a_file_takes_the_options_of_its_format(graphml):
    with pytest.raises(SpecError, match=r"ends in .graphml has options weight, and was given peers=2"):
        load(graphml, 3, peers=2)


@pytest.mark.parametrize("size", [0, "4", None])
def test_wrong_sizes_are_refused(size):
    with pytest.raises(TopologyError, match="the number of ranks must be an integer of at least 1"):
        load("ring", size)


def install(site, distribution, declared, **modules):
    """An installed package: its modules and its entry points."""
    for name, source in modules.items():
        (site / f"{name}.py").write_text(source)
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gossip.topologies]\n{declared}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory on the path with two packages that declare families."""
    install(
        tmp_path,
        "many-wheels",
        "wheel = wheels_of:wheel\nring = wheels_of:hexagon\nbroken = wheels_of.absent:wheel\n"
        "number = wheels_of:NUMBER\nunnamed = wheels_of:abnset\n"
        "falling = falls_over:wheel\nclass = wheels_of:Wheel\nboth = wheels_of:wheel",
        wheels_of="import networkx as nx\nimport topologies\nNUMBER = 3\n"
        "def wheel(size, weight=None):\n    return nx.wheel_graph(size)\n"
        "def hexagon(size):\n    return nx.cycle_graph(6)\n"
        "class Wheel(topologies.Topology):\n    def __init__(self, size):\n        super().__init__(size, 1)\n"
        "    def turn(self, rank, round):\n        return topologies.Turn(1.0, {}, {})\n",
        falls_over="raise RuntimeError('no accelerator here')\n",
    )
    install(tmp_path, "other-wheels", "both = wheels_of:wheel")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("wheels_of", "falls_over"):
        sys.modules.pop(name, None)


def test_other_packages_declare_families(site):
    topology = load("wheel", 6)
    assert topology.describe() == from_networkx(nx.wheel_graph(6)).describe()
    assert load("class", 1).size == 1
    assert set(families()) == {"wheel", "broken", "number", "unnamed", "falling", "class", "both"}
    assert families()["wheel"]()(6).number_of_nodes() == 6
    assert families()["wheel"].distribution == "many-wheels"


def test_nothing_is_imported_before_it_is_used(site):
    assert "wheels_of" in {declared.spec.partition(":")[0] for declared in families().values()}
    assert "wheels_of" not in sys.modules
    assert "falls_over" not in sys.modules
    with pytest.raises(SpecError, match=r"there is no topology 'wheeel'; did you mean wheel[?]; .*falling"):
        load("wheeel", 6)
    assert "wheels_of" not in sys.modules


def test_a_family_of_this_package_hides_a_declared_one(site):
    assert load("ring", 8).describe() == ring(8).describe()
    assert "ring" not in families()
    assert hidden()["ring"].spec == "wheels_of:hexagon"
    assert load(hidden()["ring"].spec, 6).describe() == from_networkx(nx.cycle_graph(6)).describe()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "broken",
            {},
            "broken: the package many-wheels declares broken = wheels_of.absent:wheel, which could not be imp",
        ),
        ("unnamed", {}, "unnamed: .* many-wheels .* could not be imported .AttributeError: .*abnset"),
        ("falling", {}, "the package many-wheels .* .RuntimeError: no accelerator here.: update or uninstall it"),
        ("number", {}, "many-wheels .* which is a int, not a function of the number of ranks"),
        (
            "both",
            {},
            "package .*-wheels declares both = wheels_of:wheel, and .*-wheels declares the same name: un",
        ),
        ("wheel", {"hub": 1}, r"wheel: wheel\(size, weight=None\) is called with 6, hub=1: got an unexpected keyword"),
    ],
)
def test_wrong_declarations_are_refused(site, name, options, message):
    with pytest.raises(SpecError, match=message):
        load(name, 6, **options)


def test_a_graph_of_a_declared_family_is_checked(site):
    with pytest.raises(TopologyError, match=r"class: Wheel.* rank 0 cannot reach ranks 1 and 2") as raised:
        load("class", 3)
    assert not isinstance(raised.value, SpecError)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("base_graph,peer=2", r"unexpected keyword argument 'peer'; did you mean peers\?"),
        (
            "base_graph,peers",
            "an option is written name=value after a comma, without blanks, as in base_graph,option=2",
        ),
        ("base_graph, peers=2", "an option is written name=value after a comma, without blanks"),
        ("without", "topologies.without makes a graph of others in Python"),
        ("node_aware,hosts=2", r"give the ranks on each host, as in hosts=4,4,3, or local_size=4"),
        ("torus,shape=2x4", "on a command line 1,2, not '2x4'"),
    ],
)
def test_usual_mistakes_in_specs_get_advice(spec, message):
    with pytest.raises(TopologyError, match=message):
        load(spec, 8)


def test_options_in_the_text_and_beside_it():
    assert load("base_graph,peers=2", 9).describe() == load("base_graph", 9, peers=2).describe()
    assert load("base_graph,peers=2", 9, peers=2).period == 2
    with pytest.raises(SpecError, match="base_graph,peers=2 says peers=2, and peers=3 stands beside it: leave one out"):
        load("base_graph,peers=2", 9, peers=3)


@pytest.mark.parametrize(("spec", "options"), [("base", {"peers": 2}), ("base,peers=2", {})])
def test_the_former_name_of_a_family_loads_it_with_a_warning(spec, options):
    with pytest.warns(DeprecationWarning, match="'base' is now called 'base_graph'") as caught:
        topology = load(spec, 9, **options)
    assert topology.describe() == load("base_graph", 9, peers=2).describe()
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match="'base' is now called 'base_graph'"):
        check_spec(spec, **options)
