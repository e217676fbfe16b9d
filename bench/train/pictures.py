"""A study as a picture: for each task loss curves, and scores against bytes and predicted time, or along a curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topologies.commands.pictures.canvas import INK, canvas, save
from topologies.commands.pictures.curves import LOOKS

from ..shared.pictures import frame
from .findings import Result
from .workloads import WORKLOADS

WIDTH, HEIGHT, HEAD = 13.2, 3.5, 0.55
LEFT, ACROSS, GAP = 0.06, 0.21, 0.058


def draw(path: Path, title: str, found: Sequence[Result], axis: str = "") -> None:
    """A row for each task; `axis` says what the x of arms is, where they have one."""
    panels = list(dict.fromkeys(result.arm.panel for result in found))
    height = HEAD + HEIGHT * len(panels)
    figure = canvas(WIDTH, height, title)
    for row, panel in enumerate(panels):
        own = [result for result in found if result.arm.panel == panel]
        bottom = (height - HEAD - HEIGHT * (row + 1) + 0.55) / height
        columns = [
            figure.add_axes((LEFT + place * (ACROSS + GAP), bottom, ACROSS, (HEIGHT - 0.95) / height))
            for place in range(3)
        ]
        looks = {}
        for place, name in enumerate(dict.fromkeys(map(_name, own))):
            lap, first = divmod(place, len(LOOKS))
            other = LOOKS[(first + 3 * lap) % len(LOOKS)]  # each lap through the colours takes other lines and markers
            looks[name] = {**LOOKS[first], "linestyle": other["linestyle"], "marker": other["marker"]}
        _losses(columns[0], own, looks)
        if all(result.arm.x is not None for result in own):
            _along(columns[1], own, looks, axis)
        else:
            _scatter(columns[1], own, looks, [r.figure("bytes_sent").mean / 1e6 for r in own], "sent by a worker, MB")
        _scatter(columns[2], own, looks, [r.run.predicted_seconds for r in own], "predicted for ResNet-50's size, s")
        columns[0].set_title(panel, loc="left", size=11, color=INK)
        handles = dict(zip(*reversed(columns[2].get_legend_handles_labels()), strict=True))
        at = LEFT + 3 * (ACROSS + GAP) - 0.045, bottom + (HEIGHT - 0.95) / height
        look: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": INK}
        figure.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=at, **look)
    save(figure, path)


def _name(result: Result) -> str:
    """In the legend: the points of a curve are one thing."""
    return result.arm.line or result.arm.name


def _losses(axes: Any, own: Sequence[Result], looks: dict[str, dict[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    curves = [result.curve for result in own]
    for result in own:
        steps = (np.arange(len(result.curve)) + 0.5) * result.run.steps / len(result.curve)
        axes.plot(steps, result.curve, **{**looks[_name(result)], "marker": ""}, linewidth=1.4)
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain if max(map(max, curves)) < 8 * min(map(min, curves)) else NullFormatter())
    frame(axes, "step", "training loss")


def _scatter(
    axes: Any, own: Sequence[Result], looks: dict[str, dict[str, Any]], across: Sequence[float], what: str
) -> None:
    for result, x in zip(own, across, strict=True):
        score = result.figure("score")
        axes.errorbar(
            x, score.mean, yerr=score.deviation, label=_name(result), capsize=2, markersize=6,
            **{**looks[_name(result)], "linestyle": ""},
        )  # fmt: skip
    frame(axes, what, WORKLOADS[own[0].run.workload].metric)


def _along(axes: Any, own: Sequence[Result], looks: dict[str, dict[str, Any]], what: str) -> None:
    for line, look in looks.items():
        points = sorted((result for result in own if result.arm.line == line), key=lambda result: result.arm.x or 0)
        scores = [result.figure("score") for result in points]
        axes.errorbar(
            [result.arm.x or 0 for result in points], [score.mean for score in scores],
            yerr=[score.deviation for score in scores], capsize=2, markersize=5, **look,
        )  # fmt: skip
    places = sorted({result.arm.x or 0 for result in own})
    if places[0] > 0 and places[-1] >= 4 * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, labels=[f"{x:g}" for x in places])
    axes.set_xticks([], minor=True)
    frame(axes, what, WORKLOADS[own[0].run.workload].metric)
