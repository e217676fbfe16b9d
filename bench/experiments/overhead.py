"""What the runtime costs where nothing travels: merging, the step on one rank, memory. Runs on one rank.

merging    one in-peer's message into as many bytes of values, beside one bare torch.lerp_ over the same bytes; bar:
           1.2. A cost of some 20 to 80 µs does not depend on the bytes, and shows where they are few
step       SGP's step on one rank beside the wrapped optimizer's own on the same parameters, and on an identical model
           outside of buckets; ResNet-50's 161 tensors, 25.6 million parameters; bar: 3 % + 50 µs
memory     bytes of tensors that an optimizer holds beside parameters, gradients and the wrapped optimizer's state, in
           models; four ranks as threads

The two sides of a comparison alternate in one loop, first one first and then the other; medians count.
"""

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import gossip
import topologies
from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..gpu.training import resnet50
from ..shared import options, record, screen, tables
from ..update import judging
from . import footprint

MOST = 1.2
"""Of a bare lerp's time: the bar of merging."""

MERGING = ("size", "torch.lerp_ ms", "merge ms", "ratio", "at most")
STEP = ("against", "bare ms", "SGP ms", "difference ms", "allowed ms")
MEMORY = ("algorithm", "held", "expected")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.option(
        parser, "--sizes", options.listed(options.size), "1MB,10MB,40MB,100MB", "bytes that are merged", "SIZE,..."
    )
    options.option(parser, "--rounds", options.count, "100", "of each comparison")
    options.add_json(parser, "out/overhead.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse several ranks, and a path that cannot be written."""
    if launcher.size > 1:
        raise UsageError("this measures one rank by itself: start it as `python -m bench overhead`, without a launcher")
    options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    with screen.Course(console, len(given.sizes) + 2) as course:
        merged = []
        for size in given.sizes:
            course.part(f"merging {screen.size(size)}")
            merged.append(merging(size, given.rounds))
            course.advance(1)
        course.part("step on one rank")
        stepped = step(given.rounds)
        course.advance(1)
        course.part("memory")
        memory = footprint.footprints()
        course.advance(1)
    title = f"a step on one rank, {stepped['parameters']:,} parameters"
    rows = [[each["algorithm"], f"{each['held']:.2f}", str(each["expected"])] for each in memory]
    console.print(tables.on_screen("merging one message", MERGING, [_merging_row(each) for each in merged]), "")
    console.print(tables.on_screen(title, STEP, _step_rows(stepped)), "")
    console.print(tables.on_screen("memory, in models", MEMORY, rows))
    results = {"merging": merged, "step": stepped, "memory": memory}
    record.write(given, launcher, given.json, unit="seconds, bytes, models", results=results)
    console.print(f"written to {given.json}")


def by_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each call; which of the two begins alternates, so that disturbances of the machine meet both alike."""
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

    lerped, merged = (float(np.median(each)) for each in by_turns(lerp, merge, rounds))
    return {"bytes": nbytes, "lerp": lerped, "merge": merged, "ratio": merged / lerped}


def step(rounds: int) -> dict[str, Any]:
    """SGP on one rank beside the optimizer that it wraps, and beside an optimizer of a model that is in no bucket."""
    model = nn.ParameterList(parameter.data for parameter in resnet50().parameters())
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
    """The optimizer that ResNet-50 is trained with; every parameter has a gradient."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True)


def _merging_row(result: dict[str, float]) -> list[str]:
    lerp, merge = screen.ms(result["lerp"]), screen.ms(result["merge"])
    bar = _bar(result["ratio"], MOST, f"{MOST:g}")
    return [screen.size(result["bytes"]), lerp, merge, f"{result['ratio']:.3f}", bar]


def _step_rows(step: dict[str, Any]) -> list[list[str]]:
    rows = []
    for against in ("in buckets", "outside of buckets"):
        bare, sgp, difference, allowed = (step[against][key] for key in ("bare", "sgp", "difference", "allowed"))
        bar = _bar(difference, allowed, screen.ms(allowed))
        rows.append([against, screen.ms(bare), screen.ms(sgp), judging.never_below_zero(difference), bar])
    return rows


def _bar(measured: float, most: float, shown: str) -> str:
    return f"{shown}  missed" if measured > most else shown
