"""Where the time of an update goes: compute, exposed communication, and what of it is hidden behind the compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topologies.commands.pictures.canvas import INK, save

from ..shared import screen
from ..shared.bars import Sheet, legend
from . import judging
from .columns import GOSSIP, Part
from .matrix import Result, title

# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
COMPUTE, EXPOSED, HIDDEN = "#c9d1d9", "#d55e00", "#0072b2"
DASHES = (0, (4, 2))
SHEET = Sheet(row=0.4, head=1.02, gap=0.62, right=0.755, columns={"ms": 0.825, "exposed": 0.91, "hidden": 0.985})
FITS = 25
"""Characters of a name in full size."""


def draw(path: Path, parts: Sequence[Part], heading: str) -> None:
    """A panel for each part, a bar for each result: above, the update's time; below, its messages' time in flight."""
    figure, panels = SHEET.panels("Time per update", heading, [len(part.results) for part in parts])
    for axes, part in zip(panels, parts, strict=True):
        _panel(axes, part)
    _legend(figure, any(result["line"] for part in parts for result in part.results))
    save(figure, path)


def spans(result: Result) -> tuple[float, float, float]:
    """Seconds of compute (all but what is exposed), exposed, hidden; an unmeasured base is taken to be the compute.

    >>> waited = {"waits": {"median": 0.25}, "exposed": 0.5, "in_flight": 2.0}
    >>> spans({"seconds": {"median": 3.0}, "computing": {"median": 2.25}, **waited})
    (2.5, 0.5, 1.5)
    """
    total, waits = float(result["seconds"]["median"]), float(result["waits"]["median"])
    beyond = judging.exposed(result)
    # Some wait while they compute.
    exposed = max(waits, total - float(result["computing"]["median"])) if beyond is None else beyond
    return total - exposed, exposed, max(0.0, float(result["in_flight"] or 0.0) - max(exposed, waits))


def _panel(axes: Any, part: Part) -> None:
    longest = max(result["seconds"]["median"] for result in part.results)
    several = len({result["topology"] for result in part.results}) > 1
    for row, result in enumerate(part.results):
        compute, exposed, hidden = (each * 1e3 for each in spans(result))
        axes.barh(row - 0.1, compute, height=0.46, color=COMPUTE)
        axes.barh(row - 0.1, exposed, left=compute, height=0.46, color=EXPOSED)
        axes.barh(row + 0.25, min(hidden, compute), left=max(0.0, compute - hidden), height=0.16, color=HIDDEN)
        beyond = "-" if judging.crowded(result) else screen.ms(exposed / 1e3) if exposed else "0"
        texts = (screen.ms(result["seconds"]["median"]), beyond, _share(result))
        name = title(result["algorithm"])
        name += f" ({judging.CROWDED})" if judging.crowded(result) else ""
        name += f", {result['topology']}" if several and result["algorithm"] in GOSSIP else ""
        SHEET.label(axes, row, name, texts, bold="ms", size=min(10.0, 10 * FITS / len(name)))
    line = part.results[0]["line"]
    base = next((result for result in part.results if result["algorithm"] == "none"), None)
    if line and base:
        axes.axvline((base["seconds"]["median"] + line) * 1e3, color=INK, linewidth=1.0, linestyle=DASHES)
        longest = max(longest, base["seconds"]["median"] + line)
    axes.set_title(part.title, loc="left", x=SHEET.margin(), size=10.5, color=INK, weight="bold", pad=8)
    SHEET.finish(axes, len(part.results), longest)


def _share(result: Result) -> str:
    if judging.crowded(result):
        return "-"
    return "" if result["hidden"] is None else f"{result['hidden'] * 100:.0f} %"


def _legend(figure: Any, line: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    words = ((COMPUTE, "compute and update"), (EXPOSED, "exposed communication"), (HIDDEN, "hidden communication"))
    patches: list[Any] = [Patch(color=color, label=word) for color, word in words]
    dashes = [Line2D([], [], color=INK, linewidth=1.0, linestyle=DASHES, label="compute, then the line alone")]
    legend(figure, patches + (dashes if line else []), ncols=2)
