"""`python -m gossip`: the report of an environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import spawn
import torch

import gossip
from gossip.__main__ import facts, main
from gossip.launching.launchers import Launcher

TOPICS = ["gossip-runtime", "python", "libraries", "host", "system", "GPUs", "interfaces", "MPI", "launcher"]

DIFFERENT = """
import os, runpy
os.environ["GLOO_OWN"] = os.environ["OMPI_COMM_WORLD_RANK"]
runpy.run_module("gossip", run_name="__main__")
"""


def rows(output: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in output.splitlines() if len(line.split()) > 1)


def report(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code of `python -m gossip arguments...` in this process; None for success."""
    monkeypatch.setattr(sys, "argv", ["gossip", *arguments])
    try:
        main()
    except SystemExit as end:
        return end.code
    return None


def test_of_this_machine_without_a_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOSSIP_SECRET", "a-very-secret-word")
    monkeypatch.setenv("MASTER_PASSWORD", "a-very-secret-word")
    monkeypatch.setenv("GOSSIP_ODD", "two\nlines, \udcff")
    monkeypatch.setenv("GOSSIP_TRANSPORT", "gloo")
    assert report(monkeypatch) is None
    said = capsys.readouterr().out
    found = rows(said)
    assert list(found)[: len(TOPICS)] == TOPICS
    assert found["gossip-runtime"].startswith(gossip.__version__)
    assert f"torch {torch.__version__}" in found["libraries"]
    assert found["MPI"].startswith("Open MPI")
    assert "GOSSIP_SECRET=(set)" in found["variables"]
    assert "a-very-secret-word" not in said
    assert found["transport"].startswith("gloo")
    assert "GOSSIP_ODD=two lines, " in found["variables"]


def test_a_broken_machine_is_reported_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mpirun").write_text("#!/bin/sh\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr("socket.gethostname", lambda: 1 / 0)
    found = facts(Launcher("none"))
    assert list(found) == [*TOPICS, "transport", "variables"]
    assert found["MPI"].startswith("none (")
    assert found["MPI"].endswith(f"mpirun: {tmp_path / 'mpirun'}")
    assert found["host"] == "unknown: ZeroDivisionError: division by zero"


def test_what_differs_between_ranks_has_their_numbers() -> None:
    outcome = spawn.run_mpirun(2, ["-c", DIFFERENT])
    assert outcome.code == 0, outcome.output
    assert "a death ends the job" in rows(outcome.output)["MPI"]
    lines = [" ".join(line.split()) for line in outcome.output.splitlines()]
    assert "ranks 2, over mpi" in lines
    for rank in (0, 1):
        assert any(f"GLOO_OWN={rank}" in line and line.endswith(f"(rank {rank})") for line in lines), outcome.output
    assert len([line for line in lines if line.startswith("python ")]) == 1, "it is the same on both"


def test_ranks_that_do_not_meet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**place, "MASTER_PORT": str(spawn.free_port())}.items():
        monkeypatch.setenv(name, value)
    assert report(monkeypatch, "--timeout", "0.5") == 1
    said = capsys.readouterr()
    assert "the ranks do not meet: rank 0 did not meet the other 1 ranks" in said.err
    assert rows(said.out)["launcher"] == "torchrun"
