"""The rows of the table, its two halves, and what bytes over bandwidth say of each row."""

import argparse
import gc
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import gossip
from gossip import UsageError, World
from topologies import exponential

from ..cluster import line
from ..measuring import models
from ..measuring.loop import figures, gathered, measure, sgd
from ..shared import paper, screen
from ..shared.methods import METHODS, Method
from ..shared.statistics import window

NBYTES, RATE = paper.NBYTES // 100, paper.RATE / 100
LINE = 8 * NBYTES / RATE  # seconds that the paper's line takes, and at this scale those of ours

ROWS = (
    *("none", "ar", "ar-slowmo", "local", "local-slowmo", "sgp", "sgp-slowmo", "sgp-noaverage"),
    *("osgp", "osgp-slowmo", "osgp-noaverage"),
)


class Half(NamedTuple):
    """One of the table's data sets: the paper's figures, seconds of compute here, and whether they are the paper's."""

    paper: paper.Half
    compute: float
    same: bool


HALVES = {"imagenet": Half(paper.IMAGENET, paper.COMPUTE, same=True), "wmt": Half(paper.WMT, 0.05, same=False)}


class Periods(NamedTuple):
    """τ of SlowMo, and that of Local SGD with or without it."""

    slowmo: int
    local: int

    def method(self, name: str) -> Method:
        """The method of a row, with its τ."""
        return METHODS[name].over("exponential", self.local if name.startswith("local") else self.slowmo)

    def window(self, name: str) -> int:
        """Updates of a row whose mean is a time."""
        method = self.method(name)
        return window(method.period, method)


class Line(NamedTuple):
    """Seconds that the line takes for a model's bytes: L after a pause, in which a shaper, as a switch's buffer, makes
    room for a burst, and S right after another message, which is the time that twice the bytes take more."""

    paused: float
    steady: float


def predicted(method: Method, compute: float, line: Line, ranks: int) -> float:
    """Seconds of an update; `compute` is one without communication."""
    traffic = method.traffic()
    # A = 2(n − 1)/n L
    average = 2 * (ranks - 1) / ranks * line.paused
    # SGP c + L, OSGP max(c, S), and each exact average A/τ more
    gossip = {None: compute, 0: compute + line.paused, 1: max(compute, line.steady)}[traffic.overlap]
    return gossip + sum(average / every for every in traffic.averages)


Measured = tuple[Line, dict[str, dict[str, Any]]]  # A half's line, and what `measuring.figures` has of each row


def measure_all(given: argparse.Namespace, course: screen.Course) -> tuple[str, dict[str, Measured]]:
    """Every rank calls it: the transport, and the halves that are asked for."""
    periods = Periods(given.period, given.local_period)
    found = {}
    for name in given.halves:
        # A world for each half: the channels of one world are numbered, and there are not many of them.
        with gossip.init(given.transport, given.timeout) as world:
            check_shared(world.hosts)
            transport = world.transport
            rows: dict[str, dict[str, Any]] = {}
            found[name] = _line(world, HALVES[name].compute, given.timeout), rows
            for row in ROWS:
                course.part(f"{name}: {METHODS[row].title}")
                rows[row] = _row(row, HALVES[name], world, given, periods)
                course.advance(warmup_of(row, given, periods) + given.steps)
                gc.collect()
    return transport, found


def check_shared(hosts: Sequence[str]) -> None:
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


def _row(row: str, half: Half, world: World, given: argparse.Namespace, periods: Periods) -> dict[str, Any]:
    task = models.sleep(NBYTES, world, half.compute)
    method = periods.method(row)
    optimizer, warmup = method.around(sgd(task.module), world), warmup_of(row, given, periods)
    own = measure(optimizer, world, task.compute, given.steps, warmup, level=method.blocking)
    window = periods.window(row)
    return figures(gathered(own.whole(window), world), window)


def _line(world: World, pause: float, timeout: float) -> Line:
    """Of raw sockets, now, over the hops of the graph; where all ranks share a host, through its loopback."""
    found = line.paused_and_steady(world, exponential(world.size), NBYTES, pause, timeout)
    if found is not None:
        return Line(found[0]["median"], found[1])
    paused, twice = (line.measure(world, nbytes, timeout=timeout) for nbytes in (NBYTES, 2 * NBYTES))
    return Line(paused, twice - paused)
