"""Time, waits, bytes and messages of one update, for each algorithm and size of model.

Every update computes (by sleeping) and steps. The last row of each size is an all-reduce of the same bytes by
torch.distributed over Gloo (NCCL with --transport nccl), which blocks after the compute. Before what blocks there is a
barrier that is not timed, so that ranks wait for bytes and not for each other's compute; before OSGP there is none.

Of each rank the median over updates counts, and of the ranks the slowest. Algorithms that communicate every
--period steps are judged by windows of so many updates. "exposed" is the time blocked in waits, "over none" the
update's time less that of the same run without communication, "in flight" from posting to arrival.
"""

from __future__ import annotations

import argparse
import gc
from typing import Any

import gossip
import topologies
from gossip import UsageError, World
from gossip.launchers import Launcher

from . import allreduce, options, record, screen
from .algorithms import ALGORITHMS
from .emulated import sleeping
from .measuring import build, measure

DEFAULT = ["none", "ar", "exact", "sgp", "osgp", "local", "sgp-slowmo", "osgp-slowmo", "sgp-noaverage"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument(
        "--sizes",
        type=options.sizes,
        default=[10**6, 10**7, 4 * 10**7],
        metavar="SIZE,...",
        help="bytes of float32 parameters, as in 1MB,1.024MB (default: 1MB,10MB,40MB)",
    )
    parser.add_argument(
        "--algorithms",
        type=options.some_of(ALGORITHMS),
        default=DEFAULT,
        metavar="NAME,...",
        help=f"some of {', '.join(ALGORITHMS)} (default: all)",
    )
    parser.add_argument(
        "--compute", type=options.seconds, default=0.1, metavar="SECONDS", help="of each update (default: 0.1)"
    )
    parser.add_argument("--steps", type=options.count, default=24, metavar="N", help="measured updates (default: 24)")
    parser.add_argument("--warmup", type=options.natural, default=4, metavar="N", help="updates before (default: 4)")
    parser.add_argument(
        "--period", type=options.count, default=8, metavar="N", help="τ of Local SGD and SlowMo (default: 8)"
    )
    options.add_topology(parser)
    options.add_world(parser)
    options.add_json(parser, "out/update.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured."""
    if given.steps < given.period:
        raise UsageError(f"--steps {given.steps} is less than one --period {given.period}: it would never be due")
    options.check_topology(given, launcher)
    options.check_world(given)
    options.check_writable(given.json.parent, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    results: list[dict[str, Any]] = []
    updates = (len(given.algorithms) + 1) * (given.steps + given.warmup) * len(given.sizes)
    with screen.Course(console, updates) as course:
        for size in given.sizes:
            # A world for each size: the channels of one world are numbered, and there are not many of them.
            with gossip.init(given.transport, given.timeout) as world:
                transport = world.transport
                for name in [*given.algorithms, allreduce.NAME]:
                    course.part(f"{name}, {screen.size(size)}")
                    figures = _one(name, world, size, given)
                    results.append({"algorithm": name, "bytes": size, **figures})
                    course.advance(given.steps + given.warmup)
                    gc.collect()
    _compare(results)
    for size in given.sizes:
        rows = [_row(result) for result in results if result["bytes"] == size]
        ranks = f"{launcher.size} ranks over {transport}"
        title = f"{screen.size(size)} of parameters, {ranks}, compute {given.compute:g} s; times in ms"
        console.print(screen.table(title, COLUMNS, rows), "")
    if launcher.rank == 0:
        record.write(given, launcher, given.json, transport=transport, unit=UNITS, results=results)
        console.print(f"written to {given.json}")


def _one(name: str, world: World, size: int, given: argparse.Namespace) -> dict[str, Any]:
    compute = sleeping(given.compute)
    if name == allreduce.NAME:
        updates, window = allreduce.measure(world, size, compute, given.steps, given.warmup, given.timeout), 1
    else:
        algorithm = ALGORITHMS[name]
        window = given.period if algorithm.periodic else 1
        graph = topologies.load(given.topology, world.size)
        optimizer = build(algorithm, world, graph, size, given.period)
        updates = measure(optimizer, world, compute, given.steps, given.warmup, level=algorithm.blocking)
    ranks = record.gather(world, updates.figures(window))
    return {**max(ranks, key=lambda rank: float(rank["seconds"]["median"])), "window": window}


def _compare(results: list[dict[str, Any]]) -> None:
    """What each update takes longer than one without communication, where that was measured."""
    alone = {result["bytes"]: result["seconds"]["median"] for result in results if result["algorithm"] == "none"}
    for result in results:
        base = alone.get(result["bytes"])
        result["over_none"] = None if base is None else result["seconds"]["median"] - base


UNITS = "seconds, bytes and messages of one update on the slowest rank; quantiles over windows of `window` updates"
COLUMNS = ("algorithm", "update", "p10 to p90", "exposed", "over none", "in flight", "merging", "sent", "messages")


def _row(result: dict[str, Any]) -> list[str]:
    seconds, beyond = result["seconds"], result["over_none"]
    title = ALGORITHMS[result["algorithm"]].title if result["algorithm"] in ALGORITHMS else allreduce.TITLE
    return [
        title,
        screen.ms(seconds["median"]),
        f"{screen.ms(seconds['p10'])} - {screen.ms(seconds['p90'])}",
        screen.ms(result["exposed"]["median"]),
        "" if beyond is None else screen.ms(beyond),
        screen.ms(result["in_flight"]),
        screen.ms(result["merging"]),
        screen.size(result["bytes_sent"]),
        f"{result['messages_sent']:.3g}",
    ]
