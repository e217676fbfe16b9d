"""`python -m topologies`: output, pictures, refusals and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import networkx as nx
import numpy as np
import pytest

import topologies
from topologies import exponential, from_networkx
from topologies.__main__ import main
from topologies.analysis import Figure, consensus
from topologies.catalogue import CATALOGUE
from topologies.commands import figures as figures_command
from topologies.commands import pictures
from topologies.commands.output import units
from topologies.commands.output.report import WIDTH, table
from topologies.commands.pictures.layouts import layout
from topologies.errors import PictureError
from topologies.families.node_aware import node_aware
from topologies.specs import parsed, written

FACTORIES = """
import networkx as nx
import topologies

def star(size, centre=0):
    return nx.Graph([(centre, rank) for rank in range(size) if rank != centre])

def apart(size):
    return nx.empty_graph(size)
"""

NETWORK = ("--rate", "10gbit", "--latency", "50us", "--bytes", "100MB")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the commands, with a module of graphs and a graph file."""
    (tmp_path / "my_graphs.py").write_text(FACTORIES)
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(2, 0, 0.5), (0, 1, 0.25), (0, 2, 0.25), (1, 2, 0.5)])
    nx.write_graphml(graph, tmp_path / "three.graphml")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_graphs", None)


def run(capsys, *arguments):
    try:
        code = main(arguments)
    except SystemExit as exit:  # argparse's way
        code = exit.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def document(capsys, *arguments):
    """The JSON that a command prints, which holds no number that JSON does not know."""
    code, out, _ = run(capsys, *arguments, "--json")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return code, json.loads(out, parse_constant=refuse)


def rows(out, title):
    """The lines of a table by their first column."""
    lines = out.splitlines()
    [start] = [number for number, line in enumerate(lines) if line.startswith(title)]
    body = lines[start + 1 :]
    end = body.index("") if "" in body else len(body)
    return {line.split()[0]: line for line in body[:end] if not line.startswith(" ")}


def pixels(path):
    return matplotlib.image.imread(path).shape[:2]


# --- list and help


@pytest.mark.parametrize("arguments", [(), ("list",)])
def test_listing_names_every_family(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    for word in (*CATALOGUE, "peers=1", "package.module:factory", ".graphml", "--help", "base_graph,peers=2"):
        assert word in out
    assert max(map(len, out.splitlines())) <= WIDTH


def test_list_as_json_holds_every_family_with_its_defaults(capsys):
    code, found = document(capsys, "list")
    families = {entry["name"]: entry for group in found["groups"].values() for entry in group}
    assert code == 0
    assert set(CATALOGUE) <= set(families)
    assert families["exponential"]["options"] == {"peers": "1"}
    assert families["exponential"]["summary"].startswith("Exponential graph")


def test_list_names_what_installed_packages_declare(capsys, folder, monkeypatch):
    info = folder / "some_graphs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-graphs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gossip.topologies]\nwheel = my_graphs:star\ngone = absent_module:graph\nring = my_graphs:star\n"
    )
    code, found = document(capsys, "list")
    declared = {
        entry["name"]: entry for title, group in found["groups"].items() if "installed" in title for entry in group
    }
    assert code == 0
    assert declared["wheel"]["options"] == {"centre": "0"}
    assert declared["wheel"]["package"] == "some-graphs"
    assert declared["gone"]["summary"].startswith("cannot be loaded")
    assert "ring" in declared
    assert "from some-graphs: my_graphs:star" in run(capsys, "list")[1]


COMMANDS = ("list", "show", "check", "compare", "draw", "advise", "figures")


