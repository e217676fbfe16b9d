"""`python -m bench update` measures what it is asked for, says what it says it says, and counts right."""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refusal
from rich.console import Console
from spawn import run_mpirun, run_torchrun

import gossip
from bench.cluster import line
from bench.measuring import models
from bench.measuring.loop import Updates, figures
from bench.peers import YARDSTICK as NAME
from bench.scale import read
from bench.shared.digits import Consensus
from bench.shared.methods import METHODS
from bench.update import columns, judging, matrix
from gossip import UsageError, World

LISTS = tuple(name for name, value in vars(Updates()).items() if isinstance(value, list))


def asked(**more: Any) -> argparse.Namespace:
    few = {"algorithms": ["none", "sgp", "local"], "sizes": [4, 8], "compute": [0.1, 0.2], "topologies": ["a", "b"]}
    return argparse.Namespace(**few | {"period": 3, "steps": 6, "warmup": 1, "free": 3} | more)


NONE = {"seconds": 1.25, "by_rank": [1.0, 1.5], "free": 2.25}


def half_a_second(nbytes: int, graph: str) -> float | None:
    """The line of four bytes."""
    return {(4, "a"): 0.5}.get((nbytes, graph))


def no_line(nbytes: int, graph: str) -> None:
    """All ranks share a host."""


def result(algorithm: str, seconds: list[float], waits: float, in_flight: float) -> matrix.Result:
    """Of two ranks, timed from a barrier; without barriers it takes one second more."""
    middle = sum(seconds) / len(seconds)
    slowest = seconds.index(max(seconds))
    counts = ("merging", "bytes_sent", "bytes_received", "messages_sent", "messages_received", "consensus")
    return {
        "algorithm": algorithm,
        "bytes": 4,
        "compute": 1.0,
        **dict.fromkeys(counts, 0.5),
        "computing": {"median": 1.0},
        "seconds": {"median": middle, "p10": middle, "p90": middle},
        "waits": {"median": waits},
        "in_flight": in_flight,
        "by_rank": seconds,
        "topology": "a",
        "none": NONE,
        "slowest": {"rank": slowest, "seconds": {"median": seconds[slowest]}},
        "free": {"seconds": {"median": middle + 1}},
    }


def test_methods_without_a_graph_are_measured_under_one_graph() -> None:
    cells = matrix.cells(asked())
    for name, graphs in (("none", ["a"]), ("sgp", ["a", "b"]), ("local", ["a"]), (NAME, ["a"])):
        assert [cell.place.graph for cell in cells if cell.name == name] == graphs * 4
    assert {(cell.place.nbytes, cell.place.compute) for cell in cells} == {(4, 0.1), (4, 0.2), (8, 0.1), (8, 0.2)}
    assert {cell.name: cell.window for cell in cells} == {"none": 1, "sgp": 1, "local": 3, NAME: 1}


def test_codecs_and_hierarchies_send_less() -> None:
    """One update's bytes of each rank: rounded messages, and what a host sends in parts."""

    def on_rank(world: World, name: str) -> int:
        parameter = torch.zeros(2560, requires_grad=True)
        base = torch.optim.SGD([parameter], lr=0.1)
        optimizer = METHODS[name].over("exponential", 1).around(base, world)
        optimizer.step()
        optimizer.settle()
        return optimizer.stats.run.bytes_sent

    def sent(name: str) -> int:
        return sum(gossip.testing.run(4, lambda world: on_rank(world, name), hosts=["a", "a", "b", "b"]))

    values = 4 * 2560 * 4
    envelopes = 4 * 24
    assert sent("sgp") == sent("osgp") == values + envelopes
    assert sent("sgp-bf16") == values // 2 + envelopes
    assert sent("sgp-int8") == sent("osgp-int8") == 4 * (2560 + 3 * 16) + envelopes
    assert sent("hier") == sent("hier-parts"), "half of it between hosts, and the other half inside"


