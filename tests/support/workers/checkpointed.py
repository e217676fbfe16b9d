"""A job that saves after every step: `python -m gossip.launch --resume FOLDER -m workers.checkpointed OUT STEPS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gossip
from workers.resume import Training, begin

WRAP = "slowmo, overlap 1"


def save(folder: Path | None, world: gossip.World, step: int, training: Training, **more: Any) -> None:
    gossip.checkpoint.save(folder, world, step, **training._asdict(), **more)


def load(folder: Path | None, world: gossip.World, training: Training) -> gossip.checkpoint.Saved | None:
    return gossip.checkpoint.load(folder, world, **training._asdict())


def run(world: gossip.World, steps: int, folder: Path | None, wrap: str = WRAP, tells: bool = False) -> dict[str, Any]:
    """Run from the newest checkpoint to the last step; returns every number of the final state."""
    training = begin(world, wrap, "sgd")
    saved = load(folder, world, training)
    assert saved is None or saved.more["position"] == [saved.step, world.rank]
    for step in range(saved.step if saved else 0, steps):
        if tells and world.rank == 0:
            print(f"step {step}", flush=True)
        training.train(world.rank, range(step, step + 1))
        save(folder, world, step + 1, training, position=[step + 1, world.rank])
    return training.bits()


def main(out: str, steps: str) -> None:
    """Run with the folder of --resume."""
    torch.set_num_threads(1)
    with gossip.init(timeout=60) as world:
        bits = run(world, int(steps), None, tells=True)
    np.savez(os.path.join(out, f"{world.rank}.npz"), **bits)


if __name__ == "__main__":
    main(*sys.argv[1:])
