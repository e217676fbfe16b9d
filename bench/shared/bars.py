"""What pictures share: a frame around axes, and panels of horizontal bars with columns of figures beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from topologies.commands.pictures.canvas import FAINT, GREY, INK, QUIET, canvas

WIDTH, LEFT, FOOT, MARGIN = 9.6, 0.215, 0.5, 0.18


def frame(axes: Any, across: str, up: str) -> None:
    """Name the axes; quiet ticks, a faint grid, and two spines of four."""
    axes.set_xlabel(across, size=9.5, color=INK)
    axes.set_ylabel(up, size=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=QUIET, which="both")
    axes.tick_params(length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(visible=True, color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


class Sheet(NamedTuple):
    """How the panels lie.

    row, head, gap: inches of a row, above the first panel, and between two. right: where the bars end, in widths of
    the picture. columns: the heads of the columns of figures, and their right edges likewise.
    """

    row: float
    head: float
    gap: float
    right: float
    columns: Mapping[str, float]

    def panels(self, title: str, heading: str, rows: Sequence[int]) -> tuple[Any, list[Any]]:
        """The figure, and axes for so many rows each."""
        heights = [self.row * (count + 0.3) for count in rows]
        height = self.head + sum(heights) + self.gap * (len(rows) - 1) + FOOT
        figure = canvas(WIDTH, height, title)
        figure.text(MARGIN / WIDTH, 1 - 0.44 / height, heading, size=9.5, color=QUIET, va="top")
        top, panels = height - self.head, []
        for tall in heights:
            panels.append(figure.add_axes((LEFT, (top - tall) / height, self.right - LEFT, tall / height)))
            top -= tall + self.gap
        return figure, panels

    def margin(self) -> float:
        """The left margin of the picture, in widths of a panel from its left edge."""
        return (MARGIN / WIDTH - LEFT) / (self.right - LEFT)

    def label(self, axes: Any, row: int, name: str, texts: Sequence[str], bold: str, size: float = 10.0) -> None:
        """The name of a row, and its figures in the order of the columns; those of column `bold` stand out."""
        at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right", "color": INK}
        axes.text(-0.018, row, name, size=size, **at)
        for (head, place), text in zip(self._places(), texts, strict=True):
            axes.text(place, row, text, size=10, weight="bold" if head == bold else "normal", **at)

    def finish(self, axes: Any, rows: int, longest: float) -> None:
        """Milliseconds up to `longest` seconds, and the heads of the columns."""
        axes.set(xlim=(0, longest * 1.02e3), ylim=(rows - 0.35, -0.65), yticks=[])
        for head, place in self._places():
            axes.text(place, 1.0, head, transform=axes.transAxes, size=9, ha="right", va="bottom", color=QUIET)
        axes.annotate("ms", (1, 0), (12, -6), "axes fraction", "offset points", size=9.5, va="top", color=QUIET)
        frame(axes, "", "")
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")

    def _places(self) -> list[tuple[str, float]]:
        return [(head, (edge - LEFT) / (self.right - LEFT)) for head, edge in self.columns.items()]


def legend(figure: Any, handles: Sequence[Any], ncols: int) -> None:
    """In the upper right corner."""
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.06 / figure.get_figheight()),
        ncols=ncols,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.2,
        handleheight=0.9,
        columnspacing=1.2,
    )
