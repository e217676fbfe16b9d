"""Three bars for each row: predicted, measured, and the paper's."""

from collections.abc import Sequence
from pathlib import Path

from ..shared import screen
from ..shared.methods import METHODS
from ..shared.pictures import Bar, Bars, Panel, Row
from . import report
from .beside import Beside

# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
COLORS = {"#c9d1d9": "predicted from bytes", "#0072b2": "measured", "#e69f00": "paper"}
COLUMNS = {"predicted": 0.82, "measured": 0.905, "paper": 0.985}
PICTURE = Bars(
    "SlowMo's table 2, measured", row=0.46, head=1.3, gap=1.0, right=0.735, columns=COLUMNS, bold="measured",
    colors=COLORS,
)  # fmt: skip
THICK = 0.25


def draw(path: Path, halves: Sequence[Beside], heading: str) -> None:
    """A panel for each half."""
    PICTURE.draw(path, heading, [_panel(half) for half in halves])


def drawn_paper(half: Beside) -> float:
    """The factor of the paper's bars: where they are of another model, its SGP is as long as ours."""
    if half.half.same:
        return 1.0
    [sgp] = [result for result in half.results if result["algorithm"] == "sgp"]
    return float(sgp["measured"] / sgp["paper"])


def _panel(half: Beside) -> Panel:
    factors = {"predicted": 1.0, "measured": 1.0, "paper": drawn_paper(half)}
    rows = []
    for result in half.results:
        bars = [
            Bar((result[name] or 0.0) * factors[name], color, place * THICK, THICK)
            for place, (name, color) in enumerate(zip(COLUMNS, COLORS, strict=True), start=-1)
        ]
        figures = ["" if result[name] is None else screen.ms(result[name]) for name in COLUMNS]
        rows.append(Row(METHODS[result["algorithm"]].title, bars, figures))
    scaled = "" if half.half.same else "; its bars scaled to our SGP"
    return Panel(half.half.paper.title, rows, report.setting(half) + scaled)
