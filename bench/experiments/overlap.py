"""How much of the communication the compute hides, and what CPU the hiding takes.

SGP waits for its round in the step, OSGP lets it travel during the next compute; both have the same bytes to move.
With --compute sleep the cores are free meanwhile, as with an accelerator. With torch every rank multiplies matrices
on its core, and with python it runs pure Python that holds the interpreter lock, both for a fixed amount of work that
takes --seconds undisturbed. (torch, python: use no more ranks than cores.)

"waits" is the time blocked in the step: the median over updates, of the slowest rank. A barrier, which is not timed,
levels SGP's ranks after the compute, so that they wait for bytes and not for each other's compute. OSGP's run freely,
for its messages would travel during a barrier: waits of its ranks for slower ones count too. The hidden share
is 1 - waits(OSGP) / waits(SGP). "exposed" is the time of a whole update less that of one without communication:
it also holds merging and what progress takes from the compute. "progress CPU" is the CPU time per update of every
thread but the main one: threads of the transport, and on one host the copying through shared memory or the kernel's
loopback that they do.

The three run by turns, a few updates each.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gossip
from gossip import UsageError, World
from gossip.launching.launchers import Launcher

from ..measuring.loop import Updates, build, measure
from ..measuring.models import KINDS, sleeping, times_for
from ..shared import options, record, screen, tables
from ..shared.methods import METHODS
from ..update import judging

COMPARED = ("none", "sgp", "osgp")
TURN = 5  # updates of one before the next has its turn

UNITS = "seconds and bytes of one update, medians over updates, the slowest rank's; threads_cpu: mean"
COLUMNS = ("algorithm", "ms per update", "exposed ms", "waits ms", "p90", "in flight ms", "sent", "progress CPU ms")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.add_choice(parser, "--compute", ("sleep", *KINDS), "sleep", "the ranks' work in each update")
    options.option(parser, "--seconds", options.positive, "0.4", "of compute in each update", "SECONDS")
    options.option(parser, "--size", options.size, "40MB", "bytes of float32 parameters", "SIZE")
    options.option(parser, "--steps", options.count, "20", "updates, by fives")
    options.option(parser, "--warmup", options.natural, "1", "updates before each five")
    options.add_world(parser)
    path = "where to write the record (default: out/overlap-COMPUTE-TRANSPORT.json)"
    options.option(parser, "--json", Path, None, path, "PATH")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse options that cannot be measured."""
    options.check_world(given)
    if launcher.size < 2:
        raise UsageError("one rank has nobody to speak to: start it as `mpirun -n 4 python -m bench overlap`")
    options.check_writable(given.json or Path("out/overlap.json"), launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, write."""
    console = screen.screen(launcher)
    turns = -(-given.steps // TURN)
    with gossip.init(given.transport, given.timeout) as world, screen.Course(console, turns) as course:
        transport = world.transport
        ranks = _measure(given, world, course, turns)
    results = {name: _slowest(each) for name, each in ranks.items()}
    for result in results.values():
        result["exposed"] = result["seconds"] - results["none"]["seconds"]
    ratio = results["osgp"]["waits"] / results["sgp"]["waits"]
    title = f"{screen.size(given.size)} of parameters, {launcher.size} ranks over {transport}, compute: {given.compute}"
    console.print(tables.on_screen(title, COLUMNS, [_row(name, results[name]) for name in COMPARED]))
    computing = {name: max(rank["computing"]["median"] for rank in each) for name, each in ranks.items()}
    if lacking := crowded(computing, given):
        titles = ", ".join(METHODS[name].title for name in lacking)
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


def _measure(given: argparse.Namespace, world: World, course: screen.Course, turns: int) -> dict[str, list[Any]]:
    """The figures of each method and rank."""
    compute = sleeping(given.seconds)
    if given.compute != "sleep":
        # The same work on every rank, however busy its core was when it was asked.
        compute = KINDS[given.compute](max(record.gather(world, times_for(given.compute, given.seconds))))
    optimizers = {name: build(METHODS[name], world, given.size) for name in COMPARED}
    updates = {name: Updates() for name in COMPARED}
    course.part(f"{TURN} updates of each, {turns} times")
    for _ in range(turns):
        for name, optimizer in optimizers.items():
            level = METHODS[name].blocking
            updates[name].add(measure(optimizer, world, compute, TURN, given.warmup, level=level))
        course.advance(1)
    return {name: record.gather(world, own.figures(window=1)) for name, own in updates.items()}


def crowded(computing: Mapping[str, float], given: argparse.Namespace) -> list[str]:
    """The methods whose slowest rank took too long to compute: more than asked, where it sleeps, or than `none`."""
    asked = [given.seconds] if given.compute == "sleep" else []
    return [name for name, took in computing.items() if judging.lacks_cores(took, computing["none"], *asked)]


def _slowest(ranks: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "seconds": max(rank["seconds"]["median"] for rank in ranks),
        "waits": max(rank["waits"]["median"] for rank in ranks),
        "waits_p90": max(rank["waits"]["p90"] for rank in ranks),
        **{name: record.highest(ranks, name) for name in ("in_flight", "bytes_sent", "threads_cpu")},
    }


def _row(name: str, result: dict[str, float]) -> list[str]:
    update, *times = (screen.ms(result[of]) for of in ("seconds", "waits", "waits_p90", "in_flight"))
    cpu = f"{screen.ms(result['threads_cpu'])} ({screen.percent(result['threads_cpu'] / result['seconds'])})"
    exposed, sent = judging.never_below_zero(result["exposed"]), screen.size(result["bytes_sent"])
    return [METHODS[name].title, update, exposed, *times, sent, cpu]
