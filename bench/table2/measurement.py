"""One row after another, measured on all ranks, beside the line of the same run."""

from __future__ import annotations

import argparse
import gc
from typing import Any, NamedTuple

import gossip
from gossip import World
from topologies import exponential

from .. import models, screen, wire
from ..algorithms import ALGORITHMS
from ..cluster import line
from ..measuring import figures, gathered, measure, sgd
from .rows import HALVES, NBYTES, ROWS, Half, Line, Periods, Row


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
            transport = world.transport
            measured = Measured(_line(world, HALVES[name].compute, given.timeout), {})
            for row in ROWS:
                course.part(f"{name}: {row.title}")
                measured.rows[row.name] = _row(row, HALVES[name], world, given, periods)
                course.advance(given.warmup + given.steps)
                gc.collect()
            found[name] = measured
    return transport, found


def _row(row: Row, half: Half, world: World, given: argparse.Namespace, periods: Periods) -> dict[str, Any]:
    task = models.sleep(NBYTES, world, half.compute)
    algorithm, window = ALGORITHMS[row.name], row.window(periods)
    optimizer = algorithm.build(sgd(task.module), world, exponential(world.size), row.period(periods))
    own = measure(optimizer, world, task.compute, given.steps, given.warmup, level=algorithm.blocking)
    return figures(gathered(own.whole(window), world), window)


def _line(world: World, pause: float, timeout: float) -> Line:
    """Of raw sockets, now, over the hops of the graph; where all ranks share a host, through its loopback."""

    def seconds(nbytes: int) -> float:
        found = wire.seconds(world, exponential(world.size), nbytes, pause, timeout)
        return found["median"] if found else line.measure(world, nbytes, timeout=timeout)

    paused = seconds(NBYTES)
    return Line(paused, seconds(2 * NBYTES) - paused)