def test_help_names_every_command_and_the_exit_codes(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "exit codes" in out
    for command in COMMANDS:
        assert re.search(rf"^ +{command} ", out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_and_json(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "--json" in out
    assert "example" in out or "exit codes" in out


@pytest.mark.parametrize("command", ["main", *COMMANDS])
def test_the_examples_of_the_help_work(capsys, folder, command):
    """All examples except those that need files or modules of the user, or take seconds."""
    _, out, _ = run(capsys, *([] if command == "main" else [command]), "--help")
    examples = re.findall(r"^  python -m topologies (.*)$", out, re.MULTILINE)
    for example in examples:
        if not re.search(r"lopsided|cluster\.graphml|100000|^advise --size", example):
            code, _, err = run(capsys, *example.split())
            assert (code, err) == (0, ""), example


# --- quantities


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.size, "100MB", 100_000_000),
        (units.size, "1.024MB", 1_024_000),
        (units.size, "4GiB", 4 * 2**30),
        (units.size, "12 B", 12),
        (units.rate, "10gbit", 10e9),
        (units.rate, "100mbit", 100e6),
        (units.rate, "25Gbit/s", 25e9),
        (units.rate, "2.5Gbps", 2.5e9),
        (units.duration, "50us", 50e-6),
        (units.duration, "50µs", 50e-6),
        (units.duration, "1ms", 1e-3),
        (units.duration, "0.5s", 0.5),
        (units.duration, "0s", 0.0),
    ],
)
def test_quantities(read, text, value):
    assert read(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("option", "text", "example"),
    [
        ("--bytes", "100", "100MB"),
        ("--bytes", "0MB", "100MB"),
        ("--bytes", "-1MB", "100MB"),
        ("--bytes", "100mb", "100MB"),
        ("--bytes", "1e3MB", "100MB"),
        ("--rate", "10GB/s", "10gbit"),
        ("--rate", "10", "10gbit"),
        ("--rate", "0gbit", "10gbit"),
        ("--rate", "nan", "10gbit"),
        ("--latency", "50", "50us"),
        ("--latency", "-1s", "50us"),
        ("--error", "0", "0.01"),
        ("--error", "1.5", "0.01"),
        ("--error", "small", "0.01"),
    ],
)
def test_a_wrong_quantity_is_refused_with_an_example(capsys, option, text, example):
    code, out, err = run(capsys, "advise", "--size", "8", *NETWORK, f"{option}={text}")
    assert (code, out) == (2, "")
    assert f"argument {option}: {text!r} is n" in err
    assert example in err


@pytest.mark.parametrize("value", [1, 999, 1000, 999_499, 999_500, 999_999, 123_456_789, 10**15])
def test_sizes_are_written_to_three_digits(value):
    number, unit = units.bytes_text(value).split()
    assert len(number.replace(".", "")) <= 3 or unit == "TB"
    assert float(number) * units.SIZES[unit] == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("ring", "ring", {}),
        ("base_graph,peers=2", "base_graph", {"peers": 2}),
        ("circulant,hops=1,-2,5,one_by_one=True", "circulant", {"hops": (1, -2, 5), "one_by_one": True}),
        ("circulant,hops=3,", "circulant", {"hops": (3,)}),
        ("my_graphs:star,centre=3", "my_graphs:star", {"centre": 3}),
        ("node_aware,inner=ring", "node_aware", {"inner": "ring"}),
        ("a,b.graphml", "a,b.graphml", {}),
    ],
)
def test_a_spec_holds_a_graph_and_its_options(text, name, options):
    assert parsed(text) == (name, options)
    assert written(name, options) == text


def test_tables_are_aligned_and_keep_their_width():
    lines = table(["graph", "n", "why"], [["ring", "1", "because " * 30], ["a", "22", "short"]], left=(0, 2))
    assert lines[0] == "graph   n  why"
    assert lines[-1] == "a      22  short"
    assert all(line.startswith(" " * 11) for line in lines[2:-1])
    assert max(map(len, lines)) <= WIDTH


# --- show and check


def test_show(capsys):
    code, out, _ = run(capsys, "show", "exponential", "--size", "9", "--option", "peers=2", "--rank", "4")
    assert code == 0
    facts = {line.split("  ")[1]: line.split("  ")[-1].strip() for line in out.splitlines() if line.startswith("  ")}
    assert facts["ranks"] == "9"
    assert facts["period"] == "2"
    assert facts["out-peers"] == "2 a rank and round"
    assert facts["doubly stochastic"] == "in every round"
    assert facts["exact after"] == "2 rounds"
    assert exponential(9, 2).describe() in out
    assert "round 1    keeps 0.3333   sends 0.3333@1 0.3333@7" in out
    assert (
        run(capsys, "show", "exponential,peers=2", "--size", "9", "--rank", "4")[1].splitlines()[1:]
        == (out.splitlines()[1:])
    )


