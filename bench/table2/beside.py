"""Measured seconds beside those that bytes predict and those that the paper prints, and why they differ."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..shared import paper, screen
from ..shared.methods import METHODS, Method
from .rows import HALVES, LINE, NBYTES, ROWS, Half, Line, Measured, Periods, predicted

WITHIN = 0.05  # of its prediction: where a row belongs

COMPARED = ("osgp", "local", "sgp", "ar")  # whose order is checked, where the paper has them


class Beside(NamedTuple):
    """A half's results, one for each row, the sentences on them, and the paper's order of some, from the fastest to the
    slowest; `holds`: whether they are measured so."""

    name: str
    half: Half
    line: Line
    results: list[dict[str, Any]]
    order: list[str]
    holds: bool
    notes: list[str]

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "half": self.name, "title": self.half.paper.title, "nodes": self.half.paper.nodes,
            "compute_is_the_papers": self.half.same, "line": self.line.paused, "line_steady": self.line.steady,
            "order": {"expected": self.order, "holds": self.holds}, "notes": self.notes,
        }  # fmt: skip


def beside(name: str, measured: Measured, ranks: int, periods: Periods) -> Beside:
    """Set every row of a half beside the prediction from its line, and beside the paper."""
    half, (line, rows) = HALVES[name], measured
    seconds = {row: float(rows[row]["seconds"]["median"]) for row in ROWS}
    results = []
    for row in ROWS:
        method, took, theirs = periods.method(row), seconds[row], half.paper.seconds.get(row)
        expected, over_sgp = predicted(method, seconds["none"], line, ranks), took / seconds["sgp"]
        paper_over_sgp = over_paper = None
        if theirs is not None:
            paper_over_sgp = theirs / half.paper.seconds["sgp"]
            if at_scale(line.paused):
                over_paper = took / theirs if half.same else over_sgp / paper_over_sgp
        result = {
            "half": name, "algorithm": row, "bytes": NBYTES, "compute": half.compute, "topology": "exponential",
            "period": method.period, "window": periods.window(row), "level": method.blocking, **rows[row],
            "measured": took, "predicted": expected, "over_predicted": took / expected,
            "outside": abs(took / expected - 1) > WITHIN, "paper": theirs, "over_paper": over_paper,
            "over_sgp": over_sgp, "paper_over_sgp": paper_over_sgp,
        }  # fmt: skip
        results.append({**result, "why": why(half, method, result, ranks)})
    papers = half.paper.seconds
    order = sorted((row for row in COMPARED if row in papers), key=lambda row: papers[row])
    holds = all(seconds[a] < seconds[b] for a, b in pairwise(order))
    return Beside(name, half, line, results, order, holds, notes(half, line.paused, results, ranks))


CROWDED = (
    "With less compute than transfer, and no barrier, ranks drift apart and messages of two rounds may meet on a link. "
    "The prediction has each link to one message at a time."
)


def at_scale(line: float) -> bool:
    """Whether the line is the paper's: headers alone are 5 % more, and a shaper's burst is less."""
    return abs(line / LINE - 1) <= 0.10


def why(half: Half, method: Method, result: Mapping[str, Any], ranks: int) -> str | None:
    """A sentence on a row that is more than a tenth from the paper."""
    over = result["over_paper"]
    if over is None or abs(over - 1) <= 0.10:
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
        return paper.SGP_OVERLAPS
    if method.base == "ar" and ranks != half.paper.nodes:
        return _models(ranks, half.paper.nodes)
    return "Its bytes predict what was measured; what else took time in the paper's run is not in its table."


def notes(half: Half, line: float, results: Sequence[Mapping[str, Any]], ranks: int) -> list[str]:
    """The sentences on a half; those of `why` stand behind the names of their rows."""
    if not at_scale(line):
        theirs = f"the paper's would take {screen.ms(LINE)} at this scale"
        return [f"Not compared with the paper: the line took {screen.ms(line)} ms, and {theirs}."]
    found = defaultdict(list)
    crowded = [result for result in results if not result["level"] and result["outside"]]
    if half.compute < line and crowded:
        found[CROWDED] = [METHODS[result["algorithm"]].title for result in crowded]
    for result in results:
        if result["why"]:
            found[result["why"]].append(METHODS[result["algorithm"]].title)
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
    """The cost of an exact average beyond a round of gossip, over the cost of a round beyond Local SGD."""
    return (seconds["ar"] - seconds["sgp"]) / (seconds["sgp"] - seconds["local"])


def _models(ranks: int, nodes: int) -> str:
    own, theirs = (2 * (n - 1) / n for n in (ranks, nodes))
    return f"An exact average of {ranks} ranks sends {own:.2f} models, of the paper's {nodes} nodes {theirs:.2f}."
