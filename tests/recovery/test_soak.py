"""Jobs in which ranks are killed at random, one after another, for as long as is asked: `make soak`.

SOAK is the seconds that it takes, SOAK_SEED what is drawn from; each job is printed, so that it can be had again.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
import spawn
import torch
from killing import KILL_STEPS, killed, resumed, same, undisturbed
from workers.deaths import METHODS

__all__ = ["undisturbed"]  # a fixture

SECONDS = float(os.environ.get("SOAK", "600"))
SEED = int(os.environ.get("SOAK_SEED", "0"))


def go_on_without(folder: Path, draw: random.Random) -> str:
    """Some of the ranks die, before a step or at a moment, and the others come to their end, which is the same."""
    size = draw.randint(2, 6)
    victims = draw.sample(range(size), draw.randint(1, min(3, size - 1)))
    plans = [f"{rank}@{draw.choice([f'{draw.random():.3f}s', str(draw.randrange(1, 600))])}" for rank in victims]
    method = draw.choice(sorted(METHODS))
    command = ["-m", "workers.deaths", str(folder), method, "2000", *plans]
    outcome = spawn.run_mpirun(size, command, options=("--with-ft", "ulfm"))
    what = f"{size} ranks, {method}, {' '.join(plans)}"
    assert outcome.code == 0, f"{what}: {outcome.output[-4000:]}"
    left = {int(file.stem): np.load(file) for file in folder.glob("*.npz")}
    assert set(left) == set(range(size)) - set(victims), what
    for saved in left.values():
        assert sorted(saved["died"]) == sorted(victims), what
        assert set(saved["gathered"]) == set(left), what
        assert np.isfinite(saved["values"]).all(), what
    assert sum(float(saved["weight"]) for saved in left.values()) == pytest.approx(len(left), abs=1e-9), what
    return f"{what}: {len(left)} went on, back in {max(max(saved['seconds']) for saved in left.values()):.3f} s"


def take_up(folder: Path, draw: random.Random, undisturbed: list[spawn.Saved]) -> str:
    """The whole job is killed, once or twice, and taken up from the checkpoints that it has left."""
    checkpoints = folder / "run"
    checkpoints.mkdir()
    newest = [0]
    for _ in range(draw.randint(1, 2)):
        if newest[-1] < KILL_STEPS - 8:
            newest.append(killed(checkpoints, draw, range(newest[-1], KILL_STEPS - 5)))
    assert same(resumed(checkpoints), undisturbed), f"killed with steps {newest[1:]} on disk"
    return f"killed with steps {newest[1:]} on disk, and resumed to the same bits"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_soak(tmp_path: Path, undisturbed: list[spawn.Saved]) -> None:
    torch.set_num_threads(1)
    draw, until, number = random.Random(SEED), time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        folder = tmp_path / str(number)
        folder.mkdir()
        job = go_on_without(folder, draw) if draw.random() < 0.7 else take_up(folder, draw, undisturbed)
        print(f"{number}: {job}", flush=True)
        number += 1
