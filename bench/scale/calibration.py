"""The parameters that fit measured points, and predictions held against other points.

Timed from a barrier, what a blocking method takes beyond its compute is linear in three unknowns:

    exposed = a·α + b·8/β + g·γ

with latency α, rate β, merging γ, and coefficients that the simulation itself tells when two of the three are nothing.
Least squares over relative errors; latency or merging that would be negative, or that the points cannot tell, is 0.
What a run without communication takes beyond the compute that was asked for grows with the bytes and is added to
compute, and the spread of its updates is the jitter.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import topologies
from gossip import UsageError

from ..shared.methods import Traffic
from .collectives import traffics
from .machine import Cluster, Floats, Machine
from .measured import LINE, Point
from .simulation import Prediction, simulate

FITTING = ("none", "line", "exact", "sgp")
"""What is fitted to unless options say otherwise: enough to tell the unknowns apart; the rest is left to judge."""

WINDOWS, LEAST, SETTLING = 4, 96, 32
"""How long a point is simulated: so many periods, at least so many updates, after so many more."""


class Overhead(NamedTuple):
    """What an update without communication takes beside its compute: the optimizer itself, and a sleep that is late.

    >>> Overhead(fixed=0.5, per_byte=2e-6).seconds(1_000_000)
    2.5
    """

    fixed: float = 0.0
    per_byte: float = 0.0

    def seconds(self, nbytes: float) -> float:
        """For a model of so many bytes."""
        return self.fixed + self.per_byte * nbytes


class Fitted(NamedTuple):
    """rate: bits per second. latency: seconds. merge: seconds for each byte. jitter: of the compute. overhead: beside
    it. error: rms of the relative errors; None where there are no more figures than unknowns, so that any would fit.
    points: those that were fitted to.
    """

    rate: float
    latency: float
    merge: float
    jitter: float
    overhead: Overhead
    error: float | None
    points: tuple[Point, ...]

    def onto(self, machine: Machine) -> Machine:
        """`machine` with these parameters in place of its own; `overhead` is left to whoever says what is computed."""
        return replace(machine, rate=self.rate, latency=self.latency, merge=self.merge, jitter=self.jitter, tail=None)

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        points = [point._asdict() for point in self.points]
        return {**self._asdict(), "overhead": self.overhead._asdict(), "points": points}


class Compared(NamedTuple):
    """A point, the seconds predicted for it, and predicted / measured − 1."""

    point: Point
    predicted: float
    error: float


def calibrate(points: Sequence[Point], machine: Machine, fitting: Sequence[str] = FITTING) -> Fitted:
    """Fit to the points of the algorithms `fitting`; raises `UsageError` where they do not tell the rate.

    machine: what is not fitted, such as eager messages; each rank has a link of its own.
    """
    if machine.ranks_per_host > 1 or machine.inside_rate is not None:
        raise UsageError("what is fitted is the link of one rank a host: calibrate without --ranks-per-host and inside")
    used = [point for point in points if point.algorithm in fitting and _linear(point)]
    alone = [point for point in used if point.algorithm == "none"]
    overhead = _overhead(alone)
    jitter = float(np.mean([point.spread for point in alone])) if alone else 0.0
    told = [point for point in used if point.algorithm != "none"]
    if not told:
        raise UsageError(
            f"nothing to fit a rate to: the measured files need one of {', '.join(fitting)} besides none, timed from a "
            "barrier; --fit names others"
        )
    rows = np.array([_coefficients(point, machine) for point in told])
    base = [0.0 if point.algorithm == LINE else _compute(point, overhead) for point in told]
    measured = np.array([point.seconds for point in told])
    x = _nonnegative(rows / measured[:, None], (measured - base) / measured)
    if x[1] <= 0:
        raise UsageError(
            "the measured points take no longer with more bytes, so they tell no rate: measure larger messages, or "
            "hosts whose links are slower"
        )
    error = (base + rows @ x) / measured - 1
    rms = float(np.sqrt(np.mean(error**2))) if len(told) > np.count_nonzero(x) else None
    return Fitted(8 / x[1], x[0], x[2], jitter, overhead, rms, tuple(used))


def compare(points: Sequence[Point], machine: Machine, overhead: Overhead, seed: int = 0) -> list[Compared]:
    """Each point, and what the model says of it on `machine` with the point's own ranks, bytes, compute and period."""
    found = []
    for point in points:
        computes = 0.0 if point.algorithm == LINE else max(0.0, point.compute + overhead.seconds(point.nbytes))
        asked = replace(machine, compute=computes, merge=0.0 if point.algorithm == LINE else machine.merge)
        predicted = _simulated(point, asked, seed).seconds.median
        found.append(Compared(point, predicted, predicted / point.seconds - 1))
    return found


