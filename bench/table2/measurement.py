"""One row after another, measured on all ranks, beside the line of the same run."""

import argparse
import gc
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import gossip
from gossip import UsageError, World
from topologies import exponential

from ..cluster import line
from ..shared import screen
from ..shared.methods import METHODS
from ..update import models, wire
from ..update.measuring import figures, gathered, measure, sgd
from .rows import HALVES, NBYTES, ROWS, Half, Line, Periods


class Measured(NamedTuple):
    """A half's line, and what `measuring.figures` has of each row."""

    line: Line
    rows: dict[str, dict[str, Any]]


def run(given: argparse.Namespace, course: screen.Course) -> tuple[str, dict[str, Measured]]:
    """Every rank calls it: the transport, and the halves that are asked for."""
    periods = Periods(given.period, given.local_period)
    found = {}
    for name in given.halves:
        # A world for each half: the channels of one world are numbered, and there are not many of them.
        with gossip.init(given.transport, given.timeout) as world:
            refuse_shared(world.hosts)
            transport = world.transport
            measured = Measured(_line(world, HALVES[name].compute, given.timeout), {})
            for row in ROWS:
                course.part(f"{name}: {METHODS[row].title}")
                measured.rows[row] = _row(row, HALVES[name], world, given, periods)
                course.advance(updates_of(row, given, periods))
                gc.collect()
            found[name] = measured
    return transport, found


def refuse_shared(hosts: Sequence[str]) -> None:
    """Refuse several hosts of which one has several ranks, who would share its link."""
    host, most = Counter(hosts).most_common(1)[0]
    if len(set(hosts)) > 1 and most > 1:
        raise UsageError(
            f"{most} ranks would share {host} and its link, and the table has one on each: start one rank a host, as "
            "in `python -m bench cluster --nodes 8 -- python -m bench table2`"
        )


def warmup_of(row: str, given: argparse.Namespace, periods: Periods) -> int:
    """At least a window, so that nothing which is timed happens for the first time."""
    return max(int(given.warmup), periods.window(row))


def updates_of(row: str, given: argparse.Namespace, periods: Periods) -> int:
    """How many are made, warm-ups among them."""
    return warmup_of(row, given, periods) + int(given.steps)


def _row(row: str, half: Half, world: World, given: argparse.Namespace, periods: Periods) -> dict[str, Any]:
    task = models.sleep(NBYTES, world, half.compute)
    method = periods.method(row)
    optimizer, warmup = method.around(sgd(task.module), world), warmup_of(row, given, periods)
    own = measure(optimizer, world, task.compute, given.steps, warmup, level=method.blocking)
    window = periods.window(row)
    return figures(gathered(own.whole(window), world), window)


def _line(world: World, pause: float, timeout: float) -> Line:
    """Of raw sockets, now, over the hops of the graph; where all ranks share a host, through its loopback."""
    found = wire.paused_and_steady(world, exponential(world.size), NBYTES, pause, timeout)
    if found is not None:
        return Line(found[0]["median"], found[1])
    paused, twice = (line.measure(world, nbytes, timeout=timeout) for nbytes in (NBYTES, 2 * NBYTES))
    return Line(paused, twice - paused)
