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

Looks = dict[str, dict[str, Any]]


def draw(path: Path, title: str, found: Sequence[Result], axis: str = "") -> None:
    """A row for each task; `axis` says what the x of arms is, where they have one."""
    panels = list(dict.fromkeys(result.arm.panel for result in found))
    height = HEAD + HEIGHT * len(panels)
    figure = canvas(WIDTH, height, title)
    for row, panel in enumerate(panels):
        own = [result for result in found if result.arm.panel == panel]
        bottom, tall = (height - HEAD - HEIGHT * (row + 1) + 0.55) / height, (HEIGHT - 0.95) / height
        columns = [figure.add_axes((LEFT + place * (ACROSS + GAP), bottom, ACROSS, tall)) for place in range(3)]
        looks = {}
        for place, name in enumerate(dict.fromkeys(map(_name, own))):
            lap, first = divmod(place, len(LOOKS))
            other = LOOKS[(first + 3 * lap) % len(LOOKS)]  # each lap through the colours takes other lines and markers
            looks[name] = {**LOOKS[first], "linestyle": other["linestyle"], "marker": other["marker"]}
        _losses(columns[0], own, looks)
        if all(result.arm.x is not None for result in own):
            _along(columns[1], own, looks, axis)
        else:
            _scatter(columns[1], own, looks, [r.mean("bytes_sent") / 1e6 for r in own], "sent by a worker, MB")
        _scatter(columns[2], own, looks, [r.run.predicted_seconds for r in own], "predicted for ResNet-50's size, s")
        columns[0].set_title(panel, loc="left", size=11, color=INK)
        handles = dict(zip(*reversed(columns[2].get_legend_handles_labels()), strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="upper left", frameon=False, fontsize=8.5, labelcolor=INK,
            bbox_to_anchor=(LEFT + 3 * (ACROSS + GAP) - 0.045, bottom + tall),
        )  # fmt: skip
    save(figure, path)


def _name(result: Result) -> str:
    """In the legend: the points of a curve are one thing."""
    return result.arm.line or result.arm.name


def _losses(axes: Any, own: Sequence[Result], looks: Looks) -> None:
    for result in own:
        steps = (np.arange(len(result.curve)) + 0.5) * result.run.steps / len(result.curve)
        axes.plot(steps, result.curve, **{**looks[_name(result)], "marker": ""}, linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    losses = [loss for result in own for loss in result.curve]
    axes.yaxis.set_minor_formatter("{x:g}" if max(losses) < 8 * min(losses) else "")
    frame(axes, "step", "training loss")


def _scatter(axes: Any, own: Sequence[Result], looks: Looks, across: Sequence[float], what: str) -> None:
    for result, x in zip(own, across, strict=True):
        look = {**looks[_name(result)], "linestyle": "", "label": _name(result), "capsize": 2, "markersize": 6}
        axes.errorbar(x, result.mean("score"), yerr=result.deviation("score"), **look)
    frame(axes, what, WORKLOADS[own[0].run.workload].metric)


def _along(axes: Any, own: Sequence[Result], looks: Looks, what: str) -> None:
    for line, look in looks.items():
        points = sorted((result for result in own if result.arm.line == line), key=lambda result: result.arm.x or 0)
        axes.errorbar(
            [result.arm.x or 0 for result in points], [result.mean("score") for result in points],
            yerr=[result.deviation("score") for result in points], capsize=2, markersize=5, **look,
        )  # fmt: skip
    places = sorted({result.arm.x or 0 for result in own})
    if places[0] > 0 and places[-1] >= 4 * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, labels=[f"{x:g}" for x in places])
    axes.set_xticks([], minor=True)
    frame(axes, what, WORKLOADS[own[0].run.workload].metric)
