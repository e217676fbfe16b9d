"""The rows of the table, its two halves, and what bytes over bandwidth say of each row.

With c the seconds of an update without communication, L the line, in which every rank sends a model's bytes and
receives as many after a pause, S the same without one, n ranks and A = 2(n − 1)/n · L for an exact average:

    AR          c + A
    Local SGD   c + A/τ
    SGP         c + L
    OSGP        max(c, S)
    SlowMo      A/τ more; Local SGD averages as often by itself, and the variant without averages sends nothing for it
"""

from __future__ import annotations

from typing import NamedTuple

from ..shared import paper as published
from ..shared.algorithms import ALGORITHMS
from ..shared.statistics import window

SCALE = 100
NBYTES, RATE = published.NBYTES // SCALE, published.RATE / SCALE
LINE = 8 * NBYTES / RATE
"""Seconds that the paper's line takes, and at this scale those of ours."""


class Half(NamedTuple):
    """One of the table's data sets: the paper's figures, seconds of compute here, and whether they are the paper's."""

    paper: published.Half
    compute: float
    same: bool


HALVES = {
    "imagenet": Half(published.IMAGENET, published.COMPUTE, same=True),
    "wmt": Half(published.WMT, 0.05, same=False),
}


class Periods(NamedTuple):
    """τ of SlowMo, and that of Local SGD with or without it."""

    slowmo: int
    local: int


class Line(NamedTuple):
    """Seconds that the line takes for a model's bytes.

    paused: after a pause, in which a shaper, as a switch's buffer, makes room for a burst. steady: one message right
    after another, which is what twice the bytes take more.
    """

    paused: float
    steady: float


class Row(NamedTuple):
    """What an algorithm, by its name in `ALGORITHMS`, communicates.

    overlap: of the round of gossip in each update, None without. gradients: averaged over the world in each update.
    averages: the parameters are, once in a period, which is Local SGD's if `local`.
    """

    name: str
    overlap: int | None = None
    gradients: bool = False
    averages: bool = False
    local: bool = False

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return ALGORITHMS[self.name].title

    def period(self, periods: Periods) -> int:
        """Its τ."""
        return periods.local if self.local else periods.slowmo

    def window(self, periods: Periods) -> int:
        """Updates whose mean is a time."""
        algorithm = ALGORITHMS[self.name]
        return window(self.period(periods), periodic=algorithm.periodic, blocking=algorithm.blocking)

    def predicted(self, compute: float, line: Line, ranks: int, periods: Periods) -> float:
        """Seconds of an update.

        >>> Row("sgp-slowmo", overlap=0, averages=True).predicted(0.25, Line(0.08, 0.085), 2, Periods(48, 12))
        0.3316666666666667
        """
        average = 2 * (ranks - 1) / ranks * line.paused
        seconds = max(compute, line.steady) if self.overlap == 1 else compute
        if self.overlap == 0:
            seconds += line.paused
        if self.gradients:
            seconds += average
        if self.averages:
            seconds += average / self.period(periods)
        return seconds


ROWS = (
    Row("none"),
    Row("ar", gradients=True),
    Row("ar-slowmo", gradients=True, averages=True),
    Row("local", averages=True, local=True),
    Row("local-slowmo", averages=True, local=True),
    Row("sgp", overlap=0),
    Row("sgp-slowmo", overlap=0, averages=True),
    Row("sgp-noaverage", overlap=0),
    Row("osgp", overlap=1),
    Row("osgp-slowmo", overlap=1, averages=True),
    Row("osgp-noaverage", overlap=1),
)