def test_show_takes_late_rounds(capsys):
    code, found = document(capsys, "show", "exponential", "--size", "16", "--rank", "3", "--round", "1001..1002")
    assert code == 0
    assert [turn["round"] for turn in found["turns"]] == [1001, 1002]
    assert found["turns"][0] == {"round": 1001, "keep": 0.5, "sends": {"5": 0.5}, "receives": {"1": 0.5}}
    assert found["facts"]["rounds_to_exact"] == 4


def test_check(capsys, folder):
    code, out, _ = run(capsys, "check", "three.graphml")
    assert code == 0
    assert re.search(r"out-peers +1 to 2, 1\.33 in the mean, a rank and round", out)
    assert "in 0 of 1 rounds" in out
    assert "fit for gossip       yes" in out
    assert document(capsys, "check", "three.graphml")[1]["fit"] is True


def test_check_of_an_unfit_graph_exits_with_1(capsys, folder):
    code, out, err = run(capsys, "check", "my_graphs:apart", "--size", "4")
    assert code == 1
    assert not out
    assert err.startswith("python -m topologies: my_graphs:apart: ")
    assert "cannot reach" in err
    code, found = document(capsys, "check", "my_graphs:apart", "--size", "4")
    assert code == 1
    assert found["fit"] is False
    assert "cannot reach" in found["reason"]


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
        (("show", "ring", "--size", "4", "--rank", "-1"), "a rank is an integer of at least 0"),
        (("show", "ring", "--size", "4", "--round", "3..1"), "'3..1' is no range of rounds: write 7, or 3..7"),
        (("show", "exponential", "--size", "4", "--option", "peers=4"), "peers=4 does not fit"),
        (("show", "exponential", "--size", "4", "--option", "peers"), "not of the form name=value"),
        (("show", "exponential", "--size", "4", "--option", "peer=1"), "unexpected keyword"),
        (("show", "exponential,peers=2", "--size", "4", "--option", "peers=1"), "leave one"),
        (("paint", "ring"), "invalid choice: 'paint'"),
        (("show",), "SPEC"),
        (("compare", "ring", "three.graphml", "--size", "4"), "the graph has 3 ranks"),
        (("compare", "ring"), "ring comes in many sizes"),
        (("compare", "ring", "--size", "4", "--picture", "absent/x.png"), "the picture cannot be written to absent/x"),
        (("compare", "ring", "--size", "4", "--picture", "x.docx"), "x.docx"),
        (("draw", "ring", "--rank", "8"), "--rank 8 does not exist among 8 ranks"),
        (("draw", "ring", "--rounds", "1000"), "the number of rounds that are drawn is an integer of at most 64"),
        (("draw", "ring", "--size", "1000"), "a picture of 1000 ranks shows nothing: draw at most 512"),
        (("draw", "complete", "--size", "100"), "9900 edges in 1 rounds show nothing"),
        (("draw", "ring", "--text", "--picture", "x.png"), "not allowed with argument"),
        (("advise", "tours", "--size", "4", *NETWORK), "there is no topology 'tours'"),
        (("advise", *NETWORK), "advise needs --size, as in"),
        (("advise", "--size", "4", "--bytes", "1MB", "ring"), "advise needs --rate, as in"),
        # A wrong argument is reported before a missing one, and before any simulation.
        (("show", "rign"), "there is no topology 'rign'; did you mean ring?"),
        (("check", "train.py"), "a function in a Python file is given as train:factory"),
        (("check", "my_graphs:stra"), "the module my_graphs has no stra; did you mean star?"),
        (("show", "absent:star"), "there is no module absent"),
        (("show", "my_graphs:star,center=1"), "is called with N, center=1: got an unexpected keyword argument"),
        (("show", "ring", "--option", "hops=3"), "ring: ring(size, directed=False) is called with N, hops=3"),
        (("show", "ring,directed=True", "--option", "directed=False"), "leave one out"),
        (("draw", "rign"), "there is no topology 'rign'"),
        (("compare", "base_graph", "rign"), "there is no topology 'rign'"),
        (("compare", "base_graph", "rign", "--size", "1000000"), "there is no topology 'rign'"),
        (("compare", "base_graph", "absent.gml"), "absent.gml: there is no such file"),
        (("compare", "base_graph", "--picture", "x.docx"), "the picture cannot be written to x.docx: its ending says"),
        (("compare", "base_graph", "--picture", "absent/x.png"), "there is no folder absent, so make it first"),
        (("draw", "ring", "--size", "1000", "--picture", "x"), "its ending says the format, as in .png or .svg"),
        (("advise", "rign"), "there is no topology 'rign'"),
        (("advise", "base_graph", "rign", "--size", "4"), "there is no topology 'rign'"),
        (("advise", "complete", "rign", "--size", "100000", *NETWORK), "there is no topology 'rign'"),
        (("advise", "ring,hops=2"), "is called with N, hops=2"),
        (("advise", "--size", "none", "rign"), "the number of ranks is an integer"),
    ],
)
def test_wrong_input_exits_with_2(capsys, folder, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert not out
    assert message in err
    assert "Traceback" not in err


# --- compare


def test_compare_counts_rounds_and_bytes(capsys):
    code, out, _ = run(capsys, "compare", "exponential", "ring", "exponential,peers=3", "--size", "16")
    found = rows(out, "graph")
    assert code == 0
    # 16 = 2^4 = 4^2, so one peer needs 4 rounds of one message, and three peers 2 rounds of three.
    assert found["exponential"].split()[1:] == ["4", "1", "4", "400", "MB", "4", "400", "MB", "<1e-10", "1"]
    assert found["exponential,peers=3"].split()[1:] == ["2", "3", "2", "600", "MB", "2", "600", "MB", "<1e-10", "1"]
    assert found["ring"].split()[6:8] == ["-", "-"]
    assert max(map(len, out.splitlines())) <= WIDTH


def test_compare_as_json_holds_the_curves(capsys):
    code, found = document(capsys, "compare", "exponential", "star", "--size", "8", "--rounds", "5", "--bytes", "1MB")
    assert code == 0
    one, star = found["graphs"]
    assert one["messages"] == [0, 1, 2, 3, 4, 5]
    assert one["errors"][0] == 1
    assert max(one["errors"][3:]) < 1e-12
    assert one["bytes_to_exact"] == 3_000_000
    assert star["bytes_to_exact"] is None
    assert star["messages"] == [7 * round for round in range(6)]


def test_compare_takes_the_size_from_files(capsys, folder):
    code, found = document(capsys, "compare", "three.graphml")
    assert (code, found["size"]) == (0, 3)


def test_the_picture_of_a_comparison(capsys, folder):
    code, out, _ = run(capsys, "compare", "exponential", "ring", "complete", "--size", "24", "--picture", "compare.png")
    assert code == 0
    assert "written to compare.png" in out
    height, width = pixels("compare.png")
    assert 1200 <= width <= 1800
    assert 600 <= height <= 1000


def test_curves_end_where_the_mean_is_exact_and_nowhere_else():
    runs = {"exact": consensus(exponential(8), rounds=20), "slow": consensus(topologies.ring(8), rounds=20)}
    by_rounds, by_bytes = pictures.comparison(runs, 10**6, "8 ranks").axes
    for axes in (by_rounds, by_bytes):
        assert axes.get_yscale() == "log"
    exact, end, slow = by_rounds.get_lines()
    assert (exact.get_label(), slow.get_label()) == ("exact", "slow")
    assert exact.get_xdata().tolist() == [0, 1, 2, 3]
    assert end.get_xdata().tolist() == [3]
    assert exact.get_ydata()[-1] < 1e-12
    assert len(slow.get_xdata()) == 21
    # Two messages a round: at the right end of the axis of bytes the ring is half as far as on that of rounds.
    assert by_bytes.get_lines()[-1].get_xdata().tolist() == [2 * round / 1000 * 1000 for round in range(21)]
    assert by_bytes.get_xlabel() == "carried by the busiest rank, MB"


def test_curves_differ_in_colour_line_and_marker():
    looks = [(look["color"], str(look["linestyle"]), look["marker"]) for look in pictures.curves.LOOKS]
    assert len(looks) >= 8
    assert all(len(set(kind)) == len(looks) for kind in zip(*looks, strict=True))


# --- draw


def test_draw_writes_a_picture_to_the_current_folder(capsys, folder):
    code, out, _ = run(capsys, "draw", "exponential,peers=2", "--size", "9")
    assert (code, out) == (0, "written to exponential-peers-2.png\n")
    height, width = pixels("exponential-peers-2.png")
    assert width > 800
    assert height > 400
    code, found = document(capsys, "draw", "three.graphml", "--picture", "other.svg")
    assert (code, found["picture"], found["size"], found["rounds"]) == (0, "other.svg", 3, 1)
    assert (folder / "other.svg").read_text().startswith("<?xml")


def test_draw_names_the_rounds_it_leaves_out(capsys, folder):
    code, out, _ = run(capsys, "draw", "circulant,hops=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,one_by_one=True")
    assert code == 0
    assert "the first 16 rounds; a period has 17" in out


def test_draw_as_text(capsys):
    code, out, _ = run(capsys, "draw", "exponential", "--size", "4", "--text")
    assert code == 0
    assert out.splitlines() == [
        "exponential, 4 ranks",
        "  round 0    0 -> 1 (1/2), 1 -> 2 (1/2), 2 -> 3 (1/2), 3 -> 0 (1/2)",
        "  round 1    0 -- 2 (1/2), 1 -- 3 (1/2)",
    ]
    _, found = document(capsys, "draw", "exponential", "--size", "4", "--text")
    assert found["rounds"][1]["edges"][0] == {"from": 0, "to": 2, "share": 0.5}


def colours(axes):
    """The fill of every rank in a panel."""
    [ranks] = axes.collections
    return [matplotlib.colors.to_hex(fill) for fill in ranks.get_facecolors()]


def arrows(axes):
    """Which patches of a panel have a head."""
    return [type(patch.get_arrowstyle()).__name__ != "Curve" for patch in axes.patches]


def test_values_reach_twice_as_many_ranks_in_each_exponential_round():
    figure = pictures.rounds(exponential(8), "exponential", range(3))
    assert [axes.get_title() for axes in figure.axes] == ["round 0", "round 1", "round 2"]
    reached = [sum(fill != "#ffffff" for fill in colours(axes)) for axes in figure.axes]
    assert reached == [2, 4, 8]
    assert [arrows(axes) for axes in figure.axes] == [[True] * 8, [True] * 8, [False] * 4]
    assert [text.get_text() for text in figure.axes[0].texts] == [str(rank) for rank in range(8)]


def test_many_rounds_wrap_into_rows():
    figure = pictures.rounds(topologies.ring(6), "ring", range(10))
    tops = sorted({round(axes.get_position().y0, 6) for axes in figure.axes})
    assert len(figure.axes) == 10
    assert len(tops) == 3
    assert all(axes.get_position().y0 >= 0 and axes.get_position().x1 <= 1 for axes in figure.axes)


def test_shares_are_drawn_at_edges_if_they_differ():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(0, 1, 1 / 3), (1, 0, 0.25), (1, 2, 0.25), (2, 0, 0.5)])
    [axes] = pictures.rounds(from_networkx(graph), "mine", [0]).axes
    texts = [text.get_text() for text in axes.texts]
    assert sorted(set(texts) - {"0", "1", "2"}) == ["1/2", "1/3", "1/4"]
    # 0 -> 1 and 1 -> 0 differ, so both are arrows.
    assert arrows(axes) == [True] * 4
    [axes] = pictures.rounds(topologies.ring(6), "ring", [0]).axes
    assert [text.get_text() for text in axes.texts] == [str(rank) for rank in range(6)]
    titles = [axes.get_title() for axes in pictures.rounds(CATALOGUE["base_graph"](6), "base_graph", range(4)).axes]
    assert titles == [f"round {number}, share {share}" for number, share in enumerate(("1/2", "2/3", "1/2", "1/2"))]


