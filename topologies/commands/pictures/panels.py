"""The rounds of a schedule side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from topologies.arrays.edges import Floats
from topologies.commands.pictures.canvas import COLUMNS, INK, QUIET, canvas
from topologies.commands.pictures.scene import Line, Scene, lines_of
from topologies.errors import PictureError
from topologies.topology import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RANKS = 512
"""With more ranks a picture shows nothing."""
MOST_EDGES = 5000
"""In all rounds together; a picture of more takes many seconds and shows a grey disc."""

TITLE_ROOM = 0.3
"""Inches above a panel."""


def rounds(topology: Topology, title: str, numbers: Sequence[int], rank: int = 0) -> Figure:
    """The rounds with these `numbers` side by side, and the spread of the value of `rank`.

    An arrow j -> i means that j sends to i, and a line that both send the same share. Shares stand at the edges unless
    one sentence covers them all. A blue rank has received a part of the value of `rank`, over the blue edges.

    Args:
        topology: up to 512 ranks, and 5000 edges in all rounds together.
        title: the name of the graph.
        numbers: the rounds, at least one.
        rank: the rank whose value is followed.

    Raises:
        PictureError: a larger graph, or no matplotlib.

    >>> figure = rounds(topologies.exponential(8), "exponential", range(3))
    >>> [panel.get_title() for panel in figure.axes]
    ['round 0', 'round 1', 'round 2']
    """
    if topology.size > MOST_RANKS:
        raise PictureError(
            f"a picture of {topology.size} ranks shows nothing: draw at most {MOST_RANKS}, as with --size 16"
        )
    rounds_edges = [topology.edges(number) for number in numbers]
    if (count := sum(len(edges.source) for edges in rounds_edges)) > MOST_EDGES:
        raise PictureError(
            f"{count} edges in {len(numbers)} rounds show nothing: draw at most {MOST_EDGES}, of fewer ranks or rounds"
        )
    drawn: list[list[Line]] = []
    knowing: list[npt.NDArray[np.bool_]] = []
    known = np.arange(topology.size) == rank
    for edges in rounds_edges:
        fresh = known[edges.source] & ~known[edges.target]
        known = known.copy()
        known[edges.target[fresh]] = True
        drawn.append(lines_of(edges, fresh))
        knowing.append(known)
    scene = Scene(topology, rounds_edges, drawn)
    caption = " ".join([_cycle(topology, len(numbers)), *scene.sentences(), _spread(rank)])
    sheet = _Sheet(len(rounds_edges), scene.inches, scene.limits, title, caption)
    for place, number in enumerate(numbers):
        axes = sheet.panel(place, f"round {number}{scene.share(drawn[place])}")
        scene.draw(axes, drawn[place], knowing[place], rank)
    return sheet.figure


def _cycle(topology: Topology, shown: int) -> str:
    ranks = "1 rank" if topology.size == 1 else f"{topology.size} ranks"
    if topology.period is None:
        return f"{ranks}, {shown} rounds of a schedule that never repeats."
    if topology.period == 1:
        return f"{ranks}, the same in every round."
    if topology.period <= shown:
        return f"{ranks}, {topology.period} rounds, then again from the first."
    return f"{ranks}, {shown} of {topology.period} rounds."


def _spread(rank: int) -> str:
    return f"Blue: the ranks that the value of rank {rank} has reached, and the edges that brought it."


class _Sheet:
    """A figure with a heading and equal panels below it, row after row."""

    def __init__(self, panels: int, inches: float, limits: Floats, title: str, caption: str) -> None:
        rows = -(-panels // COLUMNS)
        self.columns = -(-panels // rows)
        self.limits = limits
        # Panels keep the proportions of their content.
        self.across, self.up = inches * (limits[1] - limits[0]) / np.ptp(limits[:, 0])
        self.width = max(self.columns * self.across, 5.6)
        lines = textwrap.wrap(caption, int(self.width * 13.4))
        self.heading = 0.62 + 0.19 * len(lines)
        self.height = self.heading + rows * (self.up + TITLE_ROOM)
        self.figure = canvas(self.width, self.height, title)
        self.figure.text(
            0.18 / self.width,
            1 - 0.46 / self.height,
            "\n".join(lines),
            size=9.5,
            color=QUIET,
            va="top",
            linespacing=1.3,
        )

    def panel(self, place: int, title: str) -> Axes:
        row, column = divmod(place, self.columns)
        left = (self.width - self.columns * self.across) / 2 + column * self.across
        bottom = self.height - self.heading - (row + 1) * (self.up + TITLE_ROOM)
        box = left / self.width, bottom / self.height, self.across / self.width, self.up / self.height
        axes: Axes = self.figure.add_axes(box)
        axes.set_axis_off()
        axes.set(xlim=self.limits[:, 0], ylim=self.limits[:, 1])
        axes.set_title(title, fontsize=11, color=INK, pad=6)
        return axes
