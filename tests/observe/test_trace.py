"""A traced run has the same numbers, and its files can be drawn and joined."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import ROOT, run_mpirun

import gossip
import gossip.launch
import slowmo
import topologies
from gossip import testing, trace
from gossip.observe.stats import Stats
from gossip.observe.timeline import MET, Timeline
from gossip.testing import Network
from gossip.transports import Flight

Event = dict[str, Any]
STEPS = 4
DELAY = 0.01


def loaded(path: Path) -> list[Event]:
    events: list[Event] = json.loads(path.read_text())
    return events


def spans(events: Iterable[Event], name: str) -> list[tuple[int, int]]:
    """Begin and end of the complete events with this name, in order."""
    found = [event for event in events if event["ph"] == "X" and event["name"] == name]
    return sorted((event["ts"], event["ts"] + event["dur"]) for event in found)


def flights(events: Iterable[Event]) -> list[Event]:
    return sorted((event for event in events if event.get("cat") == "flight"), key=lambda event: event["ts"])


def overlap(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> int:
    return sum(max(0, min(span[1], end) - max(span[0], begin)) for begin, end in others)


def inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def train(
    world: gossip.World, folder: Path | None, averager: Callable[[gossip.World], gossip.Averager], steps: int = STEPS
) -> list[torch.Tensor]:
    """A few steps whose compute outlasts DELAY; the parameters before they are settled, and after."""
    generator = torch.Generator().manual_seed(world.rank)
    weight = torch.zeros(4, 3, requires_grad=True)
    base = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    optimizer = gossip.GossipOptimizer(base, averager(world), gradients=None, trace_folder=folder)
    for _ in range(steps):
        optimizer.zero_grad()
        (weight * torch.randn(4, 3, generator=generator)).sum().backward()
        time.sleep(1.5 * DELAY)  # stands for a device that computes
        optimizer.step()
    before = weight.detach().clone()
    optimizer.settle()
    return [before, weight.detach().clone()]


def push_sum(overlap: int) -> Callable[[gossip.World], gossip.Averager]:
    return lambda world: gossip.PushSum(world, topologies.exponential(world.size), overlap=overlap)


def slow_network() -> Network:
    return Network(delay=lambda source, target, number: DELAY)


def traced(size: int, folder: Path, averager: Callable[[gossip.World], gossip.Averager]) -> list[list[Event]]:
    testing.run(size, lambda world: train(world, folder, averager), network=slow_network())
    return [loaded(folder / f"rank-{rank}.json") for rank in range(size)]


def check_drawable(events: list[Event]) -> None:
    """The rules of the Trace Event Format and of Perfetto hold: complete events nest on each track."""
    for event in events:
        assert {"ph", "name", "pid", "tid", "ts"} <= event.keys()
        assert event["ph"] in "XMCi"
        assert all(isinstance(event[key], int) and event[key] >= 0 for key in ("ts", "pid", "tid"))
        assert event["ph"] != "X" or (isinstance(event["dur"], int) and event["dur"] >= 0)
        assert event["ph"] not in "MC" or event["args"]
        assert event["ph"] != "C" or all(isinstance(value, (int, float)) for value in event["args"].values())
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in events} == named, "every track has a name"
    assert len({tid for _, tid in named}) == len(named), "viewers name tracks by number alone"
    complete = [event for event in events if event["ph"] == "X"]
    for tid in {event["tid"] for event in complete}:
        open_until: list[int] = []
        track = [event for event in complete if event["tid"] == tid]
        for event in sorted(track, key=lambda event: (event["ts"], -event["dur"])):
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or event["ts"] + event["dur"] <= open_until[-1], "it ends inside what it began in"
            open_until.append(event["ts"] + event["dur"])


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_the_file_holds_every_step(tmp_path: Path, overlap: int) -> None:
    for rank, events in enumerate(traced(3, tmp_path, push_sum(overlap))):
        check_drawable(events)
        assert {event["pid"] for event in events} == {rank}
        [name] = [event["args"]["name"] for event in events if event["name"] == "process_name"]
        assert name.startswith(f"rank {rank} on ")
        for part in ("compute", "step", "land", "update", "average", "post"):
            assert len(spans(events, part)) == STEPS, part
        assert len(spans(events, "merge")) == len(flights(events)) == STEPS
        # compute, step, compute, step, without a gap
        borders = [spans(events, part) for part in ("compute", "step")]
        for (_, computed), (stepped, _) in zip(*borders, strict=True):
            assert computed == stepped
        for (_, stepped), (idle, _) in zip(borders[1], borders[0][1:], strict=False):
            assert stepped == idle
        for part in ("land", "update", "average", "post"):
            for number, span in enumerate(spans(events, part)):
                assert inside(span, borders[1][number]), part


def test_a_flight_is_drawn_from_post_to_arrival(tmp_path: Path) -> None:
    """OSGP's rounds travel during the next step's compute, without a wait; SGP's during its own wait."""
    for hidden in (False, True):
        travelled, names = 0, set()
        for rank, events in enumerate(traced(2, tmp_path / str(hidden), push_sum(int(hidden)))):
            computes, found = spans(events, "compute"), flights(events)
            for number, flight in enumerate(found):
                span = (flight["ts"], flight["ts"] + flight["dur"])
                args = flight["args"]
                assert args["of"] == f"round {number}"
                assert args["to"] == args["from"] == [1 - rank]
                assert args["bytes sent"] == args["bytes received"] == 4 * 12 + 24
                assert flight["dur"] >= 1e6 * DELAY / 2
                exposed, unseen = args["exposed us"], args["hidden us"]
                assert abs(exposed + unseen - flight["dur"]) <= 2
                assert flight["name"] == f"round {'hidden' if unseen > exposed else 'exposed'}"
                assert inside((span[0], span[0]), spans(events, "step")[number])
                # On a busy machine a rank may wait longer for the other than it computes: no shares are asked for.
                during = overlap(span, computes)
                assert during <= unseen + 2, "nobody waits while it computes"
                travelled += during
            names |= {flight["name"] for flight in found}
            assert len({flight["tid"] for flight in found}) == 1, "one at a time"
        assert (travelled > 0) == hidden
        assert f"round {'hidden' if hidden else 'exposed'}" in names