def test_layouts_show_the_shape():
    def places(topology):
        return layout(topology, [topology.edges(round) for round in range(topology.period)]).round(9)

    star = places(from_networkx(nx.star_graph(4)))
    assert star[0].tolist() == [0, 0]
    np.testing.assert_allclose(np.hypot(*star[1:].T), 1)
    grid = places(CATALOGUE["grid"](12, shape=(3, 4)))
    assert len(set(grid[:, 0])) == 4
    assert len(set(grid[:, 1])) == 3
    np.testing.assert_array_equal(grid, places(CATALOGUE["torus"](12, shape=(3, 4))))
    tree = places(CATALOGUE["binary_tree"](7))
    assert tree[0, 1] > tree[1, 1] == tree[2, 1] > tree[3, 1] == tree[6, 1]
    for topology in (topologies.ring(9), exponential(7), topologies.complete(1), topologies.complete(2)):
        np.testing.assert_allclose(np.hypot(*places(topology).T), 1)
    host = places(node_aware(8, hosts=[4, 4]))
    gaps = np.hypot(*(np.roll(host, -1, axis=0) - host).T)
    assert gaps[3] == gaps[7] == pytest.approx(gaps.max())
    assert gaps[0] < gaps[3] - 0.1


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 8])
def test_every_family_can_be_drawn(name, size):
    topology = CATALOGUE[name](size)
    numbers = range(min(topology.period or 3, 5))
    figure = pictures.rounds(topology, name, numbers)
    assert [axes.get_title().partition(",")[0] for axes in figure.axes] == [f"round {number}" for number in numbers]
    figure.draw_without_rendering()
    # In inches: about as wide as a page for any graph.
    assert 5 <= figure.get_figwidth() <= 12
    assert 1.5 <= figure.get_figheight() <= 8


