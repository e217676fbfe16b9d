"""Masters, and the same in float32 by hand: `python -m workers.masters FOLDER` saves the masters of one run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import torch

import gossip
import slowmo
import topologies

STEPS = 9

Base = Callable[[Any], torch.optim.Optimizer]


def model_of(dtype: torch.dtype, seed: int = 0, outputs: int = 8) -> torch.nn.Module:
    """Parameters of multiples of 8 elements, so that 16 and 32 bits lie alike in their buckets."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model.to(dtype)


class Mixed(torch.nn.Module):
    """Three dtypes, and one matrix in two places."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 12).to(torch.bfloat16)
        self.norm = torch.nn.LayerNorm(12)
        self.middle = torch.nn.Linear(12, 9, bias=False).to(torch.float16)
        self.back = torch.nn.Linear(9, 8).to(torch.float16)
        self.head = torch.nn.Linear(8, 12, bias=False).to(torch.bfloat16)
        self.head.weight = self.first.weight
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def rest(self) -> Iterator[torch.nn.Parameter]:
        """All but the first layer."""
        for part in (self.norm, self.middle, self.back):
            yield from part.parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Casts between the layers."""
        x = self.norm(self.first(x.bfloat16()).float())
        return self.head(self.back(self.middle(x.half())).bfloat16()).float()


def loss_of(model: torch.nn.Module, rank: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    x, y = torch.randn(8, 8, generator=generator), torch.randn(8, 8, generator=generator)
    return (model(x.to(next(model.parameters()).dtype)).float() - y).square().mean()


def irregular(world: gossip.World, overlap: int, wire: str | None = None) -> gossip.PushSum:
    """With weights that are not 1."""
    graph = topologies.from_networkx(oracle.random_digraphs(world.size, 3, 8))
    return gossip.PushSum(world, graph, overlap=overlap, wire=wire)


def start(
    world: gossip.World,
    base: torch.optim.Optimizer,
    overlap: int = 0,
    wire: str | None = None,
    averaged: str | None = None,
    **options: Any,
) -> slowmo.SlowMo:
    """SlowMo over push-sum with weights that are not 1; over the nodes, where gradients are averaged inside."""
    among = world.across if averaged == "node" else world
    gradients = {None: None, "node": world.node, "world": world}[averaged]
    optimizer = gossip.GossipOptimizer(base, irregular(among, overlap, wire), gradients=gradients, **options)
    return slowmo.SlowMo(optimizer, gossip.ExactAverage(among), period=4, momentum=0.5)


Start = Callable[..., Any]

OTHERS: dict[str, Start] = {
    "sharded": lambda world, base, **options: slowmo.ShardedSlowMo(
        gossip.GossipOptimizer(base, irregular(world, 1), **options), world, period=4
    ),
    "streaming": lambda world, base, **options: slowmo.StreamingSlowMo(
        gossip.GossipOptimizer(base, gossip.NoAverage(), **options), world, period=4, shards=3, delay=2
    ),
    "gossip-pga, int8": lambda world, base, **options: gossip.GossipOptimizer(
        base, gossip.Chain(irregular(world, 1, "int8"), gossip.Every(3, gossip.ExactAverage(world))), **options
    ),
    "overlap 2, buffers averaged": lambda world, base, **options: slowmo.SlowMo(
        gossip.GossipOptimizer(base, irregular(world, 2), **options),
        gossip.ExactAverage(world),
        period=4,
        buffers="average",
    ),
}
"""Other wrappers and averagers that may stand around masters and know nothing of them."""


def rounded(model: torch.nn.Module, masters: list[torch.Tensor]) -> None:
    """p <- round(m)"""
    with torch.no_grad():
        for parameter, master in zip(model.parameters(), masters, strict=True):
            parameter.copy_(master)


def backward(model: torch.nn.Module, rank: int, step: int, half: int) -> None:
    (loss_of(model, rank, 2 * step + half) / 2).backward()


def train(
    world: gossip.World, model: torch.nn.Module, optimizer: Any, steps: range = range(STEPS), settle: bool = True
) -> list[torch.Tensor]:
    """The user's loop, two parts of a batch in each step; what the optimizer's parameters are in the end."""
    for step in steps:
        for half in (0, 1):
            backward(model, world.rank, step, half)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    if settle:
        optimizer.settle()
    return [parameter.detach().clone() for group in optimizer.param_groups for parameter in group["params"]]


def trained(
    world: gossip.World, dtype: torch.dtype, base: Base, start: Start = start, **options: Any
) -> list[torch.Tensor]:
    """With masters."""
    model = model_of(dtype, world.rank)
    return train(world, model, start(world, base(model.parameters()), master_weights=True, **options))


def simulated(
    world: gossip.World, dtype: torch.dtype, base: Base, start: Start = start, **options: Any
) -> list[torch.Tensor]:
    """A float32 run without masters whose gradients come from a model of rounded weights."""
    model, masters = model_of(dtype, world.rank), model_of(dtype, world.rank).float()
    optimizer = start(world, base(masters.parameters()), **options)
    for step in range(STEPS):
        rounded(model, list(masters.parameters()))
        for half in (0, 1):
            model.zero_grad()
            backward(model, world.rank, step, half)
            for parameter, master in zip(model.parameters(), masters.parameters(), strict=True):
                gradient = parameter.grad.float()  # type: ignore[union-attr]
                master.grad = gradient if half == 0 else master.grad + gradient  # type: ignore[operator]
        torch.nn.utils.clip_grad_norm_(masters.parameters(), 0.3)
        optimizer.step()
    optimizer.settle()
    return [parameter.detach().clone() for parameter in masters.parameters()]


def main(folder: str) -> None:
    """Over MPI."""
    torch.set_num_threads(1)
    with gossip.init("mpi", timeout=60) as world:
        masters = trained(world, torch.bfloat16, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), overlap=1)
    values = {str(number): master.numpy() for number, master in enumerate(masters)}
    np.savez(Path(folder) / f"{world.rank}.npz", **values)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
