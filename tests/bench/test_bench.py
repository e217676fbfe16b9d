"""The measurements run under mpirun, write what they say they write, and refuse what cannot be measured."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refusal
from spawn import LIMIT, run_mpirun

from bench.__main__ import COMMANDS, main
from bench.experiments import overhead, overlap, straggler
from bench.gpu import training
from bench.measuring import models
from bench.shared import options, statistics
from bench.update import judging
from gossip import UsageError
from gossip.launching.launchers import Launcher, detect


def bench(size: int, *arguments: str, timeout: float = LIMIT, module: str = "workers.bench") -> str:
    outcome = run_mpirun(size, ["-m", module, *arguments], timeout)
    assert outcome.code == 0, outcome.output[-4000:]
    return outcome.output


def check_record(path: Path, command: str, ranks: int) -> dict[str, Any]:
    """The fields of every record."""
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["benchmark"] == command
    assert record["ranks"] == ranks
    assert f"-m bench {command}" in record["command"]
    assert set(record["machine"]) == {"platform", "processor", "cores", "threads", "gpu"}
    assert {"python", "torch", "gossip-runtime"} <= set(record["versions"])
    assert record["date"].endswith("+00:00")
    assert isinstance(record["settings"], dict)
    assert record["results"]
    return record


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    offered = {line.split()[0] for line in said.splitlines() if line.startswith("    ") and line[4] != " "}
    assert offered == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_the_command_and_its_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) > 15
    assert "default:" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["digits", "--steps", "0"], "'0' is not a whole number of at least 1"),
        (["digits", "--steps", "5"], "--steps 5 is less than one --period 12"),
        (["digits", "--batch", "2000"], "more than the 1438 images that each of 1 ranks has"),
        (["digits", "--lr", "-1"], "'-1' is not above 0"),
        (["digits", "--out", "/proc/nowhere"], "cannot make the folder /proc/nowhere"),
        (["update", "--sizes", "1MB,2"], "'2' is not a size"),
        (["update", "--compute", "nan"], "'nan' is not a number"),
        (["update", "--compute", "-1"], "'-1' seconds are less than none"),
        (["update", "--algorithms", "sgp,magic"], "'magic' is not one of none, ar"),
        (["update", "--algorithms", "sgp,sgp"], "names one of them twice"),
        (["update", "--sizes", "1MB,1000kB"], "names one of them twice"),
        (["update", "--transport", "pigeon"], "invalid choice: 'pigeon'"),
        (["overlap"], "one rank has nobody to speak to"),
        (["straggler"], "one rank has nobody to wait for"),
        (["straggler", "--methods", "osgp,soon"], "'soon' is not one of ar, osgp"),
        (["overhead", "--rounds", "many"], "'many' is not a whole number"),
        (["fly"], "invalid choice: 'fly'"),
        # A wrong option is refused before a missing one.
        (["straggler", "--topology", "rign"], "--topology there is no topology 'rign'; did you mean ring?"),
        (["straggler", "--steps", "3", "--slow", "4"], "--steps 3 are too few"),
        (["straggler", "--transport", "nccl"], "--transport nccl cannot land by arrival"),
        (["digits", "--batch", "2000", "--topology", "rign"], "--topology there is no topology 'rign'"),
        (["table2", "--steps", "5"], "--steps 5 is less than one --period 48"),
        (["cluster", "--nodes", "1"], "--nodes 1 is no number of hosts"),
        (["scale", "--topology", "rign", "--ranks-per-host", "2"], "--topology there is no topology 'rign'"),
        (["scale", "--picture", "a.docx", "--slow-hosts", "1"], "--picture a.docx: its name ends in none of"),
        (["gpu", "--ranks", "1"], "--ranks 1: a rank alone has nobody to speak to"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("command", "option", "file"),
    [
        ("update", "--json", "there"),
        ("update", "--out", "there/update.png"),
        ("overhead", "--json", "there"),
        ("scale", "--picture", "there.png"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_measuring(
    command: str, option: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).mkdir(parents=True)
    given = tmp_path / ("there" if option == "--out" else file)
    assert f"{tmp_path / file} is a folder" in refusal(capsys, command, option, str(given))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("arguments", [["overhead"], ["digits", "--steps", "5"], ["--help"], []])
def test_only_rank_0_prints(
    rank: int, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", rank), ("SIZE", 2), ("LOCAL_RANK", rank), ("LOCAL_SIZE", 2)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    with contextlib.suppress(SystemExit):
        main(arguments)
    said = capsys.readouterr()
    assert bool(said.out + said.err) == (rank == 0)


def test_sizes_are_decimal() -> None:
    assert options.listed(options.size)("64kB,1.024MB,1GB,4B") == [64_000, 1_024_000, 10**9, 4]


def test_periodic_work_is_seen_by_the_median_over_windows() -> None:
    seconds = [1.0, 1.0, 1.0, 5.0] * 6
    assert statistics.summary(seconds).median == 1.0
    assert statistics.summary(seconds, window=4) == statistics.Summary(2.0, 2.0, 2.0, 2.0)


@pytest.mark.parametrize("kind", models.KINDS)
def test_compute_takes_about_as_long_as_asked(kind: str) -> None:
    compute = models.KINDS[kind](models.times_for(kind, 0.1))
    began = time.process_time()
    compute()
    assert 0.03 < time.process_time() - began < 0.5


def test_an_unwritable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for root, before anything is measured."""

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match=r"cannot write to the folder .*: Read-only file system"):
        options.check_writable(tmp_path / "x.json", detect({}))