def test_without_matplotlib_a_sentence_says_what_to_install(capsys, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PictureError, match="pip install matplotlib"):
        pictures.rounds(exponential(4), "exponential", [0])
    for arguments in (("draw", "ring"), ("compare", "ring", "--size", "4", "--picture", "x.png")):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert "pip install matplotlib" in err
        assert "`bench`" in err
    assert run(capsys, "compare", "ring", "--size", "4")[0] == 0


# --- advise and figures


def test_advise_puts_the_soonest_first_and_the_baseline_among_them(capsys):
    chosen = ("ring", "exponential", "exponential,peers=2", "complete")
    code, out, _ = run(capsys, "advise", *chosen, "--size", "24", *NETWORK)
    assert code == 0
    assert max(map(len, out.splitlines())) <= WIDTH
    found = rows(out, "graph")
    assert set(found) == {"all-reduce", *chosen}
    code, told = document(capsys, "advise", *chosen, "--size", "24", *NETWORK)
    seconds = [row["seconds"] for row in told["advice"]]
    assert (code, seconds) == (0, sorted(seconds))
    assert list(found) == [written(row["name"], row["options"]) for row in told["advice"]]
    assert told["rate"] == 10e9
    assert all(row["reason"] for row in told["advice"])


def test_advise_has_every_family_and_says_why_one_does_not_fit(capsys):
    code, found = document(capsys, "advise", "--size", "6", *NETWORK)
    assert code == 0
    assert set(CATALOGUE) <= {row["name"] for row in found["advice"]}
    [hypercube] = [row for row in found["advice"] if row["name"] == "hypercube"]
    assert (hypercube["kind"], hypercube["seconds"]) == ("refused", None)