def graph_of(point: Point) -> topologies.Topology:
    """Over which it was measured; raises `UsageError` where that cannot be had here."""
    try:
        return topologies.load(point.topology, point.ranks)
    except topologies.TopologyError as error:
        raise UsageError(f"{point.file} was measured on {point.topology}, which cannot be had: {error}") from error


def _linear(point: Point) -> bool:
    return point.algorithm == LINE or (_method(point).blocking and point.level)


def _compute(point: Point, overhead: Overhead) -> float:
    return point.compute + overhead.seconds(point.nbytes) if point.alone is None else point.alone


def _overhead(alone: Sequence[Point]) -> Overhead:
    """A line through what was measured at several sizes, their mean where it would fall or there is one size."""
    if not alone:
        return Overhead()
    beside = [point.seconds - point.compute for point in alone]
    sizes = [point.nbytes for point in alone]
    if len(set(sizes)) > 1:
        per_byte, fixed = np.polyfit(np.array(sizes, dtype=np.float64), beside, 1)
        if per_byte > 0:
            return Overhead(float(fixed), float(per_byte))
    return Overhead(float(np.mean(beside)))


def _method(point: Point) -> Traffic:
    return traffics(point.period)["sgp" if point.algorithm == LINE else point.algorithm]


def _simulated(point: Point, machine: Machine, seed: int) -> Prediction:
    method = _method(point)
    cluster, graph = Cluster(machine, point.ranks, seed), graph_of(point)
    steps = max(WINDOWS * method.window, LEAST // method.window * method.window)
    level = point.level and method.blocking
    return simulate({"": method}, cluster, graph, point.nbytes, steps, SETTLING, level=level)[""]


def _coefficients(point: Point, machine: Machine) -> tuple[float, float, float]:
    """Seconds exposed for a second of latency, for a second a byte of transfer, for a second a byte of merging."""
    nothing = replace(machine, compute=0.0, jitter=0.0, rate=np.inf, latency=0.0, merge=0.0)
    a, b, g = (
        _simulated(point, asked, 0).exposed
        for asked in (replace(nothing, latency=1.0), replace(nothing, rate=8.0), replace(nothing, merge=1.0))
    )
    return a, b, 0.0 if point.algorithm == LINE else g


def _nonnegative(rows: Floats, right: Floats) -> Floats:
    """x >= 0 with the least ‖rows x − right‖: the rate always, latency and merging where the rows can tell them."""
    best, least = np.zeros(3), np.inf
    for chosen in ([1], [0, 1], [1, 2], [0, 1, 2]):
        scale = np.linalg.norm(rows[:, chosen], axis=0)
        if not scale.all() or np.linalg.matrix_rank(rows[:, chosen] / scale, tol=1e-6) < len(chosen):
            continue
        x = np.linalg.lstsq(rows[:, chosen] / scale, right, rcond=None)[0] / scale
        rest = float(np.linalg.norm(rows[:, chosen] @ x - right))
        # More unknowns have to do better to be believed.
        if (x >= 0).all() and rest < least * (1 - 1e-6):
            best, least = np.zeros(3), rest
            best[chosen] = x
    return best
