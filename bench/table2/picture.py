"""Three bars for each row: predicted, measured, and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topologies.commands.pictures.canvas import INK, QUIET, save

from ..shared import screen
from ..shared.bars import Sheet, legend
from ..shared.methods import METHODS
from . import report
from .beside import Beside

# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
PREDICTED, MEASURED, PAPER = "#c9d1d9", "#0072b2", "#e69f00"
COLUMNS = {"predicted": 0.82, "measured": 0.905, "paper": 0.985}
SHEET = Sheet(row=0.46, head=1.3, gap=1.0, right=0.735, columns=COLUMNS)
THICK = 0.25


def draw(path: Path, halves: Sequence[Beside], heading: str) -> None:
    """A panel for each half."""
    from matplotlib.patches import Patch

    figure, panels = SHEET.panels("SlowMo's table 2, measured", heading, [len(half.results) for half in halves])
    for axes, half in zip(panels, halves, strict=True):
        _panel(axes, half)
    words = ((PREDICTED, "predicted from bytes"), (MEASURED, "measured"), (PAPER, "paper"))
    legend(figure, [Patch(color=color, label=word) for color, word in words], ncols=3)
    save(figure, path)


def drawn_paper(half: Beside) -> float:
    """What the paper's seconds are multiplied by: where they are of another model, its SGP is as long as ours."""
    if half.half.same:
        return 1.0
    [sgp] = [result for result in half.results if result["algorithm"] == "sgp"]
    return float(sgp["measured"] / sgp["paper"])


def _panel(axes: Any, half: Beside) -> None:
    scale, longest = drawn_paper(half), 0.0
    for row, result in enumerate(half.results):
        bars = (
            (result["predicted"], PREDICTED),
            (result["measured"], MEASURED),
            ((result["paper"] or 0) * scale, PAPER),
        )
        for number, (seconds, color) in enumerate(bars):
            axes.barh(row + (number - 1) * THICK, seconds * 1e3, height=THICK, color=color)
            longest = max(longest, seconds)
        texts = ["" if result[head] is None else screen.ms(result[head]) for head in COLUMNS]
        SHEET.label(axes, row, METHODS[result["algorithm"]].title, texts, bold="measured")
    left = SHEET.margin()
    axes.set_title(half.half.paper.title, loc="left", x=left, size=10.5, color=INK, weight="bold", pad=24)
    scaled = "" if half.half.same else "; its bars scaled to our SGP"
    axes.annotate(
        report.setting(half) + scaled, (left, 1), (0, 10), "axes fraction", "offset points", size=9, color=QUIET
    )
    SHEET.finish(axes, len(half.results), longest)