def test_update_and_its_record(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "update.json"
    chosen = ["none", "ar", "exact", "sgp", "osgp", "local"]
    few = ["--compute", "0.001", "--steps", "4", "--period", "2", "--warmup", "1"]
    said = bench(2, "update", "--algorithms", ",".join(chosen), "--sizes", "40kB", *few, "--json", str(path))
    assert "exposed: update" in " ".join(said.split())
    record = check_record(path, "update", ranks=2)
    assert record["transport"] == "mpi"
    found = {result["algorithm"]: result for result in record["results"]}
    assert set(found) == {*chosen, "torch-allreduce"}
    for result in found.values():
        assert set(result["seconds"]) == {"median", "p10", "p90", "mean"}
        assert result["seconds"]["median"] > 0.001
        assert result["exposed"] == result["seconds"]["median"] - result["none"]["seconds"]
        # Windows of two where there is no barrier, or where nothing happens every second time.
        if result["window"] == 1:
            assert result["none"]["seconds"] == found["none"]["seconds"]["median"]
    assert {name for name, result in found.items() if result["window"] == 2} == {"osgp", "local"}
    # One message of everything to one peer, and an envelope beside it.
    assert 40_000 < found["sgp"]["bytes_sent"] < 40_100
    assert found["sgp"]["messages_sent"] == found["osgp"]["messages_sent"] == 2
    assert found["none"]["bytes_sent"] == found["none"]["waits"]["median"] == 0
    # Between two ranks an exact average sends as much as gossip does; local SGD every second time.
    assert found["exact"]["bytes_sent"] == pytest.approx(40_000, rel=0.01)
    assert found["local"]["bytes_sent"] == pytest.approx(20_000, rel=0.01)


def test_digits_and_their_record(tmp_path: Path) -> None:
    few = ["--steps", "26", "--period", "5", "--algorithms", "osgp,local"]
    said = bench(2, "digits", *few, "--out", str(tmp_path), module="bench")
    assert said.count("test accuracy") == 2  # the table's head and its legend, from one rank
    record = check_record(tmp_path / "digits.json", "digits", ranks=2)
    assert list(record["results"]) == ["osgp", "local"]
    for run in record["results"].values():
        assert len(run["loss"]) == 26
        assert 0 <= run["accuracy"] <= 1
        assert 0 < run["consensus"] < 1
        assert run["bytes_sent"] > 0
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_overlap_and_its_record(tmp_path: Path) -> None:
    path = tmp_path / "overlap.json"
    few = ["--compute", "python", "--seconds", "0.01", "--size", "400kB", "--steps", "5"]
    said = bench(2, "overlap", *few, "--json", str(path))
    assert "OSGP waits" in said or "too few cores for" in said
    record = check_record(path, "overlap", ranks=2)
    assert set(record["results"]) == {"none", "sgp", "osgp"}
    assert record["results"]["sgp"]["waits"] > 0
    assert record["hidden"] <= 1


@pytest.mark.slow
def test_straggler_and_its_record(tmp_path: Path) -> None:
    path = tmp_path / "straggler.json"
    few = ["--methods", "osgp,early-4,any", "--steps", "12", "--compute", "0.002", "--slow", "3", "--repeats", "2"]
    said = bench(3, "straggler", *few, "--json", str(path))
    assert "pace kept" in said
    record = check_record(path, "straggler", ranks=3)
    assert set(record["results"]) == {"osgp", "early-4", "any"}
    for name, method in record["results"].items():
        assert method["pace"] > 0
        for run in method["runs"]:
            assert run["slow"]["steps_by_rank"] == [12, 12, 4 if name == "any" else 12]
            for course in run.values():
                assert abs(course["mass_error"]) < 1e-9
                assert 0 <= course["accuracy"] <= 1


def test_optimizers_hold_the_expected_memory() -> None:
    for found in overhead.footprints():
        assert found["held"] == pytest.approx(found["expected"], abs=0.01), found["algorithm"]


def test_the_model_of_the_step_is_resnet50() -> None:
    with torch.device("meta"):
        assert len(list(training.resnet50().parameters())) == 161


@pytest.mark.slow
def test_overhead_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["overhead", "--rounds", "3", "--sizes", "1MB", "--json", str(tmp_path / "overhead.json")]
    monkeypatch.setattr(sys, "argv", ["bench", *given])
    assert main(given) == 0
    record = check_record(tmp_path / "overhead.json", "overhead", ranks=1)
    assert record["results"]["step"]["parameters"] == 25_557_032


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_overlap_hides_the_transfer_behind_sleep(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "overlap.json"
    bench(4, "overlap", "--transport", transport, "--json", str(path))
    assert check_record(path, "overlap", ranks=4)["hidden"] >= 0.95


@pytest.mark.slow
def test_every_algorithm_learns_the_digits(tmp_path: Path) -> None:
    bench(4, "digits", "--out", str(tmp_path))
    record = check_record(tmp_path / "digits.json", "digits", ranks=4)
    assert len(record["results"]) == 6
    assert all(run["accuracy"] >= 0.95 for run in record["results"].values())


def test_negative_differences_are_shown_as_zero() -> None:
    seconds = {"bare": 0.02, "sgp": 0.0197, "difference": -0.000255, "allowed": 0.001}
    rows = overhead._step_rows({"in buckets": seconds, "outside of buckets": seconds})
    assert [row[3] for row in rows] == ["0", "0"]
    osgp = dict.fromkeys(("seconds", "waits", "waits_p90", "in_flight", "bytes_sent", "threads_cpu"), 0.1)
    assert overlap._row("osgp", {**osgp, "exposed": -0.0003})[2] == "0"
    asked = argparse.Namespace(compute=1, pause=8, steps=8)
    paused = straggler.figures([dict.fromkeys(straggler.COURSES, RUN)], asked)
    assert paused["pauses_cost"] < 0
    assert straggler._row({"title": "AR-SGD", **paused})[5] == "0.0 %"


RUN = {f"{name}_by_rank": [1.0, 1.0] for name in ("seconds", "waits", "weight")} | {"accuracy": 0.5}


def test_overlap_and_straggler_name_the_methods_whose_ranks_lacked_cores() -> None:
    computing = {"none": 0.4, "sgp": 0.41, "osgp": 0.5}
    assert overlap.crowded(computing, argparse.Namespace(compute="python", seconds=0.1)) == ["osgp"]
    assert overlap.crowded(computing, argparse.Namespace(compute="sleep", seconds=0.37)) == [*computing]
    even = {"title": "AR-SGD", "seconds_even": 0.1, "waits_even": 0.4}
    osgp = {"title": "OSGP", "seconds_even": 0.07, "waits_even": 0.0}
    assert straggler.crowded({"ar": even}) == straggler.crowded({}) == ""
    assert straggler.crowded({"ar": even, "osgp": osgp}).startswith("too few cores for OSGP: ")


def test_ranks_sharing_cores_get_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "bound", lambda: 2)
    assert judging.sharing(Launcher("openmpi", size=4, local_size=2)) == ""
    assert judging.sharing(Launcher("openmpi", size=4, local_size=4)).startswith("4 ranks share 2 cores here, ")
