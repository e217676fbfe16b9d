"""`python -m gossip`: the report of an environment."""

from __future__ import annotations

import subprocess
import sys

import spawn
import torch

import gossip

TOPICS = ["gossip-runtime", "python", "libraries", "host", "system", "GPUs", "interfaces", "MPI", "launcher"]

DIFFERENT = """
import os, runpy
os.environ["GLOO_OWN"] = os.environ["OMPI_COMM_WORLD_RANK"]
runpy.run_module("gossip", run_name="__main__")
"""


def rows(output: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in output.splitlines())


def test_of_this_machine_without_a_launcher() -> None:
    outcome = spawn.run_torchrun(1, ["-m", "gossip"], env={"WORLD_SIZE": "1", "GOSSIP_SECRET": "abc"})
    assert outcome.code == 0, outcome.output
    found = rows(outcome.output)
    assert list(found)[: len(TOPICS)] == TOPICS
    assert found["gossip-runtime"].startswith(gossip.__version__)
    assert f"torch {torch.__version__}" in found["libraries"]
    assert found["MPI"].startswith("Open MPI")
    assert "GOSSIP_SECRET=(set)" in found["variables"]
    assert "abc" not in outcome.output


def test_what_differs_between_ranks_has_their_numbers() -> None:
    outcome = spawn.run_mpirun(2, ["-c", DIFFERENT])
    assert outcome.code == 0, outcome.output
    assert "a death ends the job" in rows(outcome.output)["MPI"]
    lines = [" ".join(line.split()) for line in outcome.output.splitlines()]
    assert "ranks 2, over mpi" in lines
    for rank in (0, 1):
        assert any(f"GLOO_OWN={rank}" in line and line.endswith(f"(rank {rank})") for line in lines), outcome.output
    assert len([line for line in lines if line.startswith("python ")]) == 1, "it is the same on both"


def test_ranks_that_do_not_meet() -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ended = subprocess.run(
        [sys.executable, "-m", "gossip", "--timeout", "1"],
        env=spawn._environment({**place, "MASTER_PORT": str(spawn.free_port())}),
        capture_output=True,
        text=True,
        cwd=spawn.ROOT,
        timeout=240,
    )
    assert ended.returncode == 1
    assert "the ranks do not meet: rank 0 did not meet the other 1 ranks" in ended.stderr
    assert rows(ended.stdout)["launcher"] == "torchrun"
