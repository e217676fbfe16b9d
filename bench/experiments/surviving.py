"""One run of `bench survive`, on every rank: `python -m bench.experiments.surviving FOLDER SEED STEPS RANK@STEP...`.

Trains on the digits with OSGP and SlowMo. Each rank named is ended by SIGKILL, at a random moment within that step or
soon after it; the others deal the images out anew among those that are left, and go on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import gossip
import slowmo
import topologies

from ..shared import digits as images
from .training import accuracy, network

BATCH, RATE, PERIOD = 16, 0.05, 12
DEADLINE = 30.0
"""Seconds after which any wait is an error."""


def main(folder: str, seed: str, steps: str, *kills: str) -> None:
    """Train, be killed or not, and leave what this rank has come to in FOLDER."""
    torch.set_num_threads(1)
    world = gossip.init("mpi", timeout=DEADLINE)
    out, last = Path(folder), int(steps)
    doomed = dict(kill.split("@") for kill in kills).get(str(world.rank))
    model = network(int(seed))
    sgd = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    optimizer = slowmo.SlowMo(
        gossip.GossipOptimizer(sgd, osgp, module=model, on_failure="shrink" if kills else "raise"),
        gossip.ExactAverage(world),
        period=PERIOD,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, last)
    data = images.load(int(seed), world)
    order = images.batches(data, BATCH, seed=1000 * int(seed) + world.rank)
    noticed: list[float] = []
    for step in range(last):
        if doomed == str(step):
            threading.Timer(0.02 * random.random(), _die, (out / f"killed-{world.rank}.json",)).start()
        inputs, labels = next(order)
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
        if len(optimizer.deaths) > len(noticed):
            noticed += [time.monotonic()] * (len(optimizer.deaths) - len(noticed))
            left = world.survivors
            data = images.load(int(seed), left)
            order = images.batches(data, BATCH, seed=1000 * int(seed) + 100 * step + left.rank)
    optimizer.settle()
    left = world.survivors
    mean = torch.nn.utils.parameters_to_vector(model.parameters()).detach() * optimizer.weight
    left.channel().sum([mean]).wait()
    weight = sum(json.loads(held) for held in left.all_gather(json.dumps(optimizer.weight).encode()))
    torch.nn.utils.vector_to_parameters(mean / left.size, model.parameters())
    found = {
        "left": left.size,
        "weight": weight,
        "accuracy": accuracy(model, data),
        "deaths": [death._asdict() for death in optimizer.deaths],
        "noticed": noticed,
    }
    (out / f"rank-{world.rank}.json").write_text(json.dumps(found))
    world.close()


def _die(note: Path) -> None:
    note.write_text(json.dumps(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
