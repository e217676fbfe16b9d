"""`python -m gossip.status` tells where the ranks of a running job are, and leaves the job alone."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import spawn
import torch

import gossip
import topologies
from gossip import testing
from gossip.observe import snapshot
from gossip.observe.board import Board
from gossip.observe.process import process
from gossip.observe.slot import Slot
from gossip.observe.snapshot import Publisher, Snapshot
from gossip.status import __main__ as command
from gossip.status import screen, table
from gossip.status.ranks import on_this_host

RANK = Snapshot(
    job="5f0c41d2",
    rank=1,
    ranks=4,
    host="node0",
    pid=4711,
    script="train.py",
    state="runs",
    step=412,
    act="computing",
    seconds=31.4,
    waits=False,
    rounds_in_flight=1,
    exposed=0.02,
    hidden=0.97,
    weight=0.5,
)
WAITING = replace(RANK, rank=0, act="waiting in land for round 412", waits=True, exposed=0.5)

ALONE = """
import gossip, sys
world = gossip.init()
print("met", flush=True)
sys.stdin.read()
"""


def wait_until(found: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "nothing of the kind was seen"
        time.sleep(0.05)


@contextmanager
def alone(**env: str) -> Iterator[subprocess.Popen[str]]:
    """A job of one rank, which ends when its stdin is closed."""
    job = subprocess.Popen(
        [sys.executable, "-c", ALONE],
        env=spawn.variables(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "met\n"
        yield job
    finally:
        job.communicate()


# -- real ranks --------------------------------------------------------------------------------------------------------


def test_a_stopped_rank_is_named_while_the_others_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On this host, and in the folder that the ranks write into, where it is silent."""
    told = ["-m", "workers.watched", "stopped", "mpi", "200"]
    with spawn.running_mpirun(4, told, {"GOSSIP_STATUS": str(tmp_path)}) as processes:

        def ranks() -> list[Snapshot]:
            own = processes()
            return sorted((each for each in on_this_host() if each.pid in own), key=lambda each: each.rank)

        def all_wait_for_it() -> bool:
            found = ranks()
            return len(found) == 4 and [each.state for each in found if not each.waits] == ["stopped"]

        wait_until(all_wait_for_it)
        wait_until(lambda: "ranks wait" in table.held_up(ranks()))
        found = ranks()
        assert [each.rank for each in found] == [0, 1, 2, 3]
        assert {each.ranks for each in found} == {4}
        assert {each.script for each in found} == {"watched.py"}
        assert len({each.job for each in found}) == 1
        assert (found[1].state, found[1].act, found[1].step) == ("stopped", "computing", 6)
        assert all(re.fullmatch(r"waiting in land for round \d", found[rank].act) for rank in (0, 2, 3))
        assert found[1].rounds_in_flight == 1
        assert found[1].weight == 0.5
        assert all(each.exposed is not None and each.hidden is not None for each in found)

        listed = subprocess.run(
            [sys.executable, "-m", "gossip.status", "--json"],
            env=spawn.variables({}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        own = [each for each in map(json.loads, listed.stdout.splitlines()) if each["job"] == found[0].job]
        assert listed.returncode == 0, listed.stderr
        assert [each["state"] for each in own] == ["runs", "stopped", "runs", "runs"]
        assert command.main([]) == 0
        assert "3 of 4 ranks wait: rank 1 is computing, stopped by a signal, for " in capsys.readouterr().out

        wait_until(lambda: [each.rank for each in snapshot.read(tmp_path) if each.state == "silent"] == [1])
        assert command.main(["--folder", str(tmp_path)]) == 0
        assert f"job {found[0].job}: 4 of 4 ranks" in capsys.readouterr().out
        os.kill(found[1].pid, signal.SIGCONT)
        wait_until(lambda: min(each.step for each in ranks()) > 10)  # looking has not hurt


def test_jobs_of_a_host_are_told_apart_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    with alone() as first, alone() as second:

        def jobs() -> dict[int, str]:
            return {each.pid: each.job for each in on_this_host() if each.pid in (first.pid, second.pid)}

        assert len({*jobs().values()}) == 2
        memory = [os.readlink(each) for each in Path(f"/proc/{first.pid}/fd").iterdir()]
        [slot] = [name for name in memory if "/gossip-" in name]
        assert slot.endswith(" (deleted)"), "no folder holds it"
        first.kill()
        wait_until(lambda: jobs().keys() == {second.pid})


def test_a_rank_writes_into_the_folder_until_its_script_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed one is silent."""
    old = tmp_path / "00000000-0.json"
    old.write_text("{}")
    os.utime(old, (0, 0))
    (tmp_path / "results.json").write_text("{}")
    with alone(GOSSIP_STATUS=str(tmp_path)) as job:
        [found] = snapshot.read(tmp_path)
        assert (found.pid, found.state, found.act) == (job.pid, "runs", "before its first step")
        assert not old.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    with alone(GOSSIP_STATUS=str(tmp_path)) as job:
        job.kill()
    monkeypatch.setattr(snapshot, "SILENT", -1.0)
    assert [each.state for each in snapshot.read(tmp_path)] == ["silent"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(process, "board", Board(3))
    with pytest.raises(gossip.UsageError, match=r"rank 3 on .* cannot write its status to .*file .*GOSSIP_STATUS"):
        Publisher(tmp_path / "file")


def test_the_slot_holds_the_numbers_of_the_run() -> None:
    def rank(world: gossip.World) -> tuple[Snapshot, Snapshot]:
        parameter = torch.zeros(3, requires_grad=True)
        averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), averager)
        for _ in range(3):
            optimizer.step()
        slot = optimizer.stats.board.slot
        between = Snapshot.of(slot)
        optimizer.settle()
        return between, Snapshot.of(slot)

    for between, settled in testing.run(2, rank):
        assert (between.step, between.rounds_in_flight, between.weight) == (3, 1, 0.5)
        assert (settled.rounds_in_flight, settled.weight) == (0, 1.0)
        assert settled.exposed is not None
        assert settled.hidden is not None
        assert 0 <= settled.exposed <= 1
        assert 0 <= settled.hidden <= 1


# -- processes that are made up ----------------------------------------------------------------------------------------


def processes(folder: Path, slots: Sequence[Slot], **held: tuple[int, str, Sequence[int]]) -> Path:
    """A /proc whose processes have slots open: `p500=(its own number, its state, numbers of the slots)`."""
    for number, slot in enumerate(slots):
        (folder / f"gossip-{number:032x}").write_bytes(bytes(slot))
    for name, (own, state, numbers) in held.items():
        place = folder / "proc" / name[1:]
        (place / "fd").mkdir(parents=True)
        (place / "status").write_text(f"Name:\tpython\nNSpid:\t{name[1:]}\t{own}\n")
        (place / "stat").write_text(f"{name[1:]} (a) b) {state} 1")
        for number in numbers:
            (place / "fd" / str(number)).symlink_to(folder / f"gossip-{number:032x}")
    return folder / "proc"


def test_a_dead_rank_is_seen_while_another_of_its_job_runs(tmp_path: Path) -> None:
    slots = [Slot(0, 7, job=b"a"), Slot(1, 8, job=b"a"), Slot(0, 9, job=b"b")]
    proc = processes(tmp_path, slots, p500=(7, "S", [0, 1]), p600=(99, "S", [2]))
    assert sorted((each.rank, each.state) for each in on_this_host(proc)) == [(0, "runs"), (1, "ended")]


def test_a_process_counts_by_its_world_in_use(tmp_path: Path) -> None:
    slots = [Slot(0, 7, since=5.0, job=b"new"), Slot(0, 7, since=4.0, job=b"old")]
    [found] = on_this_host(processes(tmp_path, slots, p500=(7, "T", [0, 1])))
    assert (found.job, found.state) == ("new", "stopped")


def test_a_slot_of_another_version_is_left_out(tmp_path: Path) -> None:
    proc = processes(tmp_path, [Slot(0, 7)], p500=(7, "S", [0]))
    with (tmp_path / f"gossip-{0:032x}").open("ab") as file:
        file.write(b"more")
    assert on_this_host(proc) == []


def test_without_proc_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(gossip.UsageError, match="by GOSSIP_STATUS, and give it to --folder"):
        on_this_host(tmp_path / "proc")


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_one_part_for_each_job_and_host() -> None:
    far, other = replace(RANK, rank=2, host="node1"), replace(RANK, job="0a", script="b.py", ranks=1, rank=0)
    lines = table.lines([far, WAITING, RANK, other])
    assert [line for line in lines if "job" in line] == [
        "b.py, job 0a: 1 of 1 ranks, on node0",
        "train.py, job 5f0c41d2: 2 of 4 ranks, on node0",
        "train.py, job 5f0c41d2: 1 of 4 ranks, on node1",
    ]
    waiting = "1 of 3 ranks wait: rank 1 is computing, for 31.4 s; rank 2 is computing, for 31.4 s"
    assert lines.count(waiting) == 1


def test_a_healthy_job_has_no_warning() -> None:
    assert table.held_up([RANK, replace(RANK, rank=0)]) == ""
    assert table.held_up([replace(RANK, seconds=0.01), WAITING, replace(WAITING, seconds=0.1)]) == ""


def test_few_of_many_ranks_are_named() -> None:
    said = table.held_up([replace(RANK, rank=rank, state="ended") for rank in range(9)])
    assert said.endswith("rank 3 is computing, its process has ended, for 31.4 s; and 5 more")


def test_both_tables_fit_eighty_columns() -> None:
    pytest.importorskip("rich", reason="the extra `status` is not installed")
    from rich.console import Console

    wide = replace(RANK, rank=1023, step=1_234_567, act="waiting in average for round 1234567", seconds=3e5)
    ranks = [WAITING, RANK, replace(wide, state="stopped"), replace(WAITING, exposed=None, hidden=None, weight=1 / 3)]
    out = io.StringIO()
    Console(file=out, width=80).print(screen.rendered(ranks))
    assert max(map(len, out.getvalue().splitlines())) <= 80
    for cell in ("1234567", "83.3 h", "50%", "0.333", "stopped by"):
        assert cell in out.getvalue()
    assert max(map(len, table.lines([WAITING, RANK]))) <= 80


@pytest.mark.parametrize("rich", [True, False])
def test_watching_ends_with_the_last_rank(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if rich:
        pytest.importorskip("rich", reason="the extra `status` is not installed")
    else:
        monkeypatch.setattr(screen, "find_spec", lambda name: None)
    looks = iter([[WAITING, RANK], [replace(RANK, step=413)], []])
    screen.watch(lambda: next(looks), 0.0)
    said = capsys.readouterr().out
    assert "413" in said
    assert rich or said.count("train.py, job 5f0c41d2") == 2


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--interval", "0"], "0 is no number of seconds from 0.1 to 3600"),
        (["--json", "--once"], "not allowed with argument"),
        (["--folder", "nowhere"], "there is no folder nowhere: the ranks write into that which GOSSIP_STATUS named"),
        (["train.py"], "unrecognized arguments: train.py"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(options)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_exit_code_says_whether_a_rank_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--folder", str(tmp_path)]) == 1
    assert f"no rank of a job is found in {tmp_path}" in capsys.readouterr().err
    monkeypatch.setattr(command, "on_this_host", lambda: [RANK, WAITING])
    assert command.main(["--json"]) == 0
    assert [json.loads(line)["rank"] for line in capsys.readouterr().out.splitlines()] == [0, 1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(command, "watch", lambda look, interval: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command.main(["--interval", "2"]) == 0
