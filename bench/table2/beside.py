"""Measured seconds beside those that bytes predict and those that the paper prints, and why they differ."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..shared import paper as published
from ..shared import screen
from ..shared.methods import METHODS, Method
from .rows import HALVES, LINE, NBYTES, ROWS, Half, Line, Measured, Periods, predicted

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
    return Beside(name, half, measured.line, results, order, notes(half, measured.line.paused, results, ranks))


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
        if at_scale(measured.line.paused):
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
    return {**result, "why": why(half, method, result, ranks)}


def _order(paper: published.Half, measured: Mapping[str, float]) -> Order:
    names = sorted((name for name in COMPARED if name in paper.seconds), key=lambda name: paper.seconds[name])
    seconds = [measured[name] for name in names]
    return Order(names, all(a < b for a, b in pairwise(seconds)))


AS_PUBLISHED = 0.10
"""Of the paper's figure: what needs no explanation."""

SAME_LINE = 0.10
"""Of the paper's line at this scale, bytes over rate: headers alone are 5 % more, and a shaper's burst is less."""


CROWDED = (
    "With less compute than transfer, and no barrier, ranks drift apart and messages of two rounds may meet on a link. "
    "The prediction has each link to one message at a time."
)


def at_scale(line: float) -> bool:
    """Whether the line is the paper's, so that its figures are those to expect."""
    return abs(line / LINE - 1) <= SAME_LINE


def why(half: Half, method: Method, result: Mapping[str, Any], ranks: int) -> str | None:
    """A sentence on a row that differs from the paper by more than `AS_PUBLISHED`."""
    over = result["over_paper"]
    if over is None or abs(over - 1) <= AS_PUBLISHED:
        return None
    if result["outside"]:
        return (
            "Its bytes do not put it there either: the rounds of a sum, merging and the hosts' cores take time too, "
            "or these hosts did something else meanwhile."
        )
    if not half.same:
        return (
            f"{screen.ms(half.compute)} ms of compute beside {screen.ms(LINE)} ms of transfer are not the paper's "
            "shares, and this row's time over that of SGP depends on them."
        )
    if method.base == "sgp" and over > 1:
        return published.SGP_OVERLAPS
    if method.base == "ar" and ranks != half.paper.nodes:
        return _models(ranks, half.paper.nodes)
    return "Its bytes predict what was measured; what else took time in the paper's run is not in its table."


def notes(half: Half, line: float, results: Sequence[Mapping[str, Any]], ranks: int) -> list[str]:
    """The sentences on a half; those of `why` stand behind the names of their rows."""
    if not at_scale(line):
        paper = f"the paper's would take {screen.ms(LINE)} at this scale"
        return [f"Not compared with the paper: the line took {screen.ms(line)} ms, and {paper}."]
    found: dict[str, list[str]] = {}
    crowded = [result for result in results if not result["level"] and result["outside"]]
    if half.compute < line and crowded:
        found[CROWDED] = [METHODS[result["algorithm"]].title for result in crowded]
    for result in results:
        if result["why"]:
            found.setdefault(result["why"], []).append(METHODS[result["algorithm"]].title)
    reasons = [f"{', '.join(titles)}: {sentence}" for sentence, titles in found.items()]
    if half.same:
        return [_models(ranks, half.paper.nodes), *reasons]
    by_bytes, measured = (
        difference({result["algorithm"]: result[what] for result in results}) for what in ("predicted", "measured")
    )
    return [
        "The paper's model is another one, and neither its bytes nor its compute are in the table, so its ms cannot be "
        "predicted. What can be compared is the order and, as far as compute and transfer share the time alike, each "
        "row over SGP.",
        "(AR - SGP) / (SGP - Local), from which compute, bytes and rate cancel: "
        f"{by_bytes:.2f} predicted, {measured:.2f} measured, {difference(half.paper.seconds):.2f} in the paper, where "
        "an all-reduce must have cost less beside SGP than its bytes.",
        *reasons,
    ]


def difference(seconds: Mapping[str, float]) -> float:
    """The cost of an exact average beyond a round of gossip, over the cost of a round beyond Local SGD.

    >>> difference({"ar": 5.0, "sgp": 4.0, "local": 2.0})
    0.5
    """
    return (seconds["ar"] - seconds["sgp"]) / (seconds["sgp"] - seconds["local"])


def _models(ranks: int, nodes: int) -> str:
    own, theirs = (2 * (n - 1) / n for n in (ranks, nodes))
    return f"An exact average of {ranks} ranks sends {own:.2f} models, of the paper's {nodes} nodes {theirs:.2f}."