def test_flights_at_once_have_tracks_of_their_own(tmp_path: Path) -> None:
    [events, _] = traced(2, tmp_path, push_sum(2))
    assert len({flight["tid"] for flight in flights(events)}) == 2


def test_the_file_holds_other_phases_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaged gradients, SlowMo's outer step, closures and counters, in a run traced by the variable."""
    monkeypatch.setenv("GOSSIP_TRACE", str(tmp_path))

    def run(world: gossip.World) -> None:
        weight = torch.zeros(4, 3, requires_grad=True)
        base = gossip.GossipOptimizer(torch.optim.SGD([weight], lr=0.1), push_sum(0)(world), gradients=world)
        optimizer = slowmo.SlowMo(base, gossip.ExactAverage(world), period=2)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = weight.square().sum()
            loss.backward()
            return loss

        for _ in range(STEPS):
            optimizer.step(closure)
        optimizer.settle()

    testing.run(2, run)
    for events in (loaded(tmp_path / f"rank-{rank}.json") for rank in range(2)):
        check_drawable(events)
        assert len(spans(events, "gradients")) == STEPS
        assert len(spans(events, "slowmo")) == STEPS // 2
        assert len(spans(events, "compute")) == 2 * STEPS, "between two steps, and a closure in each"
        sums = [flight for flight in flights(events) if flight["name"].startswith("an exact sum")]
        assert len(sums) == STEPS + STEPS // 2
        assert len([event for event in events if event["name"] == MET]) == 1, "SlowMo met nobody new"
        counters = {event["name"]: event["args"] for event in events if event["ph"] == "C"}
        assert counters["push-sum weight"] == {"w": 1.0}
        assert counters["sent in a step"]["bytes"] > 0


