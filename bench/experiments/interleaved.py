"""Two things timed by turns, so that whatever else the machine does meets both alike."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import gossip
import topologies


def by_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each call; which of the two begins alternates."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(-3, rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            call = second if which else first
            began = time.perf_counter()
            call()
            seconds = time.perf_counter() - began
            if number >= 0:
                took[which].append(seconds)
    return took


def merging(nbytes: int, rounds: int) -> dict[str, float]:
    """`Mass.merge_` of one message beside `torch.lerp_`, on the same memory."""
    own, other = nn.Parameter(torch.rand(nbytes // 4)), torch.rand(nbytes // 4)
    mass = gossip.GossipOptimizer(torch.optim.SGD([own]), gossip.NoAverage()).mass
    half = torch.full((), 0.5, dtype=torch.float64)
    [values] = mass.values

    def lerp() -> None:
        values.lerp_(other, 0.5)

    @torch.no_grad()
    def merge() -> None:
        mass.weight = half
        mass.merge_([(half, [other])])

    took = by_turns(lerp, merge, rounds)
    seconds = [float(np.median(each)) for each in took]
    return {"bytes": nbytes, "lerp": seconds[0], "merge": seconds[1], "ratio": seconds[1] / seconds[0]}


def step(rounds: int) -> dict[str, Any]:
    """SGP on one rank beside the optimizer that it wraps, and beside an optimizer of a model that is in no bucket."""
    model = resnet50()
    outside = sgd(copy.deepcopy(model))
    with gossip.init() as world:
        sgp = gossip.GossipOptimizer(sgd(model), gossip.PushSum(world, topologies.exponential(1)))
        inside = sgp.optimizer
        compared = {"in buckets": by_turns(inside.step, sgp.step, rounds)}
        compared["outside of buckets"] = by_turns(outside.step, sgp.step, rounds)
    return {"parameters": sum(p.numel() for p in model.parameters())} | {
        against: _difference(*took) for against, took in compared.items()
    }


def _difference(bare: list[float], wrapped: list[float]) -> dict[str, float]:
    median = float(np.median(bare))
    return {
        "bare": median,
        "sgp": float(np.median(wrapped)),
        "difference": float(np.median(np.subtract(wrapped, bare))),
        "allowed": 0.03 * median + 50e-6,
    }


def sgd(model: nn.Module) -> torch.optim.SGD:
    """As ResNet-50 is trained; every parameter has a gradient."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True)


def resnet50() -> nn.Module:
    """ResNet-50's parameters without its computations: 161 tensors, 25,557,032 elements."""
    return nn.ParameterList(nn.Parameter(torch.rand(shape)) for shape in shapes())


def shapes() -> Iterator[tuple[int, ...]]:
    """Of ResNet-50's parameters, in order."""

    def convolution(inputs: int, outputs: int, width: int) -> Iterator[tuple[int, ...]]:
        yield outputs, inputs, width, width
        yield from ((outputs,), (outputs,))  # the BatchNorm behind it

    yield from convolution(3, 64, 7)
    inputs = 64
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from convolution(inputs, inner, 1)
            yield from convolution(inner, inner, 3)
            yield from convolution(inner, 4 * inner, 1)
            if block == 0:
                yield from convolution(inputs, 4 * inner, 1)
            inputs = 4 * inner
    yield from ((1000, inputs), (1000,))
