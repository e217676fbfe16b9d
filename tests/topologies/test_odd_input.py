"""Odd input is understood or refused with a sentence; no input is taken for another one."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import topologies
import topologies.commands.pictures
import topologies.errors
from topologies import SpecError, TopologyError, load
from topologies.analysis import consensus, rounds_to
from topologies.catalogue import CATALOGUE
from topologies.commands.output import units
from topologies.commands.output.report import WIDTH, paragraph, table
from topologies.commands.show import span

INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CATALOGUE)
@given(
    kind=st.sampled_from(INTEGERS), rank=st.integers(0, 63), round=st.integers(0, 127), size=st.sampled_from([64, 100])
)
def test_numpy_integers_are_ranks_and_rounds(name, kind, rank, round, size):
    topology = CATALOGUE[name](64 if "hypercube" in name else size)
    expected = topology.turn(rank, round)
    assert topology.turn(kind(rank), round) == topology.turn(rank, kind(round)) == expected
    assert np.array_equal(topology.edges(kind(round)).matrix(), topology.matrix(round))


@pytest.mark.parametrize(
    ("name", "option"),
    [("ring", "directed"), ("equistatic", "directed"), ("equidyn", "directed"), ("circulant", "one_by_one")],
)
def test_a_text_is_refused_as_a_bool(name, option):
    for said in ("no", "false", "0"):
        with pytest.raises(TopologyError, match=f"{option} of .* must be True or False, not"):
            load(f"{name},{option}={said if said != '0' else '[]'}", 6)
    assert load(f"{name},{option}=False", 6).describe() == CATALOGUE[name](6, **{option: np.False_}).describe()


def test_the_option_directed_of_a_file_is_a_bool(tmp_path):
    path = tmp_path / "path.edges"
    path.write_text("0 1\n1 2\n")
    assert load(f"{path},directed=False", 3).turn(0, 0).sends.keys() == {1}
    with pytest.raises(TopologyError, match="directed of a file must be True or False, not 'false'"):
        load(f"{path},directed=false", 3)


@pytest.mark.parametrize("weight", [False, True, 3, []])
def test_the_name_of_an_attribute_is_a_text(weight):
    with pytest.raises(TopologyError, match="is no name of an edge attribute"):
        topologies.from_networkx(nx.cycle_graph(4), weight=weight)


def test_numbers_of_rounds_and_seeds_are_counted_from_0():
    ring = topologies.ring(4)
    for call in (
        lambda: consensus(ring, -1),
        lambda: consensus(ring, 2, seed=-1),
        lambda: consensus(ring, 2, seed=1.5),
        lambda: rounds_to(ring, 0.1, limit=-2),
        lambda: rounds_to(ring, 0.1, limit=None),
    ):
        with pytest.raises(TopologyError, match="must be an integer of at least 0"):
            call()
    assert consensus(ring, 0).rounds == 0


def test_an_option_may_be_an_array():
    hops = np.array([1, 2])
    assert load("circulant", 8, hops=hops).describe() == load("circulant,hops=1,2", 8, hops=hops).describe()
    with pytest.raises(SpecError, match="leave one out"):
        load("circulant,hops=1,3", 8, hops=hops)
    for odd in (hops, np.array(2)):
        for name, option in (("random_peer", "hops"), ("hybrid", "first"), ("hybrid", "first_peers"), ("ring", "size")):
            with pytest.raises((TopologyError, SpecError)):
                load(name, 8, **({option: odd} if option != "size" else {"directed": odd}))
    with pytest.raises(TopologyError, match="a share for each of its 2 hops"):
        topologies.circulant(8, weights=np.array(2))
    with pytest.raises(TopologyError):
        topologies.from_matrix([[np.array(2)]])


def test_an_option_given_twice_is_refused():
    assert load("exponential,peers=2,peers=2", 9).period == 2
    with pytest.raises(SpecError, match="the option peers is given twice, as 2 and as 3"):
        load("exponential,peers=2,peers=3", 9)


@pytest.mark.parametrize("value", ["{[]:1}", "(" * 300, "-" * 20_000 + "1", "\0"])
def test_an_option_that_is_no_python_literal_is_a_text(value):
    with pytest.raises(TopologyError, match="must be a sequence of integers"):
        load(f"circulant,hops={value}", 8)


def test_a_label_of_too_many_digits_is_no_rank(tmp_path):
    path = tmp_path / "long.adjlist"
    path.write_text(f"0 {'9' * 5000}\n")
    with pytest.raises(TopologyError, match="labels must be the ranks 0 to 1"):
        load(path, 2)


MINE = """
import topologies

