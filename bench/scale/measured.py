"""What `python -m bench update` measured, read from its JSON as points that the model can predict."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gossip import UsageError

from .collectives import NAMES

LINE = "line"
"""The algorithm under which a record holds the line's own time: a round's bytes over its hops, nothing computed."""

NORMAL = 2.5631
"""p90 − p10 of a normal distribution, in standard deviations."""


class Point(NamedTuple):
    """One measured figure.

    file, algorithm, ranks, nbytes: what it is of. compute: seconds of compute that were asked for. alone: what an
    update without communication took beside it, None where that was not measured. period: τ. topology: a SPEC.
    seconds: median of an update; of the line, of the transfer alone. spread: standard deviation of the updates over
    their median, as their percentiles tell it. level: timed from a barrier before the step.
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


class Measured(NamedTuple):
    """The points of a file, and the algorithms in it that the model does not know."""

    points: list[Point]
    unknown: list[str]


def read(path: Path) -> Measured:
    """The points of a record; raises `UsageError` for a file that is none of `bench update`."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("benchmark") != "update":
        raise UsageError(f"{path} was not written by `python -m bench update`: pass the file of its --json")
    try:
        results, settings = record["results"], record["settings"]
        known = {*NAMES, LINE}
        unknown = sorted({result["algorithm"] for result in results} - known)
        found = [_point(path, record, settings, result) for result in results if result["algorithm"] in known]
        alone = {_place(point): point.seconds for point in found if point.algorithm == "none"}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not as `python -m bench update` writes it: {error!r}") from error
    return Measured([point._replace(alone=alone.get(_place(point))) for point in found], unknown)


def _place(point: Point) -> tuple[int, int, float]:
    """What is compared with each other in one file."""
    return point.ranks, point.nbytes, point.compute


def _point(path: Path, record: Mapping[str, Any], settings: Mapping[str, Any], result: Mapping[str, Any]) -> Point:
    def of(name: str) -> Any:
        """The result's own, or that of the whole run."""
        return result.get(name, record.get(name, settings.get(name)))

    algorithm = str(result["algorithm"])
    measured = result["seconds"]
    median = float(measured["median"])
    if median <= 0:
        raise ValueError(f"{algorithm} took {median} s")
    return Point(
        file=path,
        algorithm=algorithm,
        ranks=int(of("ranks")),
        nbytes=int(result["bytes"]),
        compute=float(of("compute")),
        alone=None,
        period=int(of("period")),
        topology=str(of("topology")),
        seconds=median,
        spread=(float(measured["p90"]) - float(measured["p10"])) / NORMAL / median,
        level=bool(result.get("level", True)),
    )
