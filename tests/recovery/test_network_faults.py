"""Links of emulated hosts that are cut, slowed and gone, while ranks train across them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import spawn
from emulated import real
from workers.steady import train

from gossip import testing

pytestmark = [real, pytest.mark.slow, pytest.mark.timeout(300)]

HOSTS, STEPS = 3, 120
SECONDS = 0.08
"""Of compute in a step: a run takes ten seconds and more."""


def across(
    folder: Path,
    events: list[str],
    timeout: int,
    transport: str,
    longest: int = 120,
    how: Sequence[str] = (),
    more: Sequence[str] = (),
) -> spawn.Outcome:
    """A rank on each of the hosts, with something that happens to their links so long after the start."""
    command = [sys.executable, "-m", "bench", "cluster", "--nodes", str(HOSTS)]
    command += ["--timeout", str(longest), *how]
    command += [part for event in events for part in ("--event", event)]
    command += ["--", sys.executable, "-m", "workers.steady", str(folder), str(STEPS), str(SECONDS), str(timeout)]
    command += more
    began = time.monotonic()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": f"{spawn.ROOT}:{spawn.SUPPORT}", "GOSSIP_TRANSPORT": transport},
        check=False,
    )
    return spawn.Outcome(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def test_a_rank_that_is_killed_on_another_host_is_survived(tmp_path: Path) -> None:
    how = ["--mpirun-options=--with-ft ulfm"]
    outcome = across(tmp_path, [], 30, "mpi", how=how, more=["shrink", "1@50"])
    assert outcome.code == 0, outcome.output[-4000:]
    assert "rank 1 died, seen in step 5" in outcome.output
    assert {path.name: int(np.load(path)["left"]) for path in tmp_path.iterdir()} == {"0.npz": 2, "2.npz": 2}


def test_a_host_that_is_gone_is_noticed_and_not_survived(tmp_path: Path) -> None:
    """Open MPI's agreement among the others does not come about: the deadline ends it."""
    how = ["--mpirun-options=--with-ft ulfm --mca mpi_ft_detector true"]
    outcome = across(tmp_path, ["8s:1=cut"], 20, "mpi", longest=60, how=how, more=["shrink"])
    assert outcome.code != 0, outcome.output[-4000:]
    assert "waited 20 s for the 3 ranks to agree after one of them died" in outcome.output


def undisturbed() -> list[np.ndarray]:
    return [values.numpy() for _, values in testing.run(HOSTS, lambda world: train(world, STEPS, 0))]


@pytest.mark.parametrize("transport", ["mpi", "gloo"])
@pytest.mark.parametrize(
    "events", [["8s:1=cut", "11s:1=up"], ["8s:1=1mbit", "10s:1=up"]], ids=["down for a while", "slowed for a while"]
)
def test_ends_in_the_same_bits(events: list[str], transport: str, tmp_path: Path) -> None:
    """Messages wait until the link carries them."""
    outcome = across(tmp_path, events, 60, transport)
    assert outcome.code == 0, outcome.output[-4000:]
    assert "host1 is" in outcome.output, "nothing happened"
    saved = [np.load(tmp_path / f"{rank}.npz") for rank in range(HOSTS)]
    for rank, values in zip(saved, undisturbed(), strict=True):
        np.testing.assert_array_equal(rank["values"], values)


@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_a_host_that_is_gone_ends_the_wait(transport: str, tmp_path: Path) -> None:
    """With the sentence, by the deadline, on the hosts that are left; mpirun itself waits for its daemon over there."""
    outcome = across(tmp_path, ["8s:1=cut"], 5, transport, longest=40)
    assert outcome.code != 0, outcome.output[-4000:]
    assert "rank 1" in outcome.output
    assert "for 5 s" in outcome.output
    assert not list(tmp_path.glob("*.npz"))