class Mine(topologies.Topology):
    def __init__(self, size):
        super().__init__(size, period=1)

    def turn(self, rank, round):
        return {}[rank]

class Arrays(Mine):
    def turn(self, rank, round):
        return topologies.ring(self.size).turn(rank, round)

    def edges(self, round):
        return None

def leaves(size):
    raise SystemExit(0)
"""


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("Mine", "the Mine that the factory returned raised KeyError for 4 ranks: 0"),
        ("Arrays", "the Arrays that the factory returned raised TypeError"),
        ("leaves", "the factory raised SystemExit for 4 ranks"),
    ],
)
def test_errors_of_foreign_code_name_their_source(tmp_path, monkeypatch, factory, said):
    (tmp_path / "odd_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TopologyError, match=said):
        load(f"odd_mine:{factory}", 4)


def edges_among(round, names=()):
    return nx.complete_graph(3)


def test_the_text_of_a_function_has_no_order_of_a_set():
    names = ["alpha", "beta", "gamma", "delta"]
    told = repr(topologies.from_function(functools.partial(edges_among, names=set(names)), 3))
    assert "names={'alpha', 'beta', 'delta', 'gamma'}" in told


def test_a_script_that_exits_on_import_is_refused(tmp_path, monkeypatch):
    (tmp_path / "odd_script.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="could not be imported: SystemExit"):
        load("odd_script:graph", 4)


def test_quantities_have_bounds():
    for reader, texts in (
        (units.size, ("0.5B", "1001TB", "9" * 400 + "GB", "9" * 5000 + "GB")),
        (units.rate, ("0bit", "0.001bit", "9" * 400 + "bit")),
        (units.duration, ("9" * 400 + "s",)),
        (span, ("0..99999999999999999999999", "0..1000")),
    ):
        for text in texts:
            with pytest.raises(Exception, match=r"is not a|rounds: show at most") as raised:
                reader(text)
            assert type(raised.value).__name__ == "ArgumentTypeError"
    assert (units.size("1000TB"), units.rate("1bit"), len(span("5..1004"))) == (10**15, 1.0, 1000)


def test_a_long_name_leaves_room_for_the_text():
    name = "x" * (WIDTH + 10)
    text = "one two three four five six seven eight nine ten"
    assert "\n".join(table(["a", "b"], [[name, text]], left=(0, 1))).split() == ["a", "b", name, *text.split()]
    assert "\n".join(paragraph(text, name + " ")).split() == [name, *text.split()]


def command(*arguments: str, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    shell = f'exec "$0" -m topologies "$@" {redirect}'
    return subprocess.run(
        ["sh", "-c", shell, sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        timeout=240,
        check=False,
    )


def test_any_encoding_and_a_closed_stdout_work():
    text = command("list", PYTHONIOENCODING="ascii")
    assert (text.returncode, text.stderr) == (0, b"")
    assert b"Erd\\u0151s" in text.stdout
    document = command("list", "--json", PYTHONIOENCODING="ascii")
    assert (document.returncode, document.stderr) == (0, b"")
    assert "Erdős-Rényi" in json.dumps(json.loads(document.stdout), ensure_ascii=False)
    closed = command("check", "ring", "--size", "4", redirect=">&-")
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full, which Linux has")
def test_a_full_disk_is_reported():
    full = command("check", "ring", "--size", "4", redirect="> /dev/full")
    assert full.returncode == 2
    assert full.stderr.startswith(b"python -m topologies: the output cannot be written:")
    assert full.stderr.count(b"\n") == 1


def test_too_many_ranks_are_refused():
    refused = command("show", "star", "--size", "99999999999")
    assert refused.returncode == 2
    assert b"integer of at most 100000000" in refused.stderr


@pytest.mark.parametrize("name", ["plain", ".png"])
def test_a_picture_is_written_to_the_given_path(tmp_path, name):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, which the extra bench brings")
    figure = topologies.commands.pictures.rounds(topologies.ring(3), "ring", [0])
    with pytest.raises(topologies.errors.PictureError, match="its ending says the format"):
        topologies.commands.pictures.save(figure, tmp_path / name)
    assert not list(tmp_path.iterdir())
