"""The cost of the runtime where nothing travels: merging, the step on one rank, memory. Runs on one rank.

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
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import nn

import gossip
import gossip.testing
import topologies
from gossip import GossipOptimizer, PushSum, UsageError, World
from gossip.launching.launchers import Launcher
from gossip.transports import Communicator, Flight
from slowmo import ShardedSlowMo
from topologies import Topology, exponential, from_networkx

from ..gpu.training import resnet50
from ..shared import options, record, screen, tables
from ..shared.methods import METHODS, Trained
from ..update import judging

MOST = 1.2  # of a bare lerp's time: the bar of merging


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    sizes = options.listed(options.size)
    options.option(parser, "--sizes", sizes, "1MB,10MB,40MB,100MB", "bytes that are merged", "SIZE,...")
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
        parts: list[tuple[str, Callable[[], Any]]] = [
            *((f"merging {screen.size(size)}", functools.partial(merging, size, given.rounds)) for size in given.sizes),
            ("step on one rank", lambda: step(given.rounds)),
            ("memory", footprints),
        ]
        found = []
        for title, measure in parts:
            course.part(title)
            found.append(measure())
            course.advance(1)
    *merged, stepped, memory = found
    heads = ("size", "torch.lerp_ ms", "merge ms", "ratio", "at most")
    console.print(tables.on_screen("merging one message", heads, list(map(_merging_row, merged))), "")
    heads = ("against", "bare ms", "SGP ms", "difference ms", "allowed ms")
    title = f"a step on one rank, {stepped['parameters']:,} parameters"
    console.print(tables.on_screen(title, heads, _step_rows(stepped)), "")
    rows = [[each["algorithm"], f"{each['held']:.2f}", str(each["expected"])] for each in memory]
    console.print(tables.on_screen("memory, in models", ("algorithm", "held", "expected"), rows))
    results = {"merging": merged, "step": stepped, "memory": memory}
    record.write(given, launcher, given.json, unit="seconds, bytes, models", results=results)
    console.print(f"written to {given.json}")


def by_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each call; which of the two begins alternates, so that disturbances of the machine meet both alike."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(-3, rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            (first, second)[which]()
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

    @torch.no_grad()
    def merge() -> None:
        mass.weight = half
        mass.merge_([(half, [other])])

    lerped, merged = (float(np.median(each)) for each in by_turns(lambda: values.lerp_(other, 0.5), merge, rounds))
    return {"bytes": nbytes, "lerp": lerped, "merge": merged, "ratio": merged / lerped}


def step(rounds: int) -> dict[str, Any]:
    """SGP on one rank beside the optimizer that it wraps, and beside an optimizer of a model that is in no bucket."""
    model = nn.ParameterList(parameter.data for parameter in resnet50().parameters())
    outside = sgd(copy.deepcopy(model))
    found: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    with gossip.init() as world:
        sgp = gossip.GossipOptimizer(sgd(model), gossip.PushSum(world, topologies.exponential(1)))
        for against, optimizer in (("in buckets", sgp.optimizer), ("outside of buckets", outside)):
            bare, wrapped = by_turns(optimizer.step, sgp.step, rounds)
            median, sgps = float(np.median(bare)), float(np.median(wrapped))
            difference, allowed = float(np.median(np.subtract(wrapped, bare))), 0.03 * median + 50e-6
            found[against] = {"bare": median, "sgp": sgps, "difference": difference, "allowed": allowed}
    return found


def sgd(model: nn.Module) -> torch.optim.SGD:
    """The optimizer that ResNet-50 is trained with; every parameter has a gradient."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True)


def _merging_row(result: dict[str, float]) -> list[str]:
    size, ratio = screen.size(result["bytes"]), result["ratio"]
    return [size, screen.ms(result["lerp"]), screen.ms(result["merge"]), f"{ratio:.3f}", _bar(ratio, MOST, f"{MOST:g}")]


def _step_rows(step: dict[str, Any]) -> list[list[str]]:
    rows = []
    for against in ("in buckets", "outside of buckets"):
        bare, sgp, difference, allowed = (step[against][key] for key in ("bare", "sgp", "difference", "allowed"))
        bar = _bar(difference, allowed, screen.ms(allowed))
        rows.append([against, screen.ms(bare), screen.ms(sgp), judging.never_below_zero(difference), bar])
    return rows


