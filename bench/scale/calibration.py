"""The parameters that fit points measured by `bench update`, and predictions held against other points.

Timed from a barrier, the time of a blocking method beyond its compute is linear in three unknowns:

    exposed = a·α + b·8/β + g·γ

with latency α, rate β, merging γ, and coefficients that the simulation itself tells when two of the three are nothing.
Least squares over relative errors; latency or merging that would be negative, or that the points cannot tell, is 0.
The time of a run without communication beyond the compute that was asked for grows with the bytes and is added to
compute, and the spread of its updates is the jitter.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import topologies
from gossip import UsageError

from ..shared.methods import Traffic
from .machine import NAMES, Cluster, Floats, Machine, traffics
from .simulation import Prediction, simulate

LINE = "line"
"""The algorithm under which a record holds the line's own time: a round's bytes over its hops, nothing computed."""
FITTING = ("none", LINE, "exact", "sgp")
"""The algorithms that are fitted to by default: enough to tell the unknowns apart; the rest is left to judge."""


class Point(NamedTuple):
    """One measured figure.

    compute: seconds of compute that were asked for. alone: an update without communication beside it, None where that
    was not measured. period: τ. topology: a SPEC. seconds: median of an update; of the line, of the transfer alone.
    spread: standard deviation of the updates over their median. level: timed from a barrier before the step.
    """

    file: Path
    algorithm: str
    ranks: int
    nbytes: int
    compute: float
    alone: float | None
    period: int
    topology: str
    seconds: float
    spread: float
    level: bool

    @property
    def traffic(self) -> Traffic:
        """The traffic of its method; the line sends what SGP does."""
        return traffics(self.period)["sgp" if self.algorithm == LINE else self.algorithm]

    @property
    def graph(self) -> topologies.Topology:
        """Over which it was measured; raises `UsageError` where that cannot be had here."""
        try:
            return topologies.load(self.topology, self.ranks)
        except topologies.TopologyError as error:
            raise UsageError(f"{self.file} was measured on {self.topology}, which cannot be had: {error}") from error


def read(path: Path) -> tuple[list[Point], list[str]]:
    """The points of a record of `bench update`, and the algorithms in it that the model does not know."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("benchmark") != "update":
        raise UsageError(f"{path} was not written by `python -m bench update`: pass the file of its --json")
    try:
        every = [{**record["settings"], **record, **result} for result in record["results"]]
        points = [_point(path, each) for each in every if each["algorithm"] in (*NAMES, LINE)]
        unknown = sorted({each["algorithm"] for each in every} - {*NAMES, LINE})
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not as `python -m bench update` writes it: {error!r}") from error
    alone = {point[2:5]: point.seconds for point in points if point.algorithm == "none"}
    return [point._replace(alone=alone.get(point[2:5])) for point in points], unknown


def _point(path: Path, each: dict[str, Any]) -> Point:
    algorithm, measured = str(each["algorithm"]), each["seconds"]
    median = float(measured["median"])
    if median <= 0:
        raise ValueError(f"{algorithm} took {median} s")
    # Of a normal distribution, p90 − p10 is so many standard deviations.
    spread = (float(measured["p90"]) - float(measured["p10"])) / 2.5631 / median
    return Point(
        path,
        algorithm,
        int(each["ranks"]),
        int(each["bytes"]),
        float(each["compute"]),
        alone=None,
        period=int(each["period"]),
        topology=str(each["topology"]),
        seconds=median,
        spread=spread,
        level=bool(each.get("level", True)),
    )


class Overhead(NamedTuple):
    """The time of a lone update beside its compute: the optimizer itself, and a sleep that is late."""

    fixed: float = 0.0
    per_byte: float = 0.0

    def seconds(self, nbytes: float) -> float:
        """For a model of so many bytes."""
        return self.fixed + self.per_byte * nbytes


class Fitted(NamedTuple):
    """A machine's parameters, and the points that they were fitted to. error: rms of the relative errors; None where
    there are no more figures than unknowns, so that any would fit."""

    rate: float
    latency: float
    merge: float
    jitter: float
    overhead: Overhead
    error: float | None
    points: tuple[Point, ...]

    def onto(self, machine: Machine) -> Machine:
        """`machine` with these parameters in place of its own, but for `overhead`, which the caller adds to compute."""
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
    """Fit to the points of the algorithms `fitting`; `machine` has what is not fitted, such as eager messages."""
    if machine.ranks_per_host > 1 or machine.inside_rate is not None:
        raise UsageError("what is fitted is the link of one rank a host: calibrate without --ranks-per-host and inside")
    fit = [point for point in points if point.algorithm in fitting]
    used = [point for point in fit if point.algorithm == LINE or (point.traffic.blocking and point.level)]
    alone = [point for point in used if point.algorithm == "none"]
    told = [point for point in used if point.algorithm != "none"]
    if not told:
        raise UsageError(
            f"nothing to fit a rate to: the measured files need one of {', '.join(fitting)} besides none, timed from a "
            "barrier; --fit names others"
        )
    overhead = _overhead(alone)
    jitter = float(np.mean([point.spread for point in alone])) if alone else 0.0
    bare = [point.compute + overhead.seconds(point.nbytes) if point.alone is None else point.alone for point in told]
    base = [0.0 if point.algorithm == LINE else alone for point, alone in zip(told, bare, strict=True)]
    rows = np.array([_coefficients(point, machine) for point in told])
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
    """Each point, and its prediction on `machine` with the point's own ranks, bytes, compute and period."""
    found = []
    for point in points:
        asked = replace(machine, compute=max(0.0, point.compute + overhead.seconds(point.nbytes)))
        if point.algorithm == LINE:
            asked = replace(machine, compute=0.0, merge=0.0)
        predicted = _simulated(point, asked, seed).seconds.median
        found.append(Compared(point, predicted, predicted / point.seconds - 1))
    return found


def _overhead(alone: Sequence[Point]) -> Overhead:
    """A line through the figures of several sizes, their mean where it would fall or there is one size."""
    beside = [point.seconds - point.compute for point in alone]
    sizes = [float(point.nbytes) for point in alone]
    if len(set(sizes)) > 1:
        per_byte, fixed = np.polyfit(sizes, beside, 1).tolist()
        if per_byte > 0:
            return Overhead(fixed, per_byte)
    return Overhead(float(np.mean(beside))) if alone else Overhead()


def _simulated(point: Point, machine: Machine, seed: int) -> Prediction:
    traffic, cluster = point.traffic, Cluster(machine, point.ranks, seed)
    # Four periods, at least 96 updates, after 32 more.
    steps = max(4 * traffic.window, 96 // traffic.window * traffic.window)
    level = point.level and traffic.blocking
    return simulate({"": traffic}, cluster, point.graph, point.nbytes, steps, warmup=32, level=level)[""]


def _coefficients(point: Point, machine: Machine) -> tuple[float, float, float]:
    """Seconds exposed for a second of latency, for a second a byte of transfer, for a second a byte of merging."""
    nothing = replace(machine, compute=0.0, jitter=0.0, rate=np.inf, latency=0.0, merge=0.0)
    alone = (replace(nothing, latency=1.0), replace(nothing, rate=8.0), replace(nothing, merge=1.0))
    a, b, g = (_simulated(point, each, seed=0).exposed for each in alone)
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