def test_parts_on_their_way_are_as_many_as_the_name_says() -> None:
    """In a period all of them send what one exact average does; a part in each step, or an eighth in every other."""

    def on_rank(world: World, name: str) -> tuple[int, int]:
        parameter = torch.zeros(25600, requires_grad=True)
        base = torch.optim.SGD([parameter], lr=0.1)
        optimizer = METHODS[name].over("exponential", 16).around(base, world)
        for _ in range(16):
            optimizer.step()
        optimizer.settle()
        return optimizer.stats.run.bytes_sent, optimizer.stats.run.messages_sent

    def sent(name: str) -> tuple[int, int]:
        nbytes, messages = zip(*gossip.testing.run(4, lambda world: on_rank(world, name)), strict=True)
        return sum(nbytes), sum(messages)

    once, parts, eighths = (sent(f"local-{name}") for name in ("slowmo", "streaming", "eighths"))
    assert parts[0] == pytest.approx(once[0], rel=0.01)
    assert eighths[0] == pytest.approx(once[0], rel=0.01)
    assert parts[1] == 2 * eighths[1] == 16 * once[1]
    gossiped = sent("osgp")
    for name, own in (("streaming", parts), ("eighths", eighths)):
        assert [a - b for a, b in zip(sent(f"osgp-{name}"), gossiped, strict=True)] == pytest.approx(own, rel=0.01)


def test_all_ranks_refuse_when_their_libraries_differ() -> None:
    def on_rank(world: World) -> str:
        names = ["none", "torchft"] if world.rank else ["none"]
        with pytest.raises(UsageError) as refused:
            matrix._agree(world, asked(algorithms=names))
        matrix._agree(world, asked())
        return str(refused.value)

    [one, other] = gossip.testing.run(2, on_rank)
    assert one == other
    assert one.startswith("rank 0 on ")
    assert "cannot measure torchft, which other ranks can" in one


def test_the_bar_of_progress_ends_where_the_updates_do() -> None:
    cell = matrix.Cell("osgp", matrix.Place(4, 0.1, "a"), window=1, level=False)
    assert matrix.updates_of(cell, asked()) == 7
    cell.level = True
    assert matrix.updates_of(cell, asked()) == 11
    assert matrix.updates_of(cell, asked(free=0)) == 7


def test_exposed_is_what_an_update_takes_beyond_one_without_communication() -> None:
    none = result("none", [1.0, 1.5], 0.0, 0.0)
    sgp = result("sgp", [1.75, 2.25], 0.5, 1.0)
    compared = [sgp, none]
    matrix.compare(compared, half_a_second)
    assert (none["exposed"], none["hidden"]) == (0.0, None)
    assert (sgp["exposed"], sgp["slowest"]["exposed"], sgp["free"]["exposed"]) == (0.75, 0.75, 0.75)
    assert sgp["hidden"] == 0.25
    assert sgp["over_line"] == 1.5


def test_waits_are_not_hidden() -> None:
    [sgp] = [result("sgp", [1.2, 1.2], 0.75, 1.0)]
    matrix.compare([sgp], no_line)
    assert sgp["exposed"] < 0
    assert sgp["hidden"] == 0.25
    assert sgp["over_line"] is None


def test_exposed_is_empty_without_the_loop_of_none() -> None:
    [sgp] = [result("sgp", [1.0, 1.0], 0.25, 1.0) | {"none": None}]
    matrix.compare([sgp], half_a_second)
    assert sgp["exposed"] is sgp["hidden"] is sgp["over_line"] is None
    assert columns.spans({**sgp, "computing": {"median": 0.75}}) == (0.75, 0.25, 0.75)
    # A peer that overlaps messages with its own compute waits inside that.
    assert columns.spans({**sgp, "computing": {"median": 1.0}}) == (0.75, 0.25, 0.75)


def test_exposed_compares_windows_of_equal_length() -> None:
    def cell(name: str, window: int, *seconds: float) -> matrix.Cell:
        own = Updates(**{each: [1.0] * len(seconds) for each in LISTS})  # type: ignore[arg-type]
        own.seconds = list(seconds)
        return matrix.Cell(name, matrix.Place(4, 0.1, "a"), window, level=window == 1, ranks=[own])

    alone = cell("none", 1, 1.0, 1.0, 4.0)
    for osgp in (cell("osgp", 3, 1.0, 1.0, 4.0), cell("sgp", 1, 1.0, 1.0, 4.0)):
        found = matrix._result(osgp, asked(), alone)
        matrix.compare([found], no_line)
        assert found["exposed"] == 0.0
        assert found["seconds"]["median"] == {"osgp": 2.0, "sgp": 1.0}[osgp.name]


