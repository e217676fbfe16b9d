"""The table of runs in which the runtime is compared with the oracle: each one said twice, once for either."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import oracle
import torch
from shipped import SHIPPED, Shipped

import gossip
import slowmo
import topologies

STEPS = 40
SHAPES = [(3, 4), (5,), (2, 1, 3)]
DIMENSIONS = [math.prod(shape) for shape in SHAPES]
SECOND_GROUP = sum(DIMENSIONS[:2])
"""The last tensor is a parameter group of its own, with its own rate and momentum."""


Optimizer = gossip.GossipOptimizer | slowmo.SlowMo


@dataclass(frozen=True)
class Case:
    """One run. `graphs` is "weighted", "unweighted" (random digraphs), "exponential" or "" for no push-sum.

    A graph that ships, `shipped`, stands in the place of `graphs`.
    """

    name: str
    graphs: str = ""
    overlap: int = 0
    every: int = 1
    exact_every: int = 0
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    slowmo: oracle.SlowMo | None = None
    average_gradients: bool = False
    partial: bool = False  # some ranks have no gradient of some parameters in some steps
    varying: bool = False  # learning rates change and reach 0
    shipped: Shipped | None = None
    steps: int = STEPS

    def rates(self, step: int) -> tuple[float, float]:
        """The rates of the two parameter groups; both are 0 for longer than an outer iteration, and not together."""
        if not self.varying:
            return 0.05, 0.03
        first = round(0.05 * max(0.0, math.cos(2 * math.pi * step / 24)), 6)
        second = 0.0 if 21 <= step <= 30 else 0.02 + 0.001 * (step % 7)
        return first, second

    def digraphs(self, size: int) -> list[nx.DiGraph[int]]:
        """Other graphs for every case and size."""
        seed = zlib.crc32(self.name.encode())
        return oracle.random_digraphs(size, 3 + seed % 3, seed, weighted=self.graphs == "weighted")

    def topology(self, size: int) -> topologies.Topology | None:
        """The topology that push-sum runs over."""
        if self.shipped is not None:
            return self.shipped.make(size)
        if self.graphs == "exponential":
            return topologies.exponential(size)
        return topologies.from_networkx(self.digraphs(size)) if self.graphs else None

    def matrices(self, size: int) -> oracle.Matrices | None:
        """The same for the oracle, which knows the graphs of the papers by itself."""
        if self.shipped is not None:
            return self.shipped.make(size).matrix
        if self.graphs == "exponential":
            return oracle.exponential(size)
        return oracle.cycle(self.digraphs(size)) if self.graphs else None


BASE: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
# Run at every size on every transport.
CORE = [
    Case("sgp", "weighted", partial=True, **BASE),
    Case("sgp, exponential graph", "exponential", momentum=0.9, varying=True),
    Case("osgp", "weighted", overlap=1, partial=True, varying=True),
    Case("osgp, momentum", "unweighted", overlap=1, momentum=0.9),
    Case("overlap 2", "unweighted", overlap=2, partial=True, **BASE),
    Case("gossip-pga, overlap 1", "weighted", overlap=1, exact_every=5, momentum=0.9),
    Case("gradients averaged", "weighted", average_gradients=True, partial=True, momentum=0.9),
    Case("slowmo, sgp", "weighted", slowmo=oracle.SlowMo(4, 0.6, buffers="reset"), varying=True, **BASE),
    Case("slowmo, osgp", "weighted", overlap=1, slowmo=oracle.SlowMo(4, 0.5, lr=0.9), varying=True, momentum=0.9),
    Case("slowmo, sgp, no average", "weighted", slowmo=oracle.SlowMo(4, 0.5, average="none"), varying=True, **BASE),
    Case("slowmo, osgp, no average", "weighted", overlap=1, slowmo=oracle.SlowMo(4, 0.5, average="none"), varying=True),
]
# Compositions whose messages are no others: run on the memory transport.
MORE = [
    Case("sgp, plain", "unweighted"),
    Case("osgp, nesterov", "weighted", overlap=1, **BASE),
    Case("osgp, exponential graph", "exponential", overlap=1, momentum=0.9),
    Case("overlap 2, plain", "weighted", overlap=2),
    Case("every third step", "weighted", overlap=0, every=3, **BASE),
    Case("every second step, overlap 2", "weighted", overlap=2, every=2, momentum=0.9),
    Case("every third step, overlap 3", "weighted", overlap=3, every=3, momentum=0.5),
    Case("gossip-pga", "weighted", exact_every=5, momentum=0.9),
    Case("gossip-pga, overlap 2", "unweighted", overlap=2, exact_every=5),
    Case("local sgd", exact_every=4, **BASE),
    Case("all-reduce", average_gradients=True, **BASE),
    Case("all-reduce, parts unused", average_gradients=True, partial=True, varying=True, **BASE),
    Case("slowmo, local sgd", slowmo=oracle.SlowMo(4, 0.6), varying=True, **BASE),
    Case("slowmo, overlap 2", "weighted", overlap=2, slowmo=oracle.SlowMo(5, 0.4), varying=True, partial=True),
    Case(
        "slowmo, overlap 2, no average",
        "unweighted",
        overlap=2,
        slowmo=oracle.SlowMo(6, 0.3, lr=0.8, average="none", nesterov=True),
        varying=True,
    ),
    Case("slowmo, push-sum", slowmo=oracle.SlowMo(4, 0.5, average="push-sum"), **BASE),
    Case("slowmo, sgp, push-sum", "weighted", slowmo=oracle.SlowMo(4, 0.5, average="push-sum"), varying=True),
    Case("slowmo, osgp, push-sum", "weighted", 1, slowmo=oracle.SlowMo(4, 0.5, average="push-sum"), varying=True),
    Case("slowmo, buffers averaged", slowmo=oracle.SlowMo(5, 0.6, buffers="average"), **BASE),
    Case("slowmo, gossip-pga", "weighted", 1, exact_every=3, slowmo=oracle.SlowMo(6, 0.5, average="none"), **BASE),
    Case("diloco", slowmo=oracle.SlowMo(5, 0.6, lr=0.7, nesterov=True, rescale=False), varying=True, **BASE),
]


def over_every_graph(size: int) -> list[Case]:
    """A short run over each graph that ships and fits `size` ranks: SGP on even sizes, OSGP on odd ones."""
    return [
        Case(f"over {graph}", shipped=graph, steps=12, overlap=size % 2, momentum=0.9)
        for graph in SHIPPED
        if graph.fits(size)
    ]


def gradient_terms(rank: int) -> tuple[oracle.Array, oracle.Array]:
    """Curvature and target of this rank's quadratic, both (d,)."""
    random = np.random.default_rng(100 + rank)
    return random.uniform(0.5, 1.5, sum(DIMENSIONS)), random.standard_normal(sum(DIMENSIONS))