def test_a_later_optimizer_appends_to_the_same_file(tmp_path: Path) -> None:
    for runs in (1, 2):
        for events in traced(2, tmp_path, push_sum(1)):
            check_drawable(events)
            assert len(spans(events, "step")) == runs * STEPS


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_a_traced_run_has_the_same_bits(tmp_path: Path, overlap: int) -> None:
    plain = testing.run(3, lambda world: train(world, None, push_sum(overlap)))
    told = testing.run(3, lambda world: train(world, tmp_path, push_sum(overlap)))
    for ours, theirs in zip(plain, told, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GOSSIP_TRACE", raising=False)
    monkeypatch.setattr(Timeline, "of", None)
    testing.run(2, lambda world: train(world, None, push_sum(1)))
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_fails_is_in_the_file(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("as asked")

    def run(world: gossip.World) -> None:
        base = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
        optimizer = gossip.GossipOptimizer(base, push_sum(0)(world), trace_folder=tmp_path)
        optimizer.step()
        base.register_step_pre_hook(fail)
        optimizer.step()

    with pytest.raises(ArithmeticError, match="as asked"):
        testing.run(1, run)
    events = loaded(tmp_path / "rank-0.json")
    check_drawable(events)
    assert [len(spans(events, part)) for part in ("step", "update", "post")] == [2, 2, 1]


class Streamed(Flight):
    """A flight as over NCCL: a wait orders streams, and a later query finds that it has landed."""

    arrived = False

    def done(self) -> bool:
        if self.arrived:
            self.landed = self.landed or time.perf_counter()
        return self.arrived

    def wait(self, timeout: float | None = None) -> None:
        return

    def missing(self) -> tuple[list[int], list[int]]:
        return [], []


def test_a_flight_on_a_device_is_queried_and_not_awaited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeline = Timeline.of(tmp_path, 3, "host")
    [transport] = testing.run(1, lambda world: world.channel())
    stats, flight = Stats(timeline=timeline), Streamed(transport, {}, {}, "an exact sum")
    for step in range(3):
        with stats.step(step):
            if step == 0:
                stats.wait(flight)
        assert len(flights(loaded(tmp_path / "rank-3.json"))) == (step == 2)
        monkeypatch.setattr(Streamed, "arrived", step == 1)
    events = loaded(tmp_path / "rank-3.json")
    check_drawable(events)
    [flown] = flights(events)
    assert flown["name"] == "an exact sum"
    assert flown["args"]["end"] == "no later than this"
    assert flown["ts"] + flown["dur"] <= max(end for _, end in spans(events, "step")) + 1000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is a device of Linux")
def test_a_full_disk_ends_the_timeline_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rank-0.json").symlink_to("/dev/full")
    testing.run(1, lambda world: train(world, tmp_path, push_sum(1)))
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("gossip: rank 0 on ")
    assert "ends its timeline here" in said


def test_an_impossible_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        gossip.UsageError, match=r"rank 0 on .* cannot write its timeline to .*GOSSIP_TRACE or trace_folder="
    ):
        testing.run(1, lambda world: train(world, tmp_path / "file" / "folder", push_sum(1)))


# One picture of all ranks


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit code of `python -m gossip.trace arguments...`; None for success."""
    monkeypatch.setattr(sys, "argv", ["trace", *map(str, arguments)])
    try:
        trace.main()
    except SystemExit as end:
        return end.code
    return None


def barriers(events: Iterable[Event]) -> dict[int, int]:
    return {event["pid"]: event["ts"] for event in events if event["name"] == MET}


def moved(path: Path, clock: str, seconds: float) -> None:
    """Move the times, as if the rank's machine had another clock."""
    changed = []
    for line in path.read_text().splitlines():
        events = json.loads(f"[{line.strip('[],')}]")
        for event in events:
            if event["name"] == MET:
                event["args"]["clock"] = clock
                event["args"]["origin"] += seconds
                event["args"]["wall"] += seconds
        changed.append(json.dumps(events)[1:-1])
    path.write_text("[" + ",\n".join(filter(None, changed)) + "]")


def test_ranks_are_joined_on_one_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = traced(3, tmp_path, push_sum(1))
    assert command(monkeypatch, tmp_path) is None
    said = capsys.readouterr()
    assert ("3 ranks" in said.out, said.err) == (True, "")
    titles, *table = said.out.splitlines()[:-1]
    assert titles.split() == ["steps", "compute", "ms", "step", "ms", "waits", "ms"]
    for rank, line in enumerate(table):
        steps, compute, step, waits = map(float, line.split()[-4:])
        assert line.startswith(f"rank {rank} on ")
        assert steps == STEPS
        assert compute >= 1500 * DELAY
        assert 0 <= waits <= step + 1000 * DELAY, "only the last round may be waited for outside of a step"
    events = loaded(tmp_path / "trace.json")
    check_drawable(events)
    assert len(events) == sum(map(len, ranks))
    assert min(event["ts"] for event in events) == 0
    # They share a clock: what one posted, the other received meanwhile.
    for number in range(STEPS):
        found = [flight for flight in flights(events) if flight["args"]["of"] == f"round {number}"]
        assert len(found) == 3
        assert max(flight["ts"] for flight in found) <= min(flight["ts"] + flight["dur"] for flight in found) + 2

    # Two machines: what stays is the barrier.
    moved(tmp_path / "rank-1.json", "another", 1000.0)
    assert command(monkeypatch, tmp_path, tmp_path / "two.json.gz") is None
    assert "rank-1.json met the others +1000 s after rank-0.json" in capsys.readouterr().err
    with gzip.open(tmp_path / "two.json.gz", "rt") as file:
        two = json.load(file)
    check_drawable(two)
    met = barriers(two)
    assert abs(met[1] - min(met[0], met[2])) <= 1
    assert max(event["ts"] for event in two) < 60e6


def test_an_unfinished_file_is_read_up_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = traced(2, tmp_path, push_sum(1))
    whole = (tmp_path / "rank-1.json").read_bytes()
    lines = [len(json.loads(b"[" + line.strip(b"[],") + b"]")) for line in whole.splitlines()]
    first = whole.index(b"compute")
    for end in (*range(first, len(whole), 571), len(whole) - 2):
        (tmp_path / "rank-1.json").write_bytes(whole[:end])
        assert command(monkeypatch, tmp_path) is None
        events = loaded(tmp_path / "trace.json")
        check_drawable(events)
        assert len(events) >= len(ranks[0]) + sum(lines[: whole[:end].count(b"\n")])
        said = capsys.readouterr().err
        assert end > first or "rank-1.json breaks off in line 3" in said


def test_files_that_cannot_be_joined_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, tmp_path / "none") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert command(monkeypatch, tmp_path) == 2
    assert "holds no rank-0.json" in capsys.readouterr().err
    (tmp_path / "rank-3.json").write_text("[")
    assert command(monkeypatch, tmp_path) == 2
    assert "reached its first step" in capsys.readouterr().err
    traced(2, tmp_path, push_sum(1))
    (tmp_path / "rank-0.json").unlink()
    assert command(monkeypatch, tmp_path) is None
    said = capsys.readouterr().err
    assert "rank-3.json ends before all ranks had met" in said
    assert "there is no rank-0.json, and 2 absent in all" in said
    assert command(monkeypatch, tmp_path, tmp_path / "none" / "out.json") == 2
    assert "cannot be written" in capsys.readouterr().err


