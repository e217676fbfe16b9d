"""Measured seconds beside those that bytes predict and those that the paper prints."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from ..shared import paper as published
from ..shared.methods import METHODS
from . import notes
from .measurement import Measured
from .rows import HALVES, NBYTES, ROWS, Half, Line, Periods, predicted

WITHIN = 0.05
"""Of its prediction: where a row belongs."""

COMPARED = ("osgp", "local", "sgp", "ar")
"""Whose order is checked, where the paper has them."""


class Order(NamedTuple):
    """Algorithms from the fastest to the slowest, as the paper has them; whether they are measured so."""

    names: list[str]
    holds: bool

    def __str__(self) -> str:
        order = " < ".join(METHODS[name].title for name in self.names)
        return f"order of the paper, {order}: {'measured too' if self.holds else 'not so here'}"


class Beside(NamedTuple):
    """A half's results, one for each row, its order, and what has to be said of them."""

    name: str
    half: Half
    line: Line
    results: list[dict[str, Any]]
    order: Order
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        paper = {
            "title": self.half.paper.title,
            "nodes": self.half.paper.nodes,
            "compute_is_the_papers": self.half.same,
        }
        order = {"expected": self.order.names, "holds": self.order.holds}
        return {
            "half": self.name,
            **paper,
            "line": self.line.paused,
            "line_steady": self.line.steady,
            "order": order,
            "notes": self.notes,
        }


def beside(name: str, measured: Measured, ranks: int, periods: Periods) -> Beside:
    """Set every row of a half beside what is predicted from its line, and beside the paper."""
    half = HALVES[name]
    compute = _seconds(measured, "none")
    results = [_result(name, half, row, measured, compute, ranks, periods) for row in ROWS]
    order = _order(half.paper, {result["algorithm"]: result["measured"] for result in results})
    return Beside(name, half, measured.line, results, order, notes.notes(half, measured.line.paused, results, ranks))


def _seconds(measured: Measured, name: str) -> float:
    """Of an update: a median over updates, or over windows of τ updates of their mean."""
    return float(measured.rows[name]["seconds"]["median"])


def _result(
    name: str, half: Half, row: str, measured: Measured, compute: float, ranks: int, periods: Periods
) -> dict[str, Any]:
    method = periods.method(row)
    seconds, paper = _seconds(measured, row), half.paper.seconds.get(row)
    expected = predicted(method, compute, measured.line, ranks)
    over_sgp = seconds / _seconds(measured, "sgp")
    paper_over_sgp = over_paper = None
    if paper is not None:
        paper_over_sgp = paper / half.paper.seconds["sgp"]
        if notes.at_scale(measured.line.paused):
            over_paper = seconds / paper if half.same else over_sgp / paper_over_sgp
    result = {
        "half": name,
        "algorithm": row,
        "bytes": NBYTES,
        "compute": half.compute,
        "topology": "exponential",
        "period": method.period,
        "window": periods.window(row),
        "level": method.blocking,
        **measured.rows[row],
        "measured": seconds,
        "predicted": expected,
        "over_predicted": seconds / expected,
        "outside": abs(seconds / expected - 1) > WITHIN,
        "paper": paper,
        "over_paper": over_paper,
        "over_sgp": over_sgp,
        "paper_over_sgp": paper_over_sgp,
    }
    return {**result, "why": notes.why(half, method, result, ranks)}


def _order(paper: published.Half, measured: Mapping[str, float]) -> Order:
    names = sorted((name for name in COMPARED if name in paper.seconds), key=lambda name: paper.seconds[name])
    seconds = [measured[name] for name in names]
    return Order(names, all(a < b for a, b in pairwise(seconds)))
