"""Every algorithm at every size, compute time and topology, measured one after another."""

import argparse
import gc
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gossip
import topologies
from gossip import UsageError, World

from ..cluster import line
from ..measuring.loop import Updates, figures, gathered, measure, sgd
from ..measuring.models import MODELS
from ..peers import PEERS, YARDSTICK, Peer
from ..shared import record, screen, statistics
from ..shared.digits import Consensus
from ..shared.methods import METHODS, Method

Result = dict[str, Any]
KNOWN: dict[str, Method | Peer] = {**METHODS, **PEERS}  # everything that can be measured
SAMPLE = 65_536  # elements of the model at which the ranks are compared: all of them would take longer than an update
FREE = ("seconds", "computing", "waits", "in_flight", "by_rank", "mean_by_rank")
"""The figures that are kept of the loop without barriers."""


class Place(NamedTuple):
    """Bytes of parameters, seconds of compute, and the SPEC of the graph: each place has a world of its own."""

    nbytes: int
    compute: float
    graph: str


@dataclass
class Cell:
    """One algorithm at one place."""

    name: str
    place: Place
    window: int
    level: bool  # whether a barrier stands before each step; blocking methods have one
    nbytes: int = 0
    ranks: list[Updates] = field(default_factory=list)  # the measurements of each rank
    free: list[Updates] = field(default_factory=list)  # and those without barriers
    apart: list[float] = field(default_factory=list)  # the ranks' distances after the last τ updates of each warm-up


def title(name: str) -> str:
    """The name of an algorithm in tables."""
    return KNOWN[name].title


def cells(given: argparse.Namespace) -> list[Cell]:
    """Everything that is asked for; methods without a graph are measured under the first one alone."""
    found = []
    names = [*(name for name in given.algorithms if name != YARDSTICK), YARDSTICK]
    for place in itertools.starmap(Place, itertools.product(given.sizes, given.compute, given.topologies)):
        for name in names:
            algorithm = KNOWN[name]
            if place.graph == given.topologies[0] or algorithm.gossips:
                found.append(Cell(name, place, statistics.window(given.period, algorithm), algorithm.blocking))
    return found


def updates_of(cell: Cell, given: argparse.Namespace) -> int:
    """The number of updates in one repeat, warm-ups among them."""
    free = given.warmup + given.free if cell.level and given.free else 0
    return int(given.warmup + given.steps + free)


def run(given: argparse.Namespace, course: screen.Course) -> tuple[str, list[Result], list[Result]]:
    """Measure everything on every rank: the transport, the results, and the line's own time at each size."""
    everything = cells(given)
    lines: dict[Place, list[dict[str, float]]] = defaultdict(list)
    transport = ""
    for _ in range(given.repeats):
        for place in dict.fromkeys(cell.place for cell in everything):
            # A world for each place: the channels of one world are numbered, and there are not many of them.
            with gossip.init(given.transport, given.timeout) as world:
                transport = world.transport
                _agree(world, given)
                if place.compute == given.compute[0]:
                    graph = topologies.load(place.graph, world.size)
                    found = line.paused_and_steady(world, graph, place.nbytes, place.compute, given.timeout)
                    lines[place] += [{**found[0], "steady": found[1]}] if found else []
                for cell in everything:
                    if cell.place == place:
                        course.part(f"{cell.name}, {screen.size(place.nbytes)}")
                        _measure(cell, world, given)
                        course.advance(updates_of(cell, given))
                        gc.collect()
    alone = {cell.place[:2]: cell for cell in everything if cell.name == "none"}
    results = [_result(cell, given, alone.get(cell.place[:2])) for cell in everything]
    took: dict[int, float] = {}
    for result in results if given.model == "mlp" else ():
        # The compute of a real model is the time that its first algorithm's passes took.
        result["compute"] = took.setdefault(result["bytes"], float(result["computing"]["median"]))
    return transport, results, [_line(place, each, given) for place, each in lines.items() if each]


def _agree(world: World, given: argparse.Namespace) -> None:
    """Refuse to measure where ranks would not measure the same: each has left out what is not installed there."""
    everywhere = record.gather(world, given.algorithms)
    for rank, names in enumerate(everywhere):
        if missing := [name for each in everywhere for name in each if name not in names]:
            raise UsageError(
                f"rank {rank} on {world.hosts[rank]} cannot measure {missing[0]}, which other ranks can: install its "
                "library on every host, or leave it out of --algorithms"
            )


