"""Time per update over the number of ranks, a curve for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topologies.commands.pictures.canvas import INK, QUIET, canvas, save

from ..shared.bars import frame
from .collectives import TITLES
from .machine import Floats
from .simulation import Prediction

# Colours of Okabe and Ito. A family has a colour, its variants have dashes: told apart by the colour-blind.
LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": QUIET, "linestyle": ":"},
    "ar": {"color": "#d55e00", "linestyle": "-"},
    "ar-ring": {"color": "#e69f00", "linestyle": "-"},
    "ar-tree": {"color": "#d55e00", "linestyle": "--"},
    "ar-hierarchical": {"color": "#d55e00", "linestyle": "-."},
    "ar-binomial": {"color": "#d55e00", "linestyle": ":"},
    "exact": {"color": "#e69f00", "linestyle": ":"},
    "local": {"color": "#cc79a7", "linestyle": "-"},
    "local-slowmo": {"color": "#cc79a7", "linestyle": "--"},
    "sgp": {"color": "#0072b2", "linestyle": "-"},
    "sgp-slowmo": {"color": "#0072b2", "linestyle": "--"},
    "sgp-noaverage": {"color": "#0072b2", "linestyle": ":"},
    "osgp": {"color": "#009e73", "linestyle": "-"},
    "osgp-slowmo": {"color": "#009e73", "linestyle": "--"},
    "osgp-noaverage": {"color": "#009e73", "linestyle": ":"},
}
WIDTH, HEIGHT = 9.6, 5.6
LEFT, RIGHT, BOTTOM, TOP = 0.09, 0.69, 0.1, 0.84
LINE_HEIGHT = 0.047
"""Of a label at the end of a curve, in heights of the axes."""


def draw(
    path: Path, methods: Sequence[str], found: Mapping[int, Mapping[str, Prediction]], title: str, subtitle: str
) -> None:
    """Means over all ranks, of `found[ranks][method]`."""
    figure = canvas(WIDTH, HEIGHT, title)
    figure.text(0.18 / WIDTH, 1 - 0.44 / HEIGHT, subtitle, size=9.5, color=QUIET, va="top")
    axes = figure.add_axes((LEFT, BOTTOM, RIGHT - LEFT, TOP - BOTTOM))
    ranks = list(found)
    curves = {name: np.array([found[n][name].seconds.mean * 1e3 for n in ranks]) for name in methods}
    low, high = _range(np.concatenate(list(curves.values())))
    axes.set(xscale="log", yscale="log", xlim=(ranks[0], max(ranks[-1], ranks[0] * 1.1)), ylim=(low, high))
    axes.set_xticks(shown := _some(ranks), labels=[f"{n:,}" for n in shown], minor=False)
    axes.set_xticks([], minor=True)
    ticks = _ticks(low, high)
    axes.set_yticks(ticks, labels=[f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
    axes.set_yticks([], minor=True)
    frame(axes, "ranks", "time per update, mean, ms")
    for name, curve in curves.items():
        axes.plot(ranks, curve, **LOOKS[name], linewidth=2.0, solid_capstyle="round")
    axes.yaxis.set_label_coords(-0.115, 0.5)
    names = sorted(curves, key=lambda name: (curves[name][-1], list(curves).index(name)))
    scale = np.log([low, high])
    ends = [float((np.log(max(curves[name][-1], low)) - scale[0]) / (scale[1] - scale[0])) for name in names]
    for name, end, place in zip(names, ends, _apart(ends), strict=True):
        look = LOOKS[name]
        axes.plot([1.005, 1.025, 1.04], [end, place, place], transform=axes.transAxes, color=look["color"], lw=0.8,
                  clip_on=False)  # fmt: skip
        axes.plot([1.04, 1.09], [place, place], transform=axes.transAxes, **look, lw=2.0, clip_on=False)
        at: dict[str, Any] = {"transform": axes.transAxes, "size": 9.5, "va": "center", "color": INK}
        axes.text(1.195, place, f"{curves[name][-1]:,.0f}", ha="right", weight="bold", **at)
        axes.text(1.207, place, TITLES[name], **at)
    save(figure, path)


def _range(milliseconds: Floats) -> tuple[float, float]:
    """What is shown; nothing, which a curve may take where nobody computes, has no place on a logarithmic scale."""
    seen = milliseconds[milliseconds > 0]
    return (float(seen.min()) / 1.06, float(seen.max()) * 1.1) if len(seen) else (0.1, 10.0)


def _some(ranks: Sequence[int]) -> list[int]:
    """At most nine of them at equal distances, ending with the last, and with the first where that can be."""
    last = len(ranks) - 1
    every = next((step for step in range(1, last) if last % step == 0 and last // step <= 8), -(-last // 8) or 1)
    return sorted(ranks[::-every])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between, four to ten of them."""
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 60 else (1, 2, 5)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
    return found if len(found) > 1 else [float(f"{low:.3g}"), float(f"{high:.3g}")]


def _apart(places: Sequence[float]) -> list[float]:
    """Rising places, moved as little as needed for labels not to touch."""
    found: list[list[float]] = []  # runs of labels that touch, as their places without the distance between them
    for number, place in enumerate(places):
        found.append([place - number * LINE_HEIGHT])
        while len(found) > 1 and np.mean(found[-2]) > np.mean(found[-1]):
            last = found.pop()
            found[-1] += last
    level = [max(float(np.mean(run)), 0.0) for run in found for _ in run]
    return [place + number * LINE_HEIGHT for number, place in enumerate(level)]