def test_figures_are_of_all_ranks_and_whole_windows() -> None:
    def rank(*seconds: float) -> Updates:
        count = len(seconds)
        nothing = {name: [0.0] * count for name in ("computing", "waits", "in_flight", "merging")}
        counts = {f"{what}_{way}": [2] * count for what in ("bytes", "messages") for way in ("sent", "received")}
        return Updates(seconds=list(seconds), **nothing, **counts, threads=float(count))  # type: ignore[arg-type]

    ranks = [rank(1, 3, 9).whole(2), rank(2, 4, 9).whole(2), rank(5, 5, 9).whole(2)]
    found = figures(ranks, window=2)
    assert found["seconds"]["median"] == 3.0
    assert found["messages_received"] == 2.0
    assert found["threads_cpu"] == pytest.approx(1.0)


def test_the_ranks_that_wait_for_a_straggler_are_seen_in_the_means() -> None:
    def rank(*seconds: float) -> Updates:
        return Updates(seconds=list(seconds), **{name: [0.0] * 3 for name in LISTS if name != "seconds"})  # type: ignore[arg-type]

    # Rank 2 is slow; rank 1 meets it in one update of three.
    found = figures([rank(1, 1, 1), rank(1, 1, 4), rank(4, 4, 4)], window=1)
    assert found["seconds"]["median"] == 1.0
    assert found["by_rank"] == [1.0, 1.0, 4.0]
    assert found["mean_by_rank"] == [1.0, 2.0, 4.0]
    assert found["slowest"]["rank"] == 2
    compared = [{**result("sgp", [1.0, 1.0], 0.0, 0.0), **found, "topology": "exponential", "consensus": None}]
    compared[0] |= {"computing": compared[0]["seconds"], "none": NONE | {"by_rank": [1.0] * 3}}
    matrix.compare(compared, no_line)
    text = columns.markdown("a straggler", compared)
    assert "| SGP | 1000 / 1000 | 1000 / 2000 | 4000 / **4000** |" in text
    assert "4000 (2)" in text


def test_of_many_ranks_the_slowest_stand_side_by_side() -> None:
    means = [1.0 + (rank in (7, 30)) for rank in range(40)]
    [each] = [result("none", means, 0.0, 0.0) | {"mean_by_rank": means, "none": None}]
    matrix.compare([each], no_line)
    sentence, table = columns.by_rank(columns.Part("", [each]))
    assert "the 16 slowest of 40 ranks" in sentence
    assert table.count("rank") == 16
    assert "| rank 7 |" in table
    assert "| rank 30 |" in table


def test_consensus_is_the_distance_from_the_mean() -> None:
    def on_rank(world: World) -> float:
        module = torch.nn.Linear(2, 1, bias=False)
        # z_i = (3, ±1): the mean is (3, 0), each a distance of 1 away
        torch.nn.init.constant_(module.weight, 3.0)
        with torch.no_grad():
            module.weight[0, 1] = 1.0 if world.rank else -1.0
        return Consensus(world, module).distance()

    assert gossip.testing.run(2, on_rank) == pytest.approx([1 / 3] * 2)


@pytest.mark.parametrize("nbytes", [64, 40_000, 10**6])
def test_a_network_has_almost_as_many_bytes_as_asked(nbytes: int) -> None:
    with gossip.init() as world:
        task = models.mlp(nbytes, world, 0.0)
        assert nbytes - 48 * math.isqrt(nbytes) < task.nbytes <= nbytes
        task.compute()
        gradients = [parameter.grad for parameter in task.module.parameters() if parameter.grad is not None]
        assert len(gradients) == 6
        assert any(bool(gradient.any()) for gradient in gradients)


