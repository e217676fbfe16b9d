"""Runs in which ranks die: `mpirun --with-ft ulfm python -m workers.deaths FOLDER METHOD 2@5 0@0.5s`.

`staged/osgp` is the method "osgp", spoken as `workers.contract` says. `2@5` kills rank 2 before its step 5, `0@0.5s`
rank 0 half a second after its first step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gossip
import slowmo
import topologies
from workers.contract import speak

STEPS = 14

Make = Callable[[gossip.World, torch.nn.Module], Any]


def wrapped(
    averager: gossip.Averager, model: torch.nn.Module, on_failure: str = "shrink", **options: Any
) -> gossip.GossipOptimizer:
    """Around SGD with momentum."""
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    return gossip.GossipOptimizer(base, averager, on_failure=on_failure, **options)


def push(world: gossip.World, overlap: int = 0, wire: str | None = None) -> gossip.PushSum:
    """Over the exponential graph."""
    return gossip.PushSum(world, topologies.exponential(world.size), overlap=overlap, wire=wire)


METHODS: dict[str, Make] = {
    "sgp": lambda world, model: wrapped(push(world), model),
    "osgp": lambda world, model: wrapped(push(world, 1), model),
    "osgp, int8": lambda world, model: wrapped(push(world, 1, "int8"), model),
    "overlap 2": lambda world, model: wrapped(push(world, 2), model),
    "every third": lambda world, model: wrapped(gossip.Every(3, push(world, 3)), model),
    "ar": lambda world, model: wrapped(gossip.NoAverage(), model, gradients=world),
    "local": lambda world, model: wrapped(gossip.Every(3, gossip.ExactAverage(world)), model),
    "gossip-pga": lambda world, model: wrapped(
        gossip.Chain(push(world, 1), gossip.Every(5, gossip.ExactAverage(world))), model
    ),
    "slowmo": lambda world, model: slowmo.SlowMo(
        wrapped(push(world, 1), model), gossip.ExactAverage(world), period=4, buffers="average"
    ),
    "no average": lambda world, model: slowmo.SlowMo(wrapped(push(world, 1), model), gossip.NoAverage(), period=4),
    "noloco": lambda world, model: slowmo.SlowMo(wrapped(gossip.NoAverage(), model), push(world), period=2),
}


def train(
    world: gossip.World, make: Make, steps: int = STEPS, die: Callable[[int, int], None] = lambda rank, step: None
) -> tuple[int, list[int], float, torch.Tensor, list[gossip.Death]]:
    """`steps` steps on a quadratic that differs between ranks, then what the rank has come to."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    optimizer = make(world, model)
    target = torch.full((2, 3), float(world.rank), dtype=torch.float64)
    for step in range(steps):
        die(world.rank, step)
        optimizer.zero_grad()
        (model.weight - target).square().mean().backward()
        optimizer.step()
    optimizer.settle()
    ranks = [int(rank) for rank in world.all_gather(b"%d" % world.rank)]
    world.close()
    return world.rank, ranks, optimizer.weight, model.weight.detach().clone(), optimizer.deaths


def killer(plans: list[str]) -> Callable[[int, int], None]:
    """A function that ends this process when its time has come, as kill -9 does."""
    when = dict(plan.split("@") for plan in plans)

    def die(rank: int, step: int) -> None:
        plan = when.get(str(rank), "")
        if plan.endswith("s") and step == 0:
            threading.Timer(float(plan[:-1]), os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif plan == str(step):
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def main(folder: str, method: str, steps: str, *plans: str) -> None:
    """Save what each rank that is left has come to."""
    torch.set_num_threads(1)
    world = gossip.init("mpi", timeout=60)
    how, _, name = method.rpartition("/")
    speak(world, how, chunk=24)
    rank, gathered, weight, values, deaths = train(world, METHODS[name], int(steps), killer(list(plans)))
    np.savez(
        Path(folder) / f"{rank}.npz",
        gathered=gathered,
        weight=weight,
        values=values,
        died=[rank for death in deaths for rank in death.ranks],
        seconds=[death.seconds for death in deaths],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
