"""How much of the communication the compute hides, and what CPU the hiding takes.

SGP waits for its round in the step, OSGP lets it travel during the next compute; both have the same bytes to move.
With --compute sleep the cores are free meanwhile, as with an accelerator. With torch every rank multiplies matrices
on its core, and with python it runs pure Python that holds the interpreter lock, both for a fixed amount of work that
takes --seconds undisturbed. (torch, python: use no more ranks than cores.)

"waits" is the time blocked in the step: the median over updates, of the slowest rank. A barrier, which is not timed,
levels SGP's ranks after the compute, so that they wait for bytes and not for each other's compute. OSGP's run freely,
for its messages would travel during a barrier: what its ranks wait for slower ones counts too. The hidden share
is 1 - waits(OSGP) / waits(SGP). "exposed" is the time of a whole update less that of one without communication:
it also holds merging and what progress takes from the compute. "progress CPU" is the CPU time per update of every
thread but the main one: threads of the transport, and on one host the copying through shared memory or the kernel's
loopback that they do.

The three run by turns, a few updates each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gossip
from gossip import UsageError, World
from gossip.launching.launchers import Launcher
from topologies import exponential

from ..shared import options, record, screen
from ..shared.algorithms import ALGORITHMS
from ..update import judging
from ..update.emulated import KINDS, Compute, sleeping, times_for
from ..update.measuring import Updates, build, measure

COMPARED = ("none", "sgp", "osgp")
TURN = 5  # updates of one before the next has its turn


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument(
        "--compute", choices=("sleep", *KINDS), default="sleep", help="what the ranks do meanwhile (default: sleep)"
    )
    parser.add_argument(
        "--seconds", type=options.positive, default=0.4, help="of compute in each update (default: 0.4)"
    )
    parser.add_argument(
        "--size", type=options.size, default=4 * 10**7, help="bytes of float32 parameters (default: 40MB)"
    )
    parser.add_argument("--steps", type=options.count, default=20, help="updates, by fives (default: 20)")
    parser.add_argument("--warmup", type=options.natural, default=1, help="updates before each five (default: 1)")
    options.add_world(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="(default: out/overlap-COMPUTE-TRANSPORT.json)")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured."""
    options.check_world(given)
    if launcher.size < 2:
        raise UsageError("one rank has nobody to speak to: start it as `mpirun -n 4 python -m bench overlap`")
    options.check_writable(given.json or Path("out/overlap.json"), launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    turns = -(-given.steps // TURN)
    course = screen.Course(console, turns)
    with gossip.init(given.transport, given.timeout) as world:
        compute = _compute(given, world)
        optimizers = {
            name: build(ALGORITHMS[name], world, exponential(world.size), given.size, period=1) for name in COMPARED
        }
        updates = {name: Updates() for name in COMPARED}
        with course:
            course.part(f"{TURN} updates of each, {turns} times")
            for _ in range(turns):
                for name, optimizer in optimizers.items():
                    level = ALGORITHMS[name].blocking
                    updates[name].add(measure(optimizer, world, compute, TURN, given.warmup, level=level))
                course.advance(1)
        ranks = {name: record.gather(world, own.figures(window=1)) for name, own in updates.items()}
        results = {name: _slowest(each) for name, each in ranks.items()}
        transport = world.transport
    for result in results.values():
        result["exposed"] = result["seconds"] - results["none"]["seconds"]
    ratio = results["osgp"]["waits"] / results["sgp"]["waits"]
    title = f"{screen.size(given.size)} of parameters, {launcher.size} ranks over {transport}, compute: {given.compute}"
    console.print(screen.table(title, COLUMNS, [_row(name, results[name]) for name in COMPARED]))
    lacking = crowded({name: _computing(each) for name, each in ranks.items()}, given)
    if lacking:
        titles = ", ".join(ALGORITHMS[name].title for name in lacking)
        console.print(
            f"{judging.CROWDED} for {titles}: the compute took longer, so what is hidden cannot be told: start fewer "
            "ranks, or --compute sleep."
        )
    else:
        hidden = screen.percent(max(0.0, 1 - ratio))
        console.print(f"OSGP waits {screen.percent(ratio)} of what SGP waits: {hidden} are hidden.")
    if shared := judging.sharing(launcher):
        console.print(shared)
    if results["sgp"]["waits"] > given.seconds:
        console.print("The transfer takes longer than the compute, which cannot hide it: try more --seconds.")
    path = given.json or Path("out") / f"overlap-{given.compute}-{transport}.json"
    if launcher.rank == 0:
        record.write(given, launcher, path, transport=transport, unit=UNITS, hidden=1 - ratio, results=results)
        console.print(f"written to {path}")


def _compute(given: argparse.Namespace, world: World) -> Compute:
    if given.compute == "sleep":
        return sleeping(given.seconds)
    # The same work on every rank, however busy its core was when it was asked.
    times = max(record.gather(world, times_for(given.compute, given.seconds)))
    return KINDS[given.compute](times)


def crowded(computing: Mapping[str, float], given: argparse.Namespace) -> list[str]:
    """The methods whose slowest rank took too long to compute: more than asked, where it sleeps, or than `none`."""
    asked = [given.seconds] if given.compute == "sleep" else []
    return [name for name, took in computing.items() if judging.lacks_cores(took, computing["none"], *asked)]


def _computing(ranks: list[dict[str, Any]]) -> float:
    return max(float(rank["computing"]["median"]) for rank in ranks)


def _slowest(ranks: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "seconds": max(rank["seconds"]["median"] for rank in ranks),
        "waits": max(rank["waits"]["median"] for rank in ranks),
        "waits_p90": max(rank["waits"]["p90"] for rank in ranks),
        "in_flight": record.highest(ranks, "in_flight"),
        "bytes_sent": record.highest(ranks, "bytes_sent"),
        "threads_cpu": record.highest(ranks, "threads_cpu"),
    }


UNITS = "seconds and bytes of one update, medians over updates, the slowest rank's; threads_cpu: mean"
COLUMNS = ("algorithm", "ms per update", "exposed ms", "waits ms", "p90", "in flight ms", "sent", "progress CPU ms")


def _row(name: str, result: dict[str, float]) -> list[str]:
    return [
        ALGORITHMS[name].title,
        screen.ms(result["seconds"]),
        judging.never_below_zero(result["exposed"]),
        screen.ms(result["waits"]),
        screen.ms(result["waits_p90"]),
        screen.ms(result["in_flight"]),
        screen.size(result["bytes_sent"]),
        f"{screen.ms(result['threads_cpu'])} ({screen.percent(result['threads_cpu'] / result['seconds'])})",
    ]
