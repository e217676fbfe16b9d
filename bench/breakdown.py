"""Where the time of an update goes: compute, exposed communication, and what of it is hidden behind the compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topologies.pictures.canvas import FAINT, GREY, INK, QUIET, canvas, save

from . import screen
from .matrix import Result, title
from .tables import GOSSIP, Part

# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
DASHES = (0, (4, 2))
COMPUTE, EXPOSED, HIDDEN = "#c9d1d9", "#d55e00", "#0072b2"
WIDTH, ROW, HEAD, FOOT, GAP = 9.6, 0.4, 1.02, 0.5, 0.62
LEFT, RIGHT = 0.215, 0.755
FITS = 25
"""Characters of a name in full size."""
UPDATE, BESIDE, BEHIND = 0.825, 0.91, 0.985
"""Right edges of the columns of figures, in widths of the picture."""


def draw(path: Path, parts: Sequence[Part], heading: str) -> None:
    """A panel for each part, a bar for each result: above, the update's time; below, its messages' time in flight."""
    heights = [ROW * (len(part.results) + 0.3) for part in parts]
    height = HEAD + sum(heights) + GAP * (len(parts) - 1) + FOOT
    figure = canvas(WIDTH, height, "Time per update")
    figure.text(0.18 / WIDTH, 1 - 0.44 / height, heading, size=9.5, color=QUIET, va="top")
    top = height - HEAD
    for part, tall in zip(parts, heights, strict=True):
        axes = figure.add_axes((LEFT, (top - tall) / height, RIGHT - LEFT, tall / height))
        _panel(axes, part)
        top -= tall + GAP
    _legend(figure, height, any(result["line"] for part in parts for result in part.results))
    save(figure, path)


def spans(result: Result) -> tuple[float, float, float]:
    """Seconds of compute (all but what is exposed), exposed, hidden; an unmeasured base is taken to be the compute.

    >>> waited = {"exposed": {"median": 0.25}, "over_none": 0.5, "in_flight": 2.0}
    >>> spans({"seconds": {"median": 3.0}, "computing": {"median": 2.25}, **waited})
    (2.5, 0.5, 1.5)
    """
    total = float(result["seconds"]["median"])
    beyond = result["over_none"]
    exposed = max(0.0, total - float(result["computing"]["median"]) if beyond is None else float(beyond))
    waits = float(result["exposed"]["median"])
    return total - exposed, exposed, max(0.0, float(result["in_flight"] or 0.0) - max(exposed, waits))


def _panel(axes: Any, part: Part) -> None:
    longest = max(result["seconds"]["median"] for result in part.results)
    places = [(edge - LEFT) / (RIGHT - LEFT) for edge in (UPDATE, BESIDE, BEHIND)]
    several = len({result["topology"] for result in part.results}) > 1
    for row, result in enumerate(part.results):
        compute, exposed, hidden = (each * 1e3 for each in spans(result))
        axes.barh(row - 0.1, compute, height=0.46, color=COMPUTE)
        axes.barh(row - 0.1, exposed, left=compute, height=0.46, color=EXPOSED)
        axes.barh(row + 0.25, min(hidden, compute), left=max(0.0, compute - hidden), height=0.16, color=HIDDEN)
        at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "size": 10, "va": "center", "color": INK}
        texts = (screen.ms(result["seconds"]["median"]), screen.ms(exposed / 1e3) if exposed else "0", _share(result))
        for place, text, weight in zip(places, texts, ("bold", "normal", "normal"), strict=True):
            axes.text(place, row, text, ha="right", weight=weight, **at)
        name = title(result["algorithm"])
        graph = f", {result['topology']}" if several and result["algorithm"] in GOSSIP else ""
        axes.text(-0.018, row, name + graph, ha="right", **at | {"size": min(10.0, 10 * FITS / len(name + graph))})
    line = part.results[0]["line"]
    base = next((result for result in part.results if result["algorithm"] == "none"), None)
    if line and base:
        axes.axvline((base["seconds"]["median"] + line) * 1e3, color=INK, linewidth=1.0, linestyle=DASHES)
        longest = max(longest, base["seconds"]["median"] + line)
    axes.set(xlim=(0, longest * 1.02e3), ylim=(len(part.results) - 0.35, -0.65), yticks=[])
    axes.set_title(
        part.title, loc="left", x=(0.18 / WIDTH - LEFT) / (RIGHT - LEFT), size=10.5, color=INK, weight="bold", pad=8
    )
    head: dict[str, Any] = {"transform": axes.transAxes, "size": 9, "ha": "right", "va": "bottom", "color": QUIET}
    for place, word in zip(places, ("ms", "exposed", "hidden"), strict=True):
        axes.text(place, 1.0, word, **head)
    axes.annotate("ms", (1, 0), (12, -6), "axes fraction", "offset points", size=9.5, va="top", color=QUIET)
    axes.tick_params(labelsize=9.5, colors=QUIET, length=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _share(result: Result) -> str:
    return "" if result["hidden"] is None else f"{result['hidden'] * 100:.0f} %"


def _legend(figure: Any, height: float, line: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    words = ((COMPUTE, "compute and update"), (EXPOSED, "exposed communication"), (HIDDEN, "hidden communication"))
    patches: list[Any] = [Patch(color=color, label=word) for color, word in words]
    dashes = [Line2D([], [], color=INK, linewidth=1.0, linestyle=DASHES, label="compute, then the line alone")]
    figure.legend(
        handles=patches + (dashes if line else []),
        loc="upper right",
        bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.06 / height),
        ncols=2,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=0.9,
        columnspacing=1.2,
    )
