"""The table on the screen and as Markdown, and a picture with three bars for each row."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ..shared import screen, tables
from ..shared.methods import METHODS
from ..shared.pictures import Bar, Bars, Panel, Row
from .beside import WITHIN, Beside

LEGEND = (
    "ms of an update, medians over those of all ranks; of OSGP and what happens every τ-th, over means of τ updates.",
    "predicted: from `no communication` and the line, both of this run. x: measured over predicted; "
    f"! beyond {WITHIN * 100:.0f} %.",
    "Blocking methods are timed from a barrier just before the step, OSGP without one.",
)

SAME = {"x paper": "over_paper"}
OTHER = {"over SGP": "over_sgp", "paper's over SGP": "paper_over_sgp"}
"""Where the paper's seconds are another quantity, each row is compared over its SGP."""


def setting(half: Beside) -> str:
    """Nodes of the paper, compute and line here."""
    paused, steady = (screen.ms(seconds) for seconds in half.line)
    line = f"line {paused} ms, {steady} without a pause"
    return f"Paper: {half.half.paper.nodes} nodes. Here: {screen.ms(half.half.compute)} ms of compute, {line}"


def table(half: Beside) -> tuple[list[str], list[list[str]]]:
    """The heads of the columns, and a row for each result."""
    over = SAME if half.half.same else OTHER
    rows = []
    for result in half.results:
        row = [METHODS[result["algorithm"]].title, *(_ms(result[name]) for name in ("predicted", "paper", "measured"))]
        row.append(f"{result['over_predicted']:.3f}{' !' if result['outside'] else ''}")
        rows.append([*row, *("" if result[name] is None else f"{result[name]:.3f}" for name in over.values())])
    return ["algorithm", "predicted", "paper", "measured", "x predicted", *over], rows


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else screen.ms(seconds)


def said(half: Beside) -> list[str]:
    """The sentences below its table."""
    order = " < ".join(METHODS[name].title for name in half.order)
    return [f"order of the paper, {order}: {'measured too' if half.holds else 'not so here'}.", *half.notes]


def on_screen(half: Beside) -> Table:
    """For a terminal."""
    return tables.on_screen(f"{half.half.paper.title}\n{setting(half)}", *table(half))


def markdown(heading: str, halves: Sequence[Beside]) -> str:
    """A heading, a table and its sentences for each half, and the legend."""
    paragraphs = [f"# {heading}"]
    for half in halves:
        paragraphs += [f"## {half.half.paper.title}", f"{setting(half)}.", tables.markdown(*table(half))]
        paragraphs.append("\n".join(f"- {sentence}" for sentence in said(half)))
    return "\n\n".join([*paragraphs, "\n".join(LEGEND)]) + "\n"


# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
COLORS = {"#c9d1d9": "predicted from bytes", "#0072b2": "measured", "#e69f00": "paper"}
EDGES = {"predicted": 0.82, "measured": 0.905, "paper": 0.985}


def draw(path: Path, halves: Sequence[Beside], heading: str) -> None:
    """A panel for each half."""
    picture = Bars(
        "SlowMo's table 2, measured", row=0.46, head=1.3, gap=1.0, right=0.735, columns=EDGES, bold="measured",
        colors=COLORS,
    )  # fmt: skip
    picture.draw(path, heading, list(map(_panel, halves)))


def drawn_paper(half: Beside) -> float:
    """The factor of the paper's bars: where they are of another model, its SGP is as long as ours."""
    [sgp] = [result for result in half.results if result["algorithm"] == "sgp"]
    return 1.0 if half.half.same else float(sgp["measured"] / sgp["paper"])


def _panel(half: Beside) -> Panel:
    factors = {"predicted": 1.0, "measured": 1.0, "paper": drawn_paper(half)}
    rows = []
    for result in half.results:
        bars = [
            Bar((result[name] or 0.0) * factors[name], color, place * 0.25, 0.25)
            for place, (name, color) in enumerate(zip(EDGES, COLORS, strict=True), start=-1)
        ]
        rows.append(Row(METHODS[result["algorithm"]].title, bars, [_ms(result[name]) for name in EDGES]))
    scaled = "" if half.half.same else "; its bars scaled to our SGP"
    return Panel(half.half.paper.title, rows, setting(half) + scaled)
