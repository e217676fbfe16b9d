"""Runs that are repeated, interrupted and resumed: `python -m workers.resume FOLDER mpi gloo` saves their last bits."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oracle
import torch

import gossip
import slowmo
import topologies

STEPS = 17

Base = Callable[[Any], torch.optim.Optimizer]
Wrap = Callable[[gossip.World, torch.optim.Optimizer], Any]

BASES: dict[str, Base] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def irregular(world: gossip.World, overlap: int, wire: str | None = None) -> gossip.PushSum:
    """Push-sum over irregular graphs, so that weights are not 1."""
    graph = topologies.from_networkx(oracle.random_digraphs(world.size, 3, 8))
    return gossip.PushSum(world, graph, overlap=overlap, wire=wire)


def slow_osgp(overlap: int, buffers: str = "maintain", wire: str | None = None) -> Wrap:
    """SlowMo over OSGP."""
    return lambda world, base: slowmo.SlowMo(
        gossip.GossipOptimizer(base, irregular(world, overlap, wire)),
        gossip.ExactAverage(world),
        period=5,
        momentum=0.6,
        buffers=buffers,
    )


WRAPS: dict[str, Wrap] = {
    "slowmo, overlap 1": slow_osgp(1),
    "slowmo, overlap 2": slow_osgp(2, "average"),
    "slowmo, overlap 1, int8": slow_osgp(1, wire="int8"),
    "slowmo, no average": lambda world, base: slowmo.SlowMo(
        gossip.GossipOptimizer(base, irregular(world, 1)), gossip.NoAverage(), period=5, buffers="reset"
    ),
    "noloco": lambda world, base: slowmo.SlowMo(base, irregular(world, 0), period=3, momentum=0.3, nesterov=True),
    "gossip-pga": lambda world, base: gossip.GossipOptimizer(
        base, gossip.Chain(irregular(world, 1), gossip.Every(5, gossip.ExactAverage(world)))
    ),
    "every third": lambda world, base: gossip.GossipOptimizer(base, gossip.Every(3, irregular(world, 3))),
}

FAMILY: dict[str, Wrap] = {
    "streaming": lambda world, base: slowmo.StreamingSlowMo(
        gossip.GossipOptimizer(base, irregular(world, 1)), world, period=5, momentum=0.6, shards=3, delay=2
    ),
    "streaming, local": lambda world, base: slowmo.StreamingSlowMo(
        base, world, period=5, momentum=0.6, shards=3, delay=2
    ),
    "sharded": lambda world, base: slowmo.ShardedSlowMo(
        gossip.GossipOptimizer(base, irregular(world, 1)), world, period=5, momentum=0.6
    ),
    "shared momentum": lambda world, base: slowmo.SharedMomentum(
        gossip.GossipOptimizer(base, irregular(world, 1)), world, period=5, momentum=0.6
    ),
}

SPAWNED = [
    *(("slowmo, overlap 1", base) for base in BASES),
    *((wrap, "adamw") for wrap in ("slowmo, overlap 2", "slowmo, overlap 1, int8")),
    *((wrap, "adamw") for wrap in FAMILY),
]
"""The runs over other transports too, which do not know of base optimizers: one wrap has each of them."""


class Training(NamedTuple):
    """The objects whose state a checkpoint holds."""

    model: torch.nn.Module
    optimizer: Any
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def state(self) -> dict[str, Any]:
        """The state to save."""
        return {part: getattr(self, part).state_dict() for part in self._fields}

    def load(self, state: dict[str, Any]) -> None:
        """Load a saved state in place."""
        for part in self._fields:
            getattr(self, part).load_state_dict(state[part])

    def train(self, rank: int, steps: range, ask: bool = False) -> None:
        """Train on batches that depend on rank and step alone; `ask` makes an unused state after each step."""
        for step in steps:
            generator = torch.Generator().manual_seed(1000 * step + rank)
            x, y = torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator)
            self.optimizer.zero_grad()
            (self.model(x) - y).square().mean().backward()
            self.optimizer.step()
            self.scheduler.step()
            if ask:
                self.state()

    def bits(self) -> dict[str, Any]:
        """Every number of the final state, before and after settling."""
        return {"now": self.numbers(), "settled": (self.optimizer.settle(), self.numbers())[1]}

    def numbers(self) -> list[float]:
        """Every number of the state."""
        return _tensors(self.state())


def _tensors(state: Any) -> list[float]:
    if isinstance(state, torch.Tensor):
        return [float(value) for value in state.double().reshape(-1)]
    if isinstance(state, dict):
        state = list(state.values())
    if isinstance(state, list | tuple):
        return [number for part in state for number in _tensors(part)]
    return [float(state)] if isinstance(state, int | float) else []


def begin(world: gossip.World, wrap: str, base: str, seed: int = 0) -> Training:
    """A new run: model, optimizer and schedule."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    optimizer = (WRAPS | FAMILY)[wrap](world, BASES[base](model.parameters()))
    return Training(model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12))