def test_figures_prints_known_and_computed_numbers(capsys, monkeypatch):
    told = [
        Figure("rounds of something", "a paper", 6.0, 6.0, 0),
        Figure("gap of something", "a paper", 0.0128, 0.01281, 4),
    ]
    monkeypatch.setattr(figures_command, "known", lambda: told)
    code, out, err = run(capsys, "figures")
    assert (code, err) == (0, "")
    assert re.search(r"^ +6 +6 +yes +a paper +rounds of something$", out, re.MULTILINE)
    assert "0.0128    0.0128  yes" in out
    told.append(Figure("length of another", "a paper", 5.0, float("inf"), 0))
    code, out, err = run(capsys, "figures")
    assert code == 1
    assert re.search(r"5 +never +NO", out)
    assert "computed otherwise than known: length of another" in err
    code, found = document(capsys, "figures")
    assert (code, found["agree"]) == (1, False)
    assert found["figures"][-1]["computed"] is None


# --- as a program


def python_m(folder, *arguments, **options):
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "topologies", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={"PYTHONPATH": f"{root}"},
        cwd=folder,
        **options,
    )


def test_the_package_runs_as_a_module(folder):
    found = python_m(folder, "check", "my_graphs:star", "--size", "6")
    assert (found.returncode, found.stderr) == (0, "")
    missing = python_m(folder, "show", "rnig", "--size", "6")
    assert missing.returncode == 2
    assert "did you mean ring?" in missing.stderr


def test_a_closed_pipe_gives_no_traceback(folder):
    root = Path(__file__).parents[2]
    command = f"set -o pipefail; {sys.executable} -m topologies show random_peer --size 64 --round 0..999 | head -1"
    found = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=240,
        env={"PYTHONPATH": f"{root}", "PATH": "/usr/bin:/bin"},
        cwd=folder,
    )
    assert found.stdout == "random_peer\n"
    assert found.stderr == ""
