"""Three bars for each row: predicted, measured, and the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topologies.pictures.canvas import FAINT, GREY, INK, QUIET, canvas, save

from .. import screen
from ..algorithms import ALGORITHMS
from . import report
from .beside import Beside

# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
PREDICTED, MEASURED, PAPER = "#c9d1d9", "#0072b2", "#e69f00"
WIDTH, ROW, HEAD, FOOT, GAP = 9.6, 0.46, 1.3, 0.5, 1.0
LEFT, RIGHT = 0.215, 0.735
EDGES = {"predicted": 0.82, "measured": 0.905, "paper": 0.985}
"""Right edges of the columns of figures, in widths of the picture."""
THICK = 0.25


def draw(path: Path, halves: Sequence[Beside], heading: str) -> None:
    """A panel for each half."""
    heights = [ROW * (len(half.results) + 0.3) for half in halves]
    height = HEAD + sum(heights) + GAP * (len(halves) - 1) + FOOT
    figure = canvas(WIDTH, height, "SlowMo's table 2, measured")
    figure.text(0.18 / WIDTH, 1 - 0.44 / height, heading, size=9.5, color=QUIET, va="top")
    top = height - HEAD
    for half, tall in zip(halves, heights, strict=True):
        _panel(figure.add_axes((LEFT, (top - tall) / height, RIGHT - LEFT, tall / height)), half)
        top -= tall + GAP
    _legend(figure, height)
    save(figure, path)


def drawn_paper(half: Beside) -> float:
    """What the paper's seconds are multiplied by: where they are of another model, its SGP is as long as ours."""
    if half.half.same:
        return 1.0
    [sgp] = [result for result in half.results if result["algorithm"] == "sgp"]
    return float(sgp["measured"] / sgp["paper"])


def _panel(axes: Any, half: Beside) -> None:
    scale, longest = drawn_paper(half), 0.0
    places = {head: (edge - LEFT) / (RIGHT - LEFT) for head, edge in EDGES.items()}
    at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "color": INK}
    for row, result in enumerate(half.results):
        bars = (
            (result["predicted"], PREDICTED),
            (result["measured"], MEASURED),
            ((result["paper"] or 0) * scale, PAPER),
        )
        for number, (seconds, color) in enumerate(bars):
            axes.barh(row + (number - 1) * THICK, seconds * 1e3, height=THICK, color=color)
            longest = max(longest, seconds)
        for head, place in places.items():
            text = "" if result[head] is None else screen.ms(result[head])
            axes.text(place, row, text, ha="right", size=10, weight="bold" if head == "measured" else "normal", **at)
        name = ALGORITHMS[result["algorithm"]].title
        axes.text(-0.018, row, name, ha="right", size=10, **at)
    axes.set(xlim=(0, longest * 1.02e3), ylim=(len(half.results) - 0.35, -0.65), yticks=[])
    left = (0.18 / WIDTH - LEFT) / (RIGHT - LEFT)
    axes.set_title(half.half.paper.title, loc="left", x=left, size=10.5, color=INK, weight="bold", pad=24)
    scaled = "" if half.half.same else "; bars of the paper scaled to our SGP"
    axes.annotate(
        report.setting(half) + scaled, (left, 1), (0, 10), "axes fraction", "offset points", size=9, color=QUIET
    )
    head_at: dict[str, Any] = {"transform": axes.transAxes, "size": 9, "ha": "right", "va": "bottom", "color": QUIET}
    for head, place in places.items():
        axes.text(place, 1.0, head, **head_at)
    axes.annotate("ms", (1, 0), (12, -6), "axes fraction", "offset points", size=9.5, va="top", color=QUIET)
    axes.tick_params(labelsize=9.5, colors=QUIET, length=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(figure: Any, height: float) -> None:
    from matplotlib.patches import Patch

    words = ((PREDICTED, "predicted from bytes"), (MEASURED, "measured"), (PAPER, "paper"))
    figure.legend(
        handles=[Patch(color=color, label=word) for color, word in words],
        loc="upper right",
        bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.06 / height),
        ncols=3,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=0.9,
        columnspacing=1.2,
    )
