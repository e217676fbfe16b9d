"""Jobs that write checkpoints, are killed with all their ranks, and are resumed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import spawn
from workers.checkpointed import run

from gossip import testing
from gossip.checkpoint import files

KILL_SIZE = 2
KILL_STEPS = 40


def job(checkpoints: Path, out: Path) -> list[str]:
    return [
        "-m",
        "gossip.launch",
        "--resume",
        str(checkpoints),
        "-m",
        "workers.checkpointed",
        str(out),
        str(KILL_STEPS),
    ]


def resumed(checkpoints: Path) -> list[spawn.Saved]:
    out = checkpoints.with_name(f"{checkpoints.name} out")
    out.mkdir()
    outcome = spawn.run_mpirun(KILL_SIZE, job(checkpoints, out), 120)
    assert outcome.code == 0, outcome.output
    return [dict(np.load(out / f"{rank}.npz")) for rank in range(KILL_SIZE)]


def killed(checkpoints: Path, draw: random.Random, until: range) -> int:
    """Kill a whole job at a random moment after a random step; returns the newest step of its checkpoints."""
    outcome = spawn.kill_mpirun(
        KILL_SIZE, job(checkpoints, checkpoints), f"step {draw.choice(until)}", draw.random() / 20
    )
    assert outcome.code == -9, outcome.output
    return kept(checkpoints)[0] if kept(checkpoints) else 0


def same(ranks: list[spawn.Saved], others: list[spawn.Saved]) -> bool:
    return all(np.array_equal(ranks[r][when], others[r][when]) for r in range(KILL_SIZE) for when in ("now", "settled"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    """The bits of the same job as threads, without a kill."""
    folder = tmp_path_factory.mktemp("undisturbed")
    threads = testing.run(KILL_SIZE, lambda world: run(world, KILL_STEPS, folder))
    return [{when: np.array(numbers) for when, numbers in bits.items()} for bits in threads]


def kept(folder: Path) -> list[int]:
    return [manifest.step for manifest in files.manifests(folder)[0]]