def _measure(cell: Cell, world: World, given: argparse.Namespace) -> None:
    task = MODELS[given.model](cell.place.nbytes, world, cell.place.compute)
    cell.nbytes = task.nbytes
    peer = PEERS[cell.name].build(task, world, given.period, given.timeout) if cell.name in PEERS else None
    trained = peer or METHODS[cell.name].over(cell.place.graph, given.period).around(
        sgd(task.module), world, task.module
    )
    driven = peer or task
    apart: list[float] = []
    look = None if driven.module is None else Consensus(world, driven.module, SAMPLE)
    watch = None if look is None else lambda: apart.append(look.distance())
    own = measure(trained, world, driven.compute, given.steps, given.warmup, level=cell.level, watch=watch)
    cell.apart += apart[-given.period :]
    _gather(cell.ranks, own.whole(given.period), world)
    if cell.level and given.free:
        own = measure(trained, world, driven.compute, given.free, given.warmup, level=False)
        _gather(cell.free, own.whole(given.period), world)
    if peer is not None:
        peer.close()


def _gather(ranks: list[Updates], own: Updates, world: World) -> None:
    ranks += [Updates() for _ in range(world.size - len(ranks))]
    for rank, more in zip(ranks, gathered(own, world), strict=True):
        rank.add(more)


def _result(cell: Cell, given: argparse.Namespace, alone: Cell | None) -> Result:
    everywhere = figures(cell.ranks, cell.window)
    # Without barriers, windows: see `statistics.window`.
    free = figures(cell.free, given.period) if cell.free else None if cell.level else everywhere
    if cell.name in PEERS:
        untold = dict.fromkeys(PEERS[cell.name].unknown)
        for each in (everywhere, everywhere["slowest"], *([free] if free else [])):
            each |= untold
    place, timed = cell.place, {"period": given.period, "window": cell.window, "level": cell.level}
    where = {"bytes": place.nbytes, "model_bytes": cell.nbytes, "compute": place.compute, "topology": place.graph}
    return {
        **{"algorithm": cell.name, **where, **timed, **everywhere},
        "none": alone and _base(alone, cell.window, given.period),
        "consensus": math.fsum(cell.apart) / len(cell.apart) if cell.apart else None,
        "free": free and {name: free[name] for name in FREE},
    }


def _base(alone: Cell, window: int, period: int) -> Result:
    """Seconds of an update without communication, as means over as many updates as those it is compared with."""
    found, free = figures(alone.ranks, window), figures(alone.free or alone.ranks, period)
    return {"seconds": found["seconds"]["median"], "by_rank": found["by_rank"], "free": free["seconds"]["median"]}


def _line(place: Place, repeats: Sequence[dict[str, float]], given: argparse.Namespace) -> Result:
    seconds = {name: math.fsum(each[name] for each in repeats) / len(repeats) for name in repeats[0]}
    # As an update without compute, under the name by which `bench scale` finds it.
    where = {"bytes": place.nbytes, "compute": 0.0, "topology": place.graph}
    return {"algorithm": "line", **where, "period": given.period, "window": 1, "seconds": seconds}


def compare(results: Sequence[Result], line: Callable[[int, str], float | None]) -> None:
    """Set each beside the loop without communication, and beside the `line` of its bytes and graph."""
    for result in results:
        base = result["none"]
        beyond = None if base is None else result["seconds"]["median"] - base["seconds"]
        result["exposed"] = beyond
        # Waits are not hidden, even where a noisy `none` says so.
        costs = None if beyond is None else max(beyond, result["waits"]["median"])
        result["hidden"] = None if costs is None else hidden(costs, result["in_flight"])
        slowest, free = result["slowest"], result["free"]
        slowest["exposed"] = base and slowest["seconds"]["median"] - base["by_rank"][slowest["rank"]]
        if free is not None:
            free["exposed"] = base and free["seconds"]["median"] - base["free"]
        took = line(result["bytes"], result["topology"])
        result["line"] = took
        result["over_line"] = beyond / took if took and beyond is not None else None


def hidden(exposed: float, in_flight: float | None) -> float | None:
    """The share of the time in flight that costs an update nothing: 1 − exposed / in flight; None if nothing flew."""
    return 1 - min(max(exposed, 0.0), in_flight) / in_flight if in_flight else None
