"""A run that a network may disturb: `python -m workers.steady FOLDER STEPS SECONDS TIMEOUT [ON_FAILURE [RANK@STEP]]`.

Each rank computes for SECONDS in every step, by sleep, and gossips a vector that differs from rank to rank.
A rank may be killed in a step.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

import gossip
import topologies

COUNT = 20_000


def train(
    world: gossip.World, steps: int, seconds: float, on_failure: str = "raise", killed: str = ""
) -> tuple[float, torch.Tensor]:
    """OSGP on a quadratic of each rank's own: with "due" a run repeats bit for bit."""
    parameter = torch.zeros(COUNT, dtype=torch.float64, requires_grad=True)
    push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    sgd = torch.optim.SGD([parameter], lr=0.05, momentum=0.5)
    optimizer = gossip.GossipOptimizer(sgd, push_sum, on_failure=on_failure)
    for step in range(steps):
        if killed == f"{world.rank}@{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        optimizer.zero_grad()
        (parameter - world.rank).square().sum().mul(0.5).backward()
        optimizer.step()
    optimizer.settle()
    return optimizer.weight, parameter.detach().clone()


def main(folder: str, steps: str, seconds: str, timeout: str, on_failure: str = "raise", killed: str = "") -> None:
    """Save what the rank has come to."""
    torch.set_num_threads(1)
    world = gossip.init(timeout=float(timeout))
    weight, values = train(world, int(steps), float(seconds), on_failure, killed)
    np.savez(Path(folder) / f"{world.rank}.npz", weight=weight, values=values.numpy(), left=world.survivors.size)
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
