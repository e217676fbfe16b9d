"""The time of an update as a picture: compute, exposed communication, and communication hidden behind the compute."""

from collections.abc import Sequence
from pathlib import Path

from ..shared import screen
from ..shared.pictures import Bar, Bars, Panel, Row
from . import judging
from .columns import Part, over
from .matrix import Result, title

# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
COMPUTE, EXPOSED, HIDDEN = "#c9d1d9", "#d55e00", "#0072b2"
PICTURE = Bars(
    "Time per update", row=0.4, head=1.02, gap=0.62, right=0.755,
    columns={"ms": 0.825, "exposed": 0.91, "hidden": 0.985}, bold="ms",
    colors={COMPUTE: "compute and update", EXPOSED: "exposed communication", HIDDEN: "hidden communication"},
    mark="compute, then the line alone",
)  # fmt: skip


def draw(path: Path, parts: Sequence[Part], heading: str) -> None:
    """A panel for each part, a bar for each result: above, the update's time; below, its messages' time in flight."""
    PICTURE.draw(path, heading, [_panel(part) for part in parts])


def spans(result: Result) -> tuple[float, float, float]:
    """Seconds of compute (all but what is exposed), exposed, hidden; an unmeasured base is taken to be the compute."""
    total, waits = float(result["seconds"]["median"]), float(result["waits"]["median"])
    told = result["exposed"] is not None and not judging.crowded(result)
    # Some wait while they compute.
    exposed = max(0.0, result["exposed"]) if told else max(waits, total - float(result["computing"]["median"]))
    return total - exposed, exposed, max(0.0, float(result["in_flight"] or 0.0) - max(exposed, waits))


def _panel(part: Part) -> Panel:
    several = len({result["topology"] for result in part.results}) > 1
    rows = []
    for result in part.results:
        compute, exposed, hidden = spans(result)
        shown = min(hidden, compute)
        bars = [
            Bar(compute, COMPUTE, -0.1, 0.46),
            Bar(exposed, EXPOSED, -0.1, 0.46, start=compute),
            Bar(shown, HIDDEN, 0.25, 0.16, start=compute - shown),
        ]
        name, beyond, share = title(result["algorithm"]), screen.ms(exposed) if exposed else "0", ""
        if judging.crowded(result):
            name, beyond, share = f"{name} ({judging.CROWDED})", "-", "-"
        elif result["hidden"] is not None:
            share = f"{result['hidden'] * 100:.0f} %"
        rows.append(Row(name + over(result, several), bars, (screen.ms(result["seconds"]["median"]), beyond, share)))
    line = part.results[0]["line"]
    base = next((result["seconds"]["median"] for result in part.results if result["algorithm"] == "none"), None)
    return Panel(part.title, rows, mark=base + line if line and base else None)
