"""A rank that hangs, is killed or is told to end: every rank ends, soon, and says who waited for whom and why."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
import spawn

DEADLINE = 5.0
MOST = 60


def ends(launcher: str, what: str, transport: str, timeout: float = DEADLINE, **where: int) -> spawn.Outcome:
    """How OSGP on four ranks ended, on all of them, within five seconds of its deadline."""
    more = [f"{name}={value}" for name, value in where.items()]
    command = ["-m", "workers.watched", what, transport, str(timeout), *more]
    if launcher == "mpirun":
        outcome = spawn.run_mpirun(4, command, timeout=MOST)
    else:
        outcome = spawn.run_torchrun(4, command, timeout=MOST, wait=True)
    happened = re.search(rf"{what} at (\S+)", outcome.output)
    assert happened, outcome.output
    assert time.monotonic() - float(happened[1]) < timeout + 5, outcome.output
    assert None not in outcome.codes
    return outcome


SAID_OF_1 = r"process \d+ on this host, was killed by SIGKILL \(exit code 137\), (last|never) heard"


def is_told_of_a_killed_rank(outcome: spawn.Outcome) -> None:
    """At least by the ranks that wait for it, in which round, and what became of it."""
    assert outcome.code
    assert re.search(
        r"rank \d (was told to end by SIGTERM, in step \d+, (waiting in \w+ for round \d+|in \w+|computing) for \S+ s"
        r"|lost a message of round \d+: it .*) \(rank 1, " + SAID_OF_1,
        outcome.output,
    ), outcome.output


@pytest.mark.parametrize(("launcher", "transport"), [("mpirun", "mpi"), ("torchrun", "gloo")])
def test_killed(launcher: str, transport: str) -> None:
    """Without a launcher that ends the others, they notice by themselves."""
    outcome = ends(launcher, "killed", transport)
    is_told_of_a_killed_rank(outcome)
    if launcher == "torchrun":
        assert sorted(outcome.codes) == [-9, 1, 1, 1]
        for rank in (0, 2, 3):
            assert f"rank {rank} lost a message of round" in outcome.output


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(50))
@pytest.mark.parametrize(("launcher", "transport"), [("mpirun", "mpi"), ("mpirun", "gloo"), ("torchrun", "gloo")])
def test_killed_in_any_step(launcher: str, transport: str, trial: int) -> None:
    is_told_of_a_killed_rank(ends(launcher, "killed", transport, step=trial))


@pytest.mark.parametrize(("launcher", "transport"), [("mpirun", "mpi")])
def test_hung(launcher: str, transport: str) -> None:
    """Who waits for it says where it is, and every rank of the host shows its stacks, the one that hangs too."""
    outcome = ends(launcher, "hung", transport, 2)
    assert outcome.code == 1
    assert re.search(
        r"PeerTimeout: rank 3 heard nothing from rank 1 .*in round 5 for 2 s over mpi \(rank 1, process \d+ on this host, "
        r"is in step 6, computing for 2\.\d s, last heard in round 3 \d\.\d s ago\): is the peer alive",
        outcome.output.replace("rank 1 and could not hand its message to rank 1", "rank 1"),
    ), outcome.output
    hung = re.search(r"\[rank 1 on \S+\] in step 6, computing for 2\.\d s\n(\[rank 1 on \S+\] .*\n)+", outcome.output)
    assert hung, outcome.output
    assert "threading.Event().wait(100)" in hung[0]
    assert re.search(r"\[rank \d on \S+\] in step \d, waiting in land for round \d for \d\.\d s\n", outcome.output)