def test_a_line_that_never_rests_has_no_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each transfer the first 100 bytes pass at once; and where there is no line there is none without a pause."""

    def shaped(world: object, graph: object, nbytes: int, pause: float, timeout: float) -> dict[str, float]:
        return {"median": (nbytes - 100) / 1000, "p10": 0.0, "p90": 1.0}

    ring: Any = None
    monkeypatch.setattr(line, "over_graph", shaped)
    paused, steady = line.paused_and_steady(ring, ring, 1100, 0.1, 60.0) or ({}, 0.0)
    assert (paused["median"], steady) == (1.0, pytest.approx(1.1))
    monkeypatch.setattr(line, "over_graph", lambda *_: None)
    assert line.paused_and_steady(ring, ring, 1100, 0.1, 60.0) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--compute", "0.1,0.1"], "names one of them twice"),
        (["--topology", "exponential", "--topology", "mesh"], "--topology"),
        (["--topologies", "exponential;"], "--topology"),
        (["--steps", "5"], "--steps 5 is less than one --period 8"),
        (["--free", "5"], "--free 5 is less than one --period 8"),
        (["--model", "mlp", "--compute", "0.1"], "--compute is how long the ranks sleep"),
        (["@/nowhere.txt"], "/nowhere.txt"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(capsys, "update", *arguments)


def test_wrong_options_in_a_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.txt").write_text("--steps=8\n--sizes=1MB,2\n")
    assert "'2' is not a size" in refusal(capsys, "update", f"@{tmp_path}/options.txt")


@pytest.mark.slow
def test_options_from_a_file_under_mpirun_and_the_four_files(tmp_path: Path) -> None:
    lines = ("--algorithms=none,ar,sgp", "--sizes=40kB", "--compute=0.001", "--period=2")
    graphs = "--topologies=exponential;base,peers=1"
    (tmp_path / "options.txt").write_text("\n".join([*lines, graphs]))
    few = ["--steps", "4", "--warmup", "1", "--repeats", "2", "--out", str(tmp_path / "out")]
    outcome = run_mpirun(2, ["-m", "bench", "update", f"@{tmp_path}/options.txt", *few], 60)
    assert outcome.code == 0, outcome.output[-4000:]
    record = json.loads((tmp_path / "out" / "update.json").read_text())
    results = record["results"]
    assert len(results) == 4 + 1
    for found in results:
        apart = found["consensus"]
        assert apart is None if found["algorithm"] == NAME else (apart > 0) == (found["algorithm"] != "ar"), found
        assert found["bytes_sent"] == pytest.approx(found["bytes_received"])
        assert found["seconds"]["median"] >= found["computing"]["median"] >= found["compute"]
        assert len(found["by_rank"]) == 2
        assert found["slowest"]["seconds"]["median"] == max(found["by_rank"])
        assert found["line"] is None
    with (tmp_path / "out" / "update.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seconds_median"]) for row in rows] == [found["seconds"]["median"] for found in results]
    text = (tmp_path / "out" / "update.md").read_text()
    assert text.count("| SGP | exponential |") == text.count("| SGP | base,peers=1 |") == 1
    assert (tmp_path / "out" / "update.png").read_bytes().startswith(b"\x89PNG")
    # `bench scale` reads the same file.
    points, _ = read(tmp_path / "out" / "update.json")
    assert {point.topology for point in points} == {"exponential", "base,peers=1"}
    assert all(point.alone is not None for point in points)


@pytest.mark.slow
def test_a_real_network_under_torchrun(tmp_path: Path) -> None:
    few = ["--sizes", "40kB", "--algorithms", "none,osgp", "--steps", "4", "--period", "2", "--free", "0"]
    given = ["--model", "mlp", "--json", str(tmp_path / "mlp.json"), *few]
    outcome = run_torchrun(2, ["-m", "bench", "update", *given], 60)
    assert outcome.code == 0, outcome.output[-4000:]
    record = json.loads((tmp_path / "mlp.json").read_text())
    assert record["transport"] == "gloo"
    none, osgp, _ = record["results"]
    assert none["compute"] == osgp["compute"] == none["computing"]["median"] > 0
    assert none["free"] is None
    assert osgp["free"]["seconds"] == osgp["seconds"]
    assert 39_000 < osgp["model_bytes"] < osgp["bytes_sent"] < 40_200
    assert {path.name for path in tmp_path.iterdir()} == {f"mlp.{ending}" for ending in ("json", "csv", "md", "png")}


def test_lines_have_columns_where_they_were_measured() -> None:
    compared = [result("none", [1.0, 1.0], 0.0, 0.0)]
    matrix.compare(compared, lambda nbytes, graph: half_a_second(nbytes, "b"))
    assert not {"line", "x line"} & {column.head for column in columns.columns(compared)}
    matrix.compare(compared, half_a_second)
    assert {"line", "x line"} <= {column.head for column in columns.columns(compared)}


@pytest.mark.parametrize("width", [80, 100, 180])
def test_a_narrow_screen_has_fewer_columns_rather_than_broken_ones(width: int) -> None:
    compared = [result(name, [1.0, 1.0], 0.0, 0.5) for name in ("none", "sgp-noaverage")]
    matrix.compare(compared, half_a_second)
    [part] = columns.parts(compared)
    table = columns.on_screen(part, columns.fitting(part, width, full=True))
    console = Console(width=width)
    assert console.measure(table).maximum <= width
    assert (len(table.columns) >= 14) == (width == 180)


def heads(part: columns.Part, full: bool) -> list[str]:
    return [column.head for column in columns.fitting(part, 200, full)]


def test_the_screen_shows_a_few_columns_and_all_of_them_on_request() -> None:
    compared = [result(name, [1.0, 1.25], 0.0, 0.5) for name in ("none", "sgp")]
    matrix.compare(compared, no_line)
    [part] = columns.parts(judging.marked(compared))
    assert heads(part, full=False) == ["update", "exposed", "hidden", "sent"]
    assert {"free", "waits", "in flight", "messages", "consensus"} < set(heads(part, full=True))
    compared[1] |= {"topology": "b"}
    assert heads(columns.Part("", compared), full=False) == ["graph", "update", "exposed", "hidden", "sent"]


def beside_none(**computing: float) -> list[matrix.Result]:
    """Updates of `none`, SGP, OSGP and AR-SGD, of which some took longer to compute."""
    took = {"none": 1.25, "sgp": 1.5, "osgp": 1.0, "ar": 2.0}
    compared = [result(name, [seconds, seconds], 0.0, 1.0) for name, seconds in took.items()]
    for each in compared:
        each["computing"] = {"median": computing.get(each["algorithm"], 1.0)}
    matrix.compare(compared, half_a_second)
    return compared


def cells(results: list[matrix.Result], head: str) -> list[str]:
    [column] = [each for each in (*columns.COLUMNS, *columns.LINES, columns.NOTE) if each.head == head]
    return [column.cell(each) for each in results]


def test_no_time_is_below_zero() -> None:
    compared = beside_none()
    assert compared[2]["exposed"] < 0, "the JSON holds what was measured"
    shown = judging.marked(compared)
    assert cells(shown, "exposed") == ["0", "250.0", "0", "750.0"]
    assert cells(shown, "x line") == ["0.000", "0.500", "0.000", "1.500"]
    assert judging.verdict(shown) == (
        "OSGP exposes least of an update, nothing that can be measured, and AR-SGD most, 750.0 ms."
    )
    assert judging.verdict([*shown, shown[2] | {"algorithm": NAME}]) == judging.verdict(shown), "it trains nothing"
    assert "-250" not in columns.markdown("", [each | {"mean_by_rank": [1.0, 1.0]} for each in shown])


def test_a_difference_within_the_spread_of_updates_is_undecided() -> None:
    compared = beside_none()
    for each in compared:
        each["seconds"] = {**each["seconds"], "p10": 0.5, "p90": 2.0}
    assert judging.verdict(judging.marked(compared)) == (
        "Undecided: OSGP exposes nothing that can be measured and AR-SGD 750.0 ms, and single updates of one method "
        "differ by 1500 ms."
    )


def test_a_method_whose_ranks_lacked_cores_is_not_judged() -> None:
    compared = beside_none(ar=1.25)
    shown = judging.marked(compared)
    assert "lacks_cores" not in compared[3], "the JSON stays as it is"
    assert cells(shown, "note") == ["", "", "", "too few cores"]
    assert [cells(shown, head)[3] for head in ("update", "exposed", "hidden", "x line")] == ["2000", "-", "-", "-"]
    assert judging.verdict(shown).endswith("and SGP most, 250.0 ms; not judged for too few cores: AR-SGD.")
    assert columns.spans(shown[3]) == (1.25, 0.75, 0.25), "what the compute took is no communication"
    assert "too few cores" in columns.markdown("", [each | {"mean_by_rank": [1.0, 1.0]} for each in shown])


def test_without_cores_for_no_communication_nothing_is_judged() -> None:
    shown = judging.marked(beside_none(none=1.5, sgp=1.5, osgp=1.5))
    assert cells(shown, "note") == ["too few cores"] * 4
    assert judging.verdict(shown).startswith(
        "No method can be judged: too few cores, as the compute itself took longer"
    )
    assert judging.verdict([each for each in shown if each["algorithm"] == "none"]) == ""


def test_the_compute_without_communication_decides_about_cores() -> None:
    """A real network's compute is what its first algorithm took, which may have lacked cores as well."""
    shown = judging.marked([each | {"compute": 1.5} for each in beside_none(sgp=1.5)])
    assert cells(shown, "note") == ["", "too few cores", "", ""]


def test_waits_of_a_peer_inside_its_compute_are_no_lack_of_cores() -> None:
    [ddp] = [result("ddp-overlap", [2.0, 2.0], 0.75, 1.0) | {"computing": {"median": 1.75}}]
    matrix.compare([ddp], no_line)
    assert cells(judging.marked([ddp]), "note") == [""]
