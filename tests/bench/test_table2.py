"""`python -m bench table2`: predictions by hand, what is said of differences, and a short real run with its files."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from commands import refusal
from spawn import run_mpirun

from bench.scale import Cluster, Machine, simulate, traffics
from bench.shared import paper as published
from bench.table2 import beside as beside_module
from bench.table2 import command, rows
from bench.table2.beside import Beside, beside
from bench.table2.rows import HALVES, LINE, NBYTES, RATE, ROWS, Line, Measured, Periods
from bench.table2.rows import predicted as by_bytes
from gossip import UsageError
from topologies import exponential

PERIODS = Periods(48, 12)
BY_NAME = {name: PERIODS.method(name) for name in ROWS}


def predicted(name: str, compute: float, line: float, ranks: int) -> float:
    return by_bytes(BY_NAME[name], compute, Line(line, line), ranks)


def measured(line: float = LINE, ranks: int = 8, *, compute: float = 0.271, **seconds: float) -> Measured:
    """As bytes predict it, but for what `seconds` says."""
    exact = {name: predicted(name, compute, line, ranks) for name in ROWS}
    rows: dict[str, dict[str, Any]] = {
        name: {"seconds": {"median": seconds.get(name.replace("-", "_"), each)}} for name, each in exact.items()
    }
    return Line(line, line), rows


def compared(half: str = "imagenet", found: Measured | None = None, ranks: int = 8) -> Beside:
    return beside(half, found or measured(compute=HALVES[half].compute), ranks, PERIODS)


def by_name(half: Beside) -> dict[str, dict[str, Any]]:
    return {result["algorithm"]: result for result in half.results}


# -- predictions -------------------------------------------------------------------------------------------------------


def test_the_message_takes_as_long_as_the_papers() -> None:
    assert (NBYTES, RATE) == (1_024_000, 100e6)
    assert pytest.approx(8 * published.NBYTES / published.RATE) == LINE == pytest.approx(0.08192)


def test_predictions_are_those_of_hand_arithmetic() -> None:
    # 8 ranks: an exact average sends 7/4 of a model.
    by_hand = {
        "none": 300,
        "ar": 300 + 140,
        "ar-slowmo": 300 + 140 + 140 / 48,
        "local": 300 + 140 / 12,
        "local-slowmo": 300 + 140 / 12,
        "sgp": 300 + 80,
        "sgp-slowmo": 300 + 80 + 140 / 48,
        "sgp-noaverage": 300 + 80,
        "osgp": 300,
        "osgp-slowmo": 300 + 140 / 48,
        "osgp-noaverage": 300,
    }
    assert {name: predicted(name, 0.3, 0.08, 8) * 1e3 for name in BY_NAME} == pytest.approx(by_hand)
    # Where a message takes longer than the compute, OSGP takes what the message does.
    assert predicted("osgp", 0.05, 0.08, 8) == 0.08
    # There it pauses no longer, and SGP does.
    assert by_bytes(BY_NAME["osgp"], 0.05, Line(0.08, 0.085), 8) == 0.085
    assert by_bytes(BY_NAME["sgp"], 0.05, Line(0.08, 0.085), 8) == pytest.approx(0.13)
    assert predicted("osgp-slowmo", 0.05, 0.08, 2) == pytest.approx(0.08 + 0.08 / 48)
    assert predicted("ar", 0.05, 0.08, 32) == pytest.approx(0.05 + 0.155)


def test_predictions_are_those_of_the_simulation() -> None:
    chosen = {name: method.traffic() for name, method in BY_NAME.items()}
    assert all(chosen[name] == each for name, each in traffics(48, 12).items() if name in chosen)
    machine = Machine(0.271, rate=RATE)
    found = simulate(chosen, Cluster(machine, 8), exponential(8), NBYTES, steps=48, warmup=48)
    for name, each in found.items():
        assert each.seconds.mean == pytest.approx(predicted(name, 0.271, LINE, 8)), name


def test_every_row_of_the_paper_is_measured_and_every_window_holds_a_period() -> None:
    for half in published.HALVES.values():
        assert set(half.seconds) <= set(BY_NAME)
    for name, method in BY_NAME.items():
        whole = method.periodic or not method.blocking
        assert PERIODS.window(name) == (method.period if whole else 1)
    assert {name for name, method in BY_NAME.items() if method.period == 12} == {"local", "local-slowmo"}


# -- beside the paper --------------------------------------------------------------------------------------------------


def test_the_order_is_the_papers_and_is_checked() -> None:
    assert (compared().order, compared().holds) == (["osgp", "local", "sgp", "ar"], True)
    assert command.said(compared())[0].endswith("OSGP < Local SGD < SGP < AR-SGD: measured too.")
    assert (compared("wmt").order, compared("wmt").holds) == (["local", "sgp", "ar"], True)
    late = compared(found=measured(local=0.4))
    assert not late.holds
    assert "not so here" in command.said(late)[0]
    assert not compared(found=measured(sgp=0.3, local=0.3)).holds


def test_rows_far_from_their_prediction_are_marked() -> None:
    half = compared(found=measured(ar=0.4144 * 1.06, osgp=0.271 * 1.04))
    assert {name for name, result in by_name(half).items() if result["outside"]} == {"ar"}
    text = command.markdown("", [half])
    assert text.count("1.060 !") == 1
    assert "1.040 |" in text


def test_rows_that_differ_from_the_paper_get_a_reason() -> None:
    half = compared()
    why = {name: result["why"] for name, result in by_name(half).items() if result["why"]}
    assert set(why) == {"sgp", "sgp-slowmo", "sgp-noaverage"}
    assert set(why.values()) == {published.SGP_OVERLAPS}
    [sentence] = [note for note in half.notes if published.SGP_OVERLAPS in note]
    assert sentence.startswith("SGP, SGP-SlowMo, SGP-SlowMo-noaverage: The paper's SGP")
    assert any("8 ranks sends 1.75 models, of the paper's 32 nodes 1.94" in note for note in half.notes)


@pytest.mark.parametrize(
    ("name", "over", "outside", "ranks", "word"),
    [
        ("sgp", 1.2, True, 8, "Its bytes do not put it there either"),
        ("ar", 0.8, False, 2, "2 ranks sends 1.00 models"),
        ("ar", 0.8, False, 32, "what else took time in the paper's run"),
        ("local", 0.8, False, 8, "what else took time in the paper's run"),
        ("sgp", 0.8, False, 8, "what else took time in the paper's run"),
    ],
)
def test_reasons_fit_the_row(name: str, over: float, outside: bool, ranks: int, word: str) -> None:
    result = {"over_paper": over, "outside": outside}
    assert word in str(beside_module.why(HALVES["imagenet"], BY_NAME[name], result, ranks))
    assert beside_module.why(HALVES["imagenet"], BY_NAME[name], {**result, "over_paper": 1.09}, ranks) is None


def test_of_wmt_no_milliseconds_are_compared() -> None:
    half = compared("wmt")
    found = by_name(half)
    for name, result in found.items():
        if result["paper"] is not None:
            over = (result["measured"] / found["sgp"]["measured"]) / (result["paper"] / 1.225)
            assert result["over_paper"] == pytest.approx(over), name
    assert found["osgp"]["over_paper"] is found["osgp"]["paper_over_sgp"] is None
    # (7/4 − 1) / (1 − 7/48), and (1648 − 1225) / (1225 − 503)
    assert any("0.88 predicted, 0.88 measured, 0.59 in the paper" in note for note in half.notes)
    assert command.table(half)[0][-2:] == ["over SGP", "paper's over SGP"]
    assert command.drawn_paper(half) * 1.225 == pytest.approx(found["sgp"]["measured"])
    assert command.drawn_paper(compared()) == 1.0


def test_where_transfer_is_longer_than_compute_osgp_may_be_crowded() -> None:
    assert beside_module.CROWDED not in " ".join(compared("wmt").notes)
    crowded = measured(compute=0.05, osgp=0.1)
    assert f"OSGP: {beside_module.CROWDED}" in compared("wmt", crowded).notes
    assert beside_module.CROWDED not in " ".join(compared(found=measured(osgp=0.3)).notes)


def test_on_another_line_nothing_is_compared_with_the_paper() -> None:
    for name in HALVES:
        half = compared(name, measured(line=0.001, compute=HALVES[name].compute))
        assert all(result["over_paper"] is result["why"] is None for result in half.results)
        [note] = half.notes
        assert note.startswith("Not compared with the paper: the line took 1.00 ms")


# -- the command -------------------------------------------------------------------------------------------------------


def as_ranks(monkeypatch: pytest.MonkeyPatch, size: int, local_size: int) -> None:
    for name, value in (("RANK", 0), ("SIZE", size), ("LOCAL_RANK", 0), ("LOCAL_SIZE", local_size)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))


@pytest.mark.parametrize(
    ("ranks", "arguments", "sentence"),
    [
        ((1, 1), [], "one rank has nobody to speak to"),
        ((8, 1), ["--steps", "47"], "--steps 47 is less than one --period 48"),
        ((8, 1), ["--steps", "11", "--period", "4"], "--steps 11 is less than one --local-period 12"),
        ((8, 1), ["--steps", "0"], "'0' is not a whole number of at least 1"),
        ((8, 1), ["--halves", "imagenet,cifar"], "'cifar' is not one of imagenet, wmt"),
        ((8, 1), ["--halves", "wmt,wmt"], "names one of them twice"),
        ((8, 1), ["--out", "/proc/nowhere"], "cannot make the folder /proc/nowhere"),
    ],
)
def test_wrong_options_are_refused(
    ranks: tuple[int, int],
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_ranks(monkeypatch, *ranks)
    assert sentence in refusal(capsys, "table2", *arguments)


def test_ranks_that_share_a_link_are_refused_by_each_of_them() -> None:
    rows.check_shared(["a", "a"])
    rows.check_shared(["a", "b"])
    with pytest.raises(UsageError, match="2 ranks would share b and its link"):
        rows.check_shared(["a", "b", "b"])


def test_warm_up_covers_a_whole_window() -> None:
    given = argparse.Namespace(warmup=4, steps=96)
    counts = {name: rows.warmup_of(name, given, PERIODS) for name in ROWS}
    assert (counts["sgp"], counts["local"], counts["osgp"]) == (4, PERIODS.local, PERIODS.slowmo)


@pytest.mark.slow
def test_a_short_run_and_its_four_files(tmp_path: Path) -> None:
    few = ["--halves", "wmt", "--steps", "5", "--warmup", "1", "--period", "4", "--local-period", "2"]
    outcome = run_mpirun(3, ["-m", "bench", "table2", *few, "--out", str(tmp_path / "out")], 90)
    assert outcome.code == 0, outcome.output[-4000:]
    assert outcome.output.count("wmt: ") == len(ROWS)
    record = json.loads((tmp_path / "out" / "table2.json").read_text())
    assert record["benchmark"] == "table2"
    assert (record["ranks"], record["transport"]) == (3, "mpi")
    [half] = record["halves"]
    assert half["order"]["expected"] == ["local", "sgp", "ar"]
    assert 0 < half["line"] < LINE
    found = {result["algorithm"]: result for result in record["results"]}
    assert list(found) == list(ROWS)
    lines = Line(half["line"], half["line_steady"])
    for name, result in found.items():
        assert result["period"] == (2 if name.startswith("local") else 4)
        assert result["measured"] == result["seconds"]["median"] > result["compute"] == 0.05
        alone = found["none"]["measured"]
        assert result["predicted"] == pytest.approx(by_bytes(Periods(4, 2).method(name), alone, lines, 3))
        assert result["outside"] == (abs(result["over_predicted"] - 1) > 0.05)
        assert len(result["by_rank"]) == 3
        assert result["over_paper"] is None, "the loopback is not the paper's line"
    # Bytes of a window: of an exact average 4/3 of the model, of a round of gossip all of it.
    sent = {name: result["bytes_sent"] / NBYTES for name, result in found.items()}
    averages = {"none": 0, "ar": 4 / 3, "ar-slowmo": 4 / 3 + 1 / 3, "local": 2 / 3, "local-slowmo": 2 / 3}
    gossip = {
        "sgp": 1,
        "sgp-slowmo": 1 + 1 / 3,
        "sgp-noaverage": 1,
        "osgp": 1,
        "osgp-slowmo": 1 + 1 / 3,
        "osgp-noaverage": 1,
    }
    assert sent == pytest.approx(averages | gossip, rel=0.01)
    with (tmp_path / "out" / "table2.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["measured"]) for row in rows] == [result["measured"] for result in found.values()]
    text = (tmp_path / "out" / "table2.md").read_text()
    assert "| SGP-SlowMo-noaverage |" in text
    assert "order of the paper, Local SGD < SGP < AR-SGD" in text
    assert (tmp_path / "out" / "table2.png").read_bytes().startswith(b"\x89PNG")