def straight(world: gossip.World, wrap: str, base: str, ask: bool = False) -> dict[str, Any]:
    """An uninterrupted run."""
    training = begin(world, wrap, base)
    training.train(world.rank, range(STEPS), ask)
    return training.bits()


def interrupted(world: gossip.World, wrap: str, base: str, at: int, folder: Path) -> dict[str, Any]:
    """Save to disk after `at` steps, and continue with new objects, which had other first values."""
    first = begin(world, wrap, base)
    first.train(world.rank, range(at))
    torch.save(first.state(), folder / f"{world.rank}.pt")
    first.train(world.rank, range(at, at + 2))  # what comes after a checkpoint does not count
    first.optimizer.settle()
    second = begin(world, wrap, base, seed=1)
    second.load(torch.load(folder / f"{world.rank}.pt", weights_only=True))
    second.train(world.rank, range(at, STEPS))
    return second.bits()


def rewound(world: gossip.World, wrap: str, base: str, at: int) -> dict[str, Any]:
    """Run to the end, then once more from step `at` on with the same objects."""
    training = begin(world, wrap, base)
    training.train(world.rank, range(at))
    state = copy.deepcopy(training.state())
    training.train(world.rank, range(at, STEPS))
    training.load(state)
    training.train(world.rank, range(at, STEPS))
    return training.bits()


def grown(world: gossip.World, wrap: str, base: str) -> dict[str, Any]:
    """A run that gets one more layer at step 7."""
    training = begin(world, wrap, base)
    training.train(world.rank, range(7))
    tail = torch.nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        tail.weight.copy_(torch.eye(3))
    training.optimizer.add_param_group({"params": tail.parameters(), "lr": 0.01})
    model = torch.nn.Sequential(training.model, tail)
    constant = torch.optim.lr_scheduler.ConstantLR(training.optimizer, 1.0)
    more = Training(model, training.optimizer, constant)
    more.train(world.rank, range(7, STEPS))
    return more.bits()


RUNS: dict[str, Callable[[gossip.World, str, str, Path], dict[str, Any]]] = {
    "once": lambda world, wrap, base, _: straight(world, wrap, base),
    "again": lambda world, wrap, base, _: straight(world, wrap, base, ask=True),
    "resumed": lambda world, wrap, base, folder: interrupted(world, wrap, base, 7, folder),
    "rewound": lambda world, wrap, base, _: rewound(world, wrap, base, 7),
    "grown": lambda world, wrap, base, _: grown(world, wrap, base),
}


def main(folder: str, *transports: str) -> None:
    """Run over each transport in turn."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for transport in transports:
        with gossip.init(transport, timeout=60) as everyone:
            rank = everyone.rank
            for wrap, base in SPAWNED:
                world = everyone.group(range(everyone.size))  # with room for the channels of so many runs
                for run, act in RUNS.items():
                    for when, numbers in act(world, wrap, base, Path(folder)).items():
                        results[f"{transport}/{wrap}/{base}/{run}/{when}"] = numbers
    np.savez(Path(folder) / f"{rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
