"""The rows of the table, its two halves, and what bytes over bandwidth say of each row.

With c the seconds of an update without communication, L the line, in which every rank sends a model's bytes and
receives as many after a pause, S the same without one, n ranks and A = 2(n − 1)/n · L for an exact average:

    AR          c + A
    Local SGD   c + A/τ
    SGP         c + L
    OSGP        max(c, S)
    SlowMo      A/τ more; Local SGD averages as often by itself, and the variant without averages sends nothing for it
"""

from typing import NamedTuple

from ..shared import paper
from ..shared.methods import METHODS, Method
from ..shared.statistics import window

SCALE = 100
NBYTES, RATE = paper.NBYTES // SCALE, paper.RATE / SCALE
LINE = 8 * NBYTES / RATE
"""Seconds that the paper's line takes, and at this scale those of ours."""

ROWS = (
    *("none", "ar", "ar-slowmo", "local", "local-slowmo", "sgp", "sgp-slowmo", "sgp-noaverage"),
    *("osgp", "osgp-slowmo", "osgp-noaverage"),
)


class Half(NamedTuple):
    """One of the table's data sets: the paper's figures, seconds of compute here, and whether they are the paper's."""

    paper: paper.Half
    compute: float
    same: bool


HALVES = {
    "imagenet": Half(paper.IMAGENET, paper.COMPUTE, same=True),
    "wmt": Half(paper.WMT, 0.05, same=False),
}


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
        return window(method.period, periodic=method.periodic, blocking=method.blocking)


class Line(NamedTuple):
    """Seconds that the line takes for a model's bytes.

    paused: after a pause, in which a shaper, as a switch's buffer, makes room for a burst. steady: one message right
    after another, which is the time that twice the bytes take more.
    """

    paused: float
    steady: float


def predicted(method: Method, compute: float, line: Line, ranks: int) -> float:
    """Seconds of an update.

    >>> predicted(Periods(48, 12).method("sgp-slowmo"), 0.25, Line(0.08, 0.085), ranks=2)
    0.3316666666666667
    """
    traffic = method.traffic()
    average = 2 * (ranks - 1) / ranks * line.paused
    seconds = max(compute, line.steady) if traffic.overlap == 1 else compute
    if traffic.overlap == 0:
        seconds += line.paused
    return seconds + sum(average / every for every in traffic.averages)