def push(rank: int, step: int) -> oracle.Array:
    """The linear term of the loss, another one in every step, (d,)."""
    return 0.2 * np.sin(step + 2 * rank + np.arange(sum(DIMENSIONS)))


def used(case: Case, rank: int, step: int) -> list[bool]:
    """Which of the tensors have a gradient."""
    return [not case.partial or (rank + step + tensor) % 4 != 0 for tensor in range(len(SHAPES))]


def first_values() -> oracle.Array:
    """Where rank 0 starts, (d,); the others take it over."""
    return np.random.default_rng(42).standard_normal(sum(DIMENSIONS))


def slow_graphs(size: int) -> list[nx.DiGraph[int]]:
    """The graphs that SlowMo's own push-sum walks through."""
    return oracle.random_digraphs(size, 2, seed=size)


def expected(case: Case, size: int) -> oracle.History:
    """The history that the papers state."""

    def gradient(rank: int, step: int, z: oracle.Array) -> oracle.Array:
        curvature, target = gradient_terms(rank)
        g = curvature * (z - target) + push(rank, step)
        return np.where(np.repeat(used(case, rank, step), DIMENSIONS), g, np.nan)

    def spread(first: float, second: float) -> oracle.Array:
        return np.repeat([first, first, second], DIMENSIONS)

    options = case.slowmo
    if options is not None and options.average == "push-sum":
        options = oracle.SlowMo(**{**vars(options), "average": oracle.cycle(slow_graphs(size))})
    return oracle.train(
        np.tile(first_values(), (size, 1)),
        gradient,
        lambda step: spread(*case.rates(step)),
        case.steps,
        matrices=case.matrices(size),
        overlap=case.overlap,
        every=case.every,
        exact_every=case.exact_every,
        sgd=oracle.SGD(spread(case.momentum, case.momentum * 2 / 3), case.weight_decay, case.nesterov),
        slowmo=options,
        average_gradients=case.average_gradients,
    )


