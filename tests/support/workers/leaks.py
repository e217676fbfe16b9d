"""Optimizers that come and go in one process: `python -m workers.leaks FOLDER COUNT WIDTH mpi gloo` on two ranks."""

from __future__ import annotations

import ctypes
import gc
import mmap
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import gossip
import slowmo
import topologies
from gossip import Chain, Every, ExactAverage, GossipOptimizer, NoAverage, PushSum
from gossip.transports import deadlines

Optimizer = Any  # a GossipOptimizer, or one of slowmo's
Make = Callable[[gossip.World, torch.nn.Module], Optimizer]

STEPS = 3
PATIENCE = 10.0
"""Seconds for a thread that has just moved a message along to let go of it."""


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def push_sum(on_failure: str = "raise", **options: Any) -> Make:
    def make(world: gossip.World, model: torch.nn.Module) -> GossipOptimizer:
        averager = PushSum(world, topologies.exponential(world.size), **options)
        return GossipOptimizer(sgd(model), averager, on_failure=on_failure)

    return make


MAKERS: dict[str, Make] = {
    "sgp": push_sum(),
    "osgp": push_sum(overlap=1),
    "early": push_sum(overlap=2, landing="early"),
    "any": push_sum(overlap=1, landing="any"),
    "shrink": push_sum(overlap=1, on_failure="shrink"),
    "wire": push_sum(overlap=1, wire="bfloat16"),
    "exact": lambda world, model: GossipOptimizer(sgd(model), ExactAverage(world)),
    "none": lambda world, model: GossipOptimizer(sgd(model), NoAverage()),
    "gossip-pga": lambda world, model: GossipOptimizer(
        sgd(model), Chain(PushSum(world, topologies.exponential(world.size)), Every(2, ExactAverage(world)))
    ),
    "all-reduce": lambda world, model: GossipOptimizer(
        sgd(model), NoAverage(), gradients=world, module=model, module_buffers="average"
    ),
    "masters": lambda world, model: GossipOptimizer(
        sgd(model.bfloat16()), PushSum(world, topologies.exponential(world.size)), module=model, master_weights=True
    ),
    "slowmo": lambda world, model: slowmo.SlowMo(push_sum()(world, model), ExactAverage(world), 2, buffers="average"),
    "slowmo, no average": lambda world, model: slowmo.SlowMo(push_sum()(world, model), NoAverage(), 2),
    "streaming": lambda world, model: slowmo.StreamingSlowMo(push_sum()(world, model), world, 2),
    "sharded": lambda world, model: slowmo.ShardedSlowMo(push_sum()(world, model), world, 2),
    "shared momentum": lambda world, model: slowmo.SharedMomentum(push_sum()(world, model), world, 2),
}


OVER_WIRES = ("osgp", "early", "any", "gossip-pga", "all-reduce", "streaming", "sharded")
"""Of these, what is tried between processes."""


def train(optimizer: Optimizer, model: torch.nn.Module, inputs: torch.Tensor) -> None:
    """A few steps, and nothing in flight afterwards."""
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(inputs).float().square().sum().backward()
        optimizer.step()
    optimizer.settle()


def parts(optimizer: Optimizer, model: torch.nn.Module) -> Iterator[tuple[str, object]]:
    """The objects that have to go with an optimizer and its model, by name."""
    while isinstance(optimizer, gossip.optimizer.Wrapper):
        yield type(optimizer).__name__, optimizer
        yield f"averager of {type(optimizer).__name__}", optimizer.averager
        base, optimizer = optimizer, optimizer.optimizer
    yield "wrapped optimizer", optimizer
    yield "mass", base.mass
    yield "module", model
    for number, bucket in enumerate(base.mass.buckets):
        yield f"bucket {number}", bucket
        yield f"values of bucket {number}", bucket.values
    for name, parameter in model.named_parameters():
        yield f"parameter {name}", parameter


def load_torch() -> None:
    """Torch loads modules with the first optimizer of a process, and their frames keep it."""
    torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1).zero_grad()


def outlived(world: gossip.World, make: Make) -> list[str]:
    """Names of the objects that are alive once an optimizer and its model have been deleted, without a collector."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))
    optimizer = make(world, model)
    train(optimizer, model, torch.ones(3, 6, dtype=next(model.parameters()).dtype))
    gone = threading.Semaphore(0)
    watched = {name: weakref.ref(each, lambda _: gone.release()) for name, each in parts(optimizer, model)}
    del optimizer, model
    if all(gone.acquire(timeout=PATIENCE) for _ in watched):
        return []
    return sorted(name for name, each in watched.items() if each() is not None)


class Measured(NamedTuple):
    """The resources of this process: Python objects, threads, and MB of memory."""

    objects: int
    threads: int
    memory: float


def measure() -> Measured:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6
    return Measured(len(gc.get_objects()), threading.active_count(), memory)


def one_after_another(world: gossip.World, make: Make, count: int, width: int = 4, every: int = 0) -> list[Measured]:
    """Make `count` optimizers of `width`² parameters; measure after each `every` of them, or twice."""
    measured = []
    for number in range(1, count + 1):
        model = torch.nn.Linear(width, width)
        optimizer = make(world, model)
        train(optimizer, model, torch.ones(1, width))
        del optimizer, model
        if number % (every or count // 2) == 0:
            world.barrier()
            measured.append(measure())
            world.barrier()
    return measured


def main(folder: str, count: str, width: str, *names: str) -> None:
    """On the transports `names`, what outlives an optimizer, and what `count` of them leave. Then rank 1 ends early."""
    torch.set_num_threads(1)
    load_torch()
    gc.disable()
    saved: dict[str, Any] = {}
    for name in names:
        world = gossip.init(name, timeout=60)
        for kind in OVER_WIRES:
            saved[f"{name} outlived by {kind}"] = outlived(world, MAKERS[kind])
        saved[f"{name} measured"] = one_after_another(world, MAKERS["osgp"], int(count), int(width))
    np.savez(Path(folder) / f"{world.rank}.npz", **saved)
    deadlines.GRACE = 1.0
    if world.rank == 0:
        world.channel().post({}, {1: [torch.zeros(1)]}, "round 7").wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
