"""Time per update over the number of ranks, a curve for each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topologies.commands.pictures.canvas import INK, QUIET, canvas, save

from ..shared.pictures import frame
from .collectives import TITLES
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


def draw(
    path: Path, methods: Sequence[str], found: Mapping[int, Mapping[str, Prediction]], title: str, subtitle: str
) -> None:
    """Means over all ranks, of `found[ranks][method]`; the legend is in the order of the curves' ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = canvas(WIDTH, HEIGHT, title)
    figure.text(0.18 / WIDTH, 1 - 0.44 / HEIGHT, subtitle, size=9.5, color=QUIET, va="top")
    axes = figure.add_axes((LEFT, BOTTOM, RIGHT - LEFT, TOP - BOTTOM))
    ranks = list(found)
    curves = {name: np.array([found[n][name].seconds.mean * 1e3 for n in ranks]) for name in methods}
    values = np.concatenate(list(curves.values()))
    seen = values[values > 0]  # where nothing is computed a curve may be 0, which has no place on a logarithmic scale
    low, high = (float(seen.min()) / 1.06, float(seen.max()) * 1.1) if len(seen) else (0.1, 10.0)
    axes.set(xscale="log", yscale="log", xlim=(ranks[0], max(ranks[-1], ranks[0] * 1.1)), ylim=(low, high))
    for name in sorted(curves, key=lambda name: -curves[name][-1]):
        label = f"{curves[name][-1]:,.0f}  {TITLES[name]}"
        axes.plot(ranks, curves[name], **LOOKS[name], linewidth=2.0, solid_capstyle="round", label=label)
    shown = ranks[:: -(-len(ranks) // 9)]
    axes.set_xticks(shown, labels=[f"{n:,}" for n in shown])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high / low < 60 else (1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.4g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    frame(axes, "ranks", "time per update, mean, ms")
    at: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "labelspacing": 0.7}
    axes.legend(**at, frameon=False, fontsize=9.5, labelcolor=INK, title=f"ms at {ranks[-1]:,} ranks")
    save(figure, path)