def optimizer(case: Case, world: gossip.World, parameters: Sequence[torch.Tensor]) -> Optimizer:
    """The optimizer that a user writes."""
    groups: list[dict[str, Any]] = [
        {"params": parameters[:2]},
        {"params": parameters[2:], "momentum": case.momentum * 2 / 3},
    ]
    base = torch.optim.SGD(
        groups,
        lr=0.1,
        momentum=case.momentum,
        weight_decay=case.weight_decay,
        nesterov=case.nesterov,
    )
    averagers: list[gossip.Averager] = []
    topology = case.topology(world.size)
    if topology is not None:
        push_sum = gossip.PushSum(world, topology, overlap=case.overlap)
        averagers.append(push_sum if case.every == 1 else gossip.Every(case.every, push_sum))
    if case.exact_every:
        averagers.append(gossip.Every(case.exact_every, gossip.ExactAverage(world)))
    averager = averagers[0] if len(averagers) == 1 else gossip.Chain(*averagers)
    wrapped = gossip.GossipOptimizer(base, averager, gradients=world if case.average_gradients else None)
    if case.slowmo is None:
        return wrapped
    slow: dict[str, gossip.Averager] = {"exact": gossip.ExactAverage(world), "none": gossip.NoAverage()}
    if case.slowmo.average == "push-sum":
        slow["push-sum"] = gossip.PushSum(world, topologies.from_networkx(slow_graphs(world.size)))
    return slowmo.SlowMo(
        wrapped,
        slow[str(case.slowmo.average)],
        period=case.slowmo.period,
        momentum=case.slowmo.momentum,
        lr=case.slowmo.lr,
        buffers=case.slowmo.buffers,
        nesterov=case.slowmo.nesterov,
        rescale=case.slowmo.rescale,
    )


def train(case: Case, world: gossip.World) -> dict[str, oracle.Array]:
    """The run on this rank: its models (steps, d) and weights (steps,), and both once all has landed."""
    start = first_values() if world.rank == 0 else np.full(sum(DIMENSIONS), float(world.rank))
    parts = np.split(start, np.cumsum(DIMENSIONS)[:-1])
    # Where there is a GPU, the transports that can carry its memory do so.
    device = world.device if world.transport in ("mpi", "nccl") else torch.device("cpu")
    parameters = [
        torch.from_numpy(part).reshape(shape).to(device, copy=True) for part, shape in zip(parts, SHAPES, strict=True)
    ]
    for parameter in parameters:
        parameter.requires_grad_()
    curvatures, targets = (_split(terms, device) for terms in gradient_terms(world.rank))
    optimizer_ = optimizer(case, world, parameters)
    z, w = np.empty((case.steps, sum(DIMENSIONS))), np.empty(case.steps)
    for step in range(case.steps):
        for group, rate in zip(optimizer_.param_groups, case.rates(step), strict=True):
            group["lr"] = rate
        optimizer_.zero_grad()
        terms = zip(parameters, curvatures, targets, _split(push(world.rank, step), device), strict=True)
        losses = [(c * (p - t) ** 2).sum() / 2 + (h * p).sum() for p, c, t, h in terms]
        losses = [loss for loss, use in zip(losses, used(case, world.rank, step), strict=True) if use]
        torch.stack(losses).sum().backward()
        optimizer_.step()
        z[step], w[step] = _flat(parameters), optimizer_.weight
    optimizer_.settle()
    return {"z": z, "w": w, "settled_z": _flat(parameters), "settled_w": np.array(optimizer_.weight)}


def _split(values: oracle.Array, device: torch.device) -> list[torch.Tensor]:
    parts = np.split(values, np.cumsum(DIMENSIONS)[:-1])
    return [torch.from_numpy(part).reshape(shape).to(device) for part, shape in zip(parts, SHAPES, strict=True)]


def _flat(parameters: Sequence[torch.Tensor]) -> oracle.Array:
    return np.concatenate([parameter.detach().cpu().numpy().reshape(-1) for parameter in parameters])
