"""Predicted time per update, from 2 to 65,536 ranks: all-reduce, Local SGD, SGP, OSGP, SlowMo.

Not measured but simulated: the clocks of all ranks, update after update, on hosts as the options describe them, or as
they follow from files that `python -m bench update` has measured. Each update's compute is drawn, with a heavy tail.
AR-SGD waits for all ranks and takes what the bytes and rounds of this runtime's exact sum take; other all-reduces, such
as AR ring, whose rounds grow with the number of ranks, are to compare it with. SGP waits for the peers of one round;
OSGP sends a round while the next update computes. Left out: what a congested switch adds, compute that slows down while
messages are copied, and the outer step's own arithmetic.

Median: of windows of updates (τ of them where something happens every τ-th) of up to 256 ranks. Exposed: what an update
takes on average beyond the rank's own compute, over all ranks. Local-SlowMo takes what Local SGD takes, and a
no-average variant what its base takes, so they are not shown unless asked for.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import topologies
from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..shared import options as common
from ..shared import record, screen
from ..shared.methods import Traffic
from . import options, report
from .calibration import FITTING, Fitted, Overhead, Point, calibrate, compare, read
from .machine import TITLES, Cluster, traffics
from .simulation import simulate

add_options = options.add_options
MOST_MESSAGES = 1 << 22  # in a round: three arrays of so many numbers, and half a second


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be simulated, and files that tell nothing."""
    if launcher.size > 1:
        raise UsageError("this simulates all ranks in one process: start it as `python -m bench scale`, by itself")
    for name, method in _methods(given).items():
        if given.steps < method.window:
            raise UsageError(f"--steps {given.steps} is less than one period, {method.window}, of {name}")
    if given.picture.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--picture {given.picture}: its name ends in none of .png, .svg, .pdf")
    common.check_graph(given.topology)
    options.check_idle(given)
    given.fit = given.fit or list(FITTING)
    given.within = given.within or options.WITHIN
    if given.ranks_per_host > 1 and given.inside_rate is None:
        raise UsageError(
            f"--ranks-per-host {given.ranks_per_host} needs --inside-rate: how fast ranks of one host speak to each "
            "other, as in 200gbit"
        )
    for size in given.ranks:
        _check_graph(given.topology, size)
    fitted = _fitted(given)
    if given.validate and not _unused(given, fitted):
        raise UsageError("--validate: these files hold no point that was not fitted to, so nothing can be judged")
    for point in _unused(given, fitted):
        _ = point.graph  # which cannot be had everywhere
    common.check_writable(given.json, launcher)
    common.check_writable(given.picture, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Fit, simulate, compare, print, write, draw; exits with 1 where a measured point is missed."""
    console = screen.screen(launcher)
    fitted = _fitted(given)
    machine, chosen = options.machine(given, fitted), _methods(given)
    found: report.Found = {}
    with screen.Course(console, sum(given.ranks)) as course:
        course.part(f"{given.warmup + given.steps} updates on up to {given.ranks[-1]:,} ranks")
        for size in given.ranks:
            cluster, graph = Cluster(machine, size, given.seed), topologies.load(given.topology, size)
            found[size] = simulate(chosen, cluster, graph, given.size, given.steps, given.warmup)
            course.advance(size)
    compared = compare(_unused(given, fitted), machine, fitted.overhead if fitted else Overhead(), given.seed)
    missed = [each for each in compared if abs(each.error) > given.within / 100]
    paper = report.published() if given.published else []
    title = f"Predicted time per update, {screen.size(given.size)} of parameters"
    lines = [report.hosts(machine), report.periods(chosen)]
    console.print(report.predictions("\n".join([title, *lines, "median, ms"]), chosen, found))
    if fitted:
        console.print(report.fit_sentence(fitted), "")
    if paper:
        console.print(report.beside_paper(paper))
    if compared:
        unknown = sorted({name for file in given.validate for name in read(file)[1]})
        console.print(report.judged(compared, unknown, given.within / 100))
    record.write(
        given,
        launcher,
        given.json,
        unit="seconds, bits per second, bytes; predicted, not measured",
        model=asdict(machine),
        fitted=fitted and fitted.record(),
        results=[
            {
                "method": name,
                "title": TITLES[name],
                "ranks": n,
                "seconds": each.seconds._asdict(),
                "exposed": each.exposed,
                "bytes_sent": each.sent,
            }
            for n, row in found.items()
            for name, each in row.items()
        ],
        validation=[{**point._asdict(), "predicted": seconds, "error": error} for point, seconds, error in compared],
        published=paper,
    )
    report.draw(given.picture, list(chosen), found, title, "\n".join(lines))
    console.print(f"written to {given.json} and {given.picture}")
    if missed:
        said = f"{len(missed)} of {len(compared)} points are missed by more than {given.within:g} %"
        print(f"python -m bench scale: {said}", file=sys.stderr)
        sys.exit(1)


def _methods(given: argparse.Namespace) -> dict[str, Traffic]:
    known = traffics(given.period, given.local_period, given.average)
    return {name: known[name] for name in given.methods}


def _check_graph(spec: str, size: int) -> None:
    try:
        graph = topologies.load(spec, size)
        # Sixteen ranks of four rounds tell how many messages there are: a family has one degree, or a usual one.
        some = range(0, size, -(-size // 16))
        degrees = [[len(graph.turn(rank, round).sends) for rank in some] for round in range(min(graph.period or 4, 4))]
    except topologies.TopologyError as error:
        raise UsageError(f"--topology {spec}: {error}") from error
    messages = size * max(sum(each) / len(some) for each in degrees)
    if messages > MOST_MESSAGES:
        raise UsageError(
            f"--topology {spec} sends {messages:,.0f} messages a round among {size:,} ranks, more than "
            f"{MOST_MESSAGES:,}: ask for fewer --ranks, or for another graph"
        )


def _fitted(given: argparse.Namespace) -> Fitted | None:
    return calibrate(_points(given.measured), options.machine(given, None), given.fit) if given.measured else None


def _unused(given: argparse.Namespace, fitted: Fitted | None) -> list[Point]:
    used = set(fitted.points) if fitted else set()
    return [point for point in _points(given.validate) if point not in used]


def _points(files: Iterable[Path]) -> list[Point]:
    return [point for file in dict.fromkeys(files) for point in read(file)[0]]