def _bar(measured: float, most: float, shown: str) -> str:
    return f"{shown}  missed" if measured > most else shown


RANKS, ELEMENTS, STEPS, PERIOD = 4, 100_000, 8, 4
Build = Callable[[torch.optim.Optimizer, World], Trained]
Case = tuple[str, float, Build]
"""A composition's title, how many models it should hold beside its own, and how it is built."""


def _table(name: str, expected: float) -> Case:
    method = METHODS[name].over("exponential", PERIOD)
    return method.title, expected, method.around


def _gossip(title: str, expected: int, graph: Topology, overlap: int) -> Case:
    return title, expected, lambda sgd, world: GossipOptimizer(sgd, PushSum(world, graph, overlap))


def _unequal() -> Topology:
    """A ring on which rank 0 gives less than the others: one in-peer each, and w ≠ 1."""
    ring = nx.DiGraph()
    ring.add_weighted_edges_from((rank, (rank + 1) % RANKS, 0.5 if rank else 0.25) for rank in range(RANKS))
    return from_networkx(ring)


CASES: tuple[Case, ...] = (
    _table("none", 0),
    _table("local", 0),
    _table("ar", 1),  # the gradients, side by side
    _table("sgp", 1),  # room for one message of each in-peer
    _table("osgp", 1),
    _gossip("SGP, two in-peers", 2, exponential(RANKS, 2), overlap=0),
    _gossip("OSGP, two in-peers", 2, exponential(RANKS, 2), overlap=1),
    _gossip("SGP, w ≠ 1", 2, _unequal(), overlap=0),  # and the values from before the update
    _gossip("OSGP, w ≠ 1", 2, _unequal(), overlap=1),
    _gossip("overlap 2", 5, exponential(RANKS), overlap=2),  # two rounds in flight, a snapshot for each, and w ≠ 1
    _table("sgp-slowmo", 3),  # anchor and slow momentum
    _table("osgp-slowmo", 3),
    _table("sgp-noaverage", 3),
    _table("local-slowmo", 2),
    _table("local-streaming", 2.5),  # and twice the part that is on its way
    _table("osgp-streaming", 3.25),  # which is needed once where all ranks take the same step
    ("Local-SlowMo, sharded", 2 / RANKS, lambda optimizer, world: ShardedSlowMo(optimizer, world, PERIOD)),
)


def footprints() -> list[dict[str, Any]]:
    """Of each case, in models: the most that any rank holds after any step, and what it should be."""
    found = []
    for title, expected, build in CASES:
        held = max(gossip.testing.run(RANKS, functools.partial(_most, build)))
        found.append({"algorithm": title, "held": held, "expected": expected})
    return found


def _most(build: Build, world: World) -> float:
    parameters = [torch.nn.Parameter(torch.ones(ELEMENTS // 4)) for _ in range(4)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    sgd = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    optimizer = build(sgd, world)
    most = 0
    for _ in range(STEPS):
        optimizer.step()
        own = set(_memory([parameters, [parameter.grad for parameter in parameters], dict(sgd.state)]))
        held = _memory(optimizer)
        most = max(most, sum(nbytes for address, nbytes in held.items() if address not in own))
    optimizer.settle()
    return most / (4 * ELEMENTS)


def _memory(thing: object) -> dict[int, int]:
    """Address -> bytes of the memory of every tensor that can be reached from `thing`."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(thing, set())}


def _tensors(thing: object, seen: set[int]) -> Iterator[torch.Tensor]:
    if id(thing) in seen or isinstance(thing, (World, Communicator, str, bytes, int, float, type)):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, (Mapping, list, tuple, set, deque)):
        for each in itertools.chain(thing, thing.values() if isinstance(thing, Mapping) else ()):
            yield from _tensors(each, seen)
    elif isinstance(thing, Flight):  # what else it knows belongs to the transport
        yield from _tensors((thing.sends, thing.receives), seen)
    else:
        yield from _tensors(getattr(thing, "__dict__", {}), seen)