# Processes

KILLED = """
import os, signal
import torch
import gossip, topologies

def run(world):
    weight = torch.zeros(2, requires_grad=True)
    averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([weight], lr=0.1), averager)
    for _ in range(5):
        weight.sum().backward()
        optimizer.step()
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.settle()

gossip.testing.run(2, run)
"""

SCRIPT = """
import os, time
import torch
import gossip, topologies

world = gossip.init(timeout=30)
os.chdir("/")
weight = torch.zeros(100, 100, requires_grad=True)
sgd = torch.optim.SGD([weight], lr=0.1)
optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))
for step in range(8):
    weight.sum().backward()
    time.sleep(0.02)
    optimizer.step()
optimizer.settle()
world.close()
"""


@pytest.mark.slow
def test_a_killed_run_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "GOSSIP_TRACE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment, timeout=240)
    assert killed.returncode == -signal.SIGKILL
    for rank, least in ((0, 3), (1, 5)):  # who lands round 3 has heard from who posted it, at the end of a fourth step
        events = loaded(tmp_path / f"rank-{rank}.json")
        check_drawable(events)
        assert len(spans(events, "step")) >= least
    assert command(monkeypatch, tmp_path) is None
    assert barriers(loaded(tmp_path / "trace.json")).keys() == {0, 1}


@pytest.mark.slow
def test_launch_traces_every_rank_under_mpirun(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    # The folder is one of where the job starts; the script goes elsewhere.
    started = f"import os, gossip.launch; os.chdir({str(tmp_path)!r}); gossip.launch.main()"
    outcome = run_mpirun(2, ["-c", started, "--trace", "trace", "script.py"])
    assert outcome.code == 0, outcome.output
    joined = subprocess.run(
        [sys.executable, "-m", "gossip.trace", str(tmp_path / "trace")],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )
    assert (joined.returncode, joined.stderr) == (0, "")
    events = loaded(tmp_path / "trace" / "trace.json")
    check_drawable(events)
    assert barriers(events).keys() == {0, 1}
    for rank in range(2):
        ours = [event for event in events if event["pid"] == rank]
        computes, found = spans(ours, "compute"), flights(ours)
        assert len(computes) == len(spans(ours, "step")) == len(found) == 8
        assert any(overlap((flight["ts"], flight["ts"] + flight["dur"]), computes) for flight in found)


def test_a_file_in_place_of_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["launch", "--trace", str(tmp_path / "file"), "script.py"])
    with pytest.raises(SystemExit) as end:
        gossip.launch.main()
    assert end.value.code == 2
    assert "is a file, and timelines are written into a folder" in capsys.readouterr().err
