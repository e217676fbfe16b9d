"""The disagreement under several schedules, as curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from topologies.analysis.consensus import EXACT, Consensus
from topologies.commands.pictures.canvas import COLUMNS, FAINT, GREY, INK, QUIET, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-14
"""The lower end of the axis; curves that reach the exact mean end between here and `EXACT`."""

# Colours of Okabe and Ito, which the colour-blind can distinguish; line style and marker distinguish them in grey.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "linestyle": "-", "marker": "o"},
    {"color": "#d55e00", "linestyle": "--", "marker": "s"},
    {"color": "#009e73", "linestyle": "-.", "marker": "^"},
    {"color": "#cc79a7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "D"},
    {"color": "#000000", "linestyle": ":", "marker": "v"},
    {"color": "#56b4e9", "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": "#e69f00", "linestyle": (0, (3, 1)), "marker": "X"},
    {"color": "#7a5230", "linestyle": (0, (1, 1)), "marker": "*"},
)
LINE: dict[str, Any] = {"linewidth": 1.7, "markersize": 5, "markeredgewidth": 0}
END: dict[str, Any] = {"linewidth": 0, "markersize": 9, "markeredgecolor": "white", "zorder": 5, "clip_on": False}

UNITS = (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))


def comparison(runs: Mapping[str, Consensus], nbytes: int, title: str) -> Figure:
    """The disagreement of ranks against the rounds, and against the bytes that the busiest rank has carried.

    Carried bytes are sent or received, whichever are more. A curve that ends with a large marker in the grey band has
    reached the exact mean. The axis of bytes ends with the schedule that needs least, so that the curves compare the
    same traffic.

    Args:
        runs: results of `topologies.analysis.consensus`, by their names in the legend, at least one.
        nbytes: bytes of a message.
        title: of the figure.

    Raises:
        PictureError: there is no matplotlib.

    >>> from topologies.analysis import consensus
    >>> runs = {"exponential": consensus(topologies.exponential(8), rounds=6)}
    >>> [panel.get_xlabel() for panel in comparison(runs, 10**6, "8 ranks").axes]
    ['rounds', 'carried by the busiest rank, MB']
    """
    legend = 0.26 * -(-len(runs) // COLUMNS)
    height = 4.75 + legend
    figure = canvas(9.6, height, title)
    bottom = (0.7 + legend) / height
    size = 0.42, 1 - 0.55 / height - bottom
    by_rounds: Axes = figure.add_axes((0.082, bottom, *size))
    by_bytes: Axes = figure.add_axes((0.555, bottom, *size), sharey=by_rounds)
    rounds = max(run.rounds for run in runs.values())
    carried = _messages(runs) * nbytes
    unit, scale = max((each for each in UNITS if each[1] <= carried), key=lambda each: each[1])
    _frame(by_rounds, "rounds", rounds)
    _frame(by_bytes, f"carried by the busiest rank, {unit}", carried / scale)
    by_rounds.set_ylabel("consensus error, relative", size=10.5, color=INK)
    by_bytes.tick_params(labelleft=False)

    exact = [name for name, run in runs.items() if run.rounds_to_exact() is not None]
    # Every end has its own height, so that two ends in the same round are both visible.
    ends = dict(zip(exact, np.geomspace(EXACT / 4, FLOOR * 3, len(exact)), strict=True))
    every = max(1, rounds // 8)
    for place, (name, run) in enumerate(runs.items()):
        look = _look(place)
        last = run.rounds_to(EXACT)
        shown = slice(0, run.rounds + 1 if last is None else last + 1)
        errors = np.maximum(run.errors[shown], ends.get(name, EXACT))
        for axes, across in ((by_rounds, np.arange(len(errors))), (by_bytes, run.bytes(nbytes)[shown] / scale)):
            # Every curve has markers at other rounds, so that markers do not hide one another.
            axes.plot(across, errors, label=name, **look, **LINE, markevery=(place % every, every))
            if name in ends and across[-1] <= axes.get_xlim()[1]:
                axes.plot(across[-1:], errors[-1:], **look | END)
    figure.legend(
        *by_rounds.get_legend_handles_labels(),
        loc="lower center",
        ncols=min(COLUMNS, len(runs)),
        frameon=False,
        fontsize=10.5,
        handlelength=3.4,
        labelcolor=INK,
    )
    return figure


def _look(place: int) -> dict[str, Any]:
    """After each pass through the colours, line style and marker advance too, each by its own step."""
    lap, first = divmod(place, len(LOOKS))
    line, marker = LOOKS[(first + lap) % len(LOOKS)], LOOKS[(first + 3 * lap) % len(LOOKS)]
    return {**LOOKS[first], "linestyle": line["linestyle"], "marker": marker["marker"]}


def _messages(runs: Mapping[str, Consensus]) -> int:
    """The end of the axis of bytes, in messages: the most frugal schedule, and exact ones that are near."""
    ends = [(int(run.messages[-1]), run.rounds_to_exact(), run) for run in runs.values()]
    frugal = min((messages for messages, exact, _ in ends if exact is None), default=0)
    needed = [int(run.messages[exact]) for _, exact, run in ends if exact is not None]
    return max(1, frugal, *(each for each in needed if not frugal or each <= 2 * frugal))


def _frame(axes: Axes, what: str, limit: float) -> None:
    axes.set(yscale="log", ylim=(FLOOR, 1.6), xlim=(0, limit), yticks=[10.0**-power for power in range(0, 13, 2)])
    axes.set_xlabel(what, size=10.5, color=INK)
    axes.tick_params(labelsize=9.5, colors=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(visible=True, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axhspan(FLOOR, EXACT, color=FAINT, zorder=0)
    axes.text(0.985, FLOOR * 8, "exact", transform=axes.get_yaxis_transform(), size=10, color=QUIET, ha="right")
