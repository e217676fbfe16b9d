"""The look of pictures: a frame around axes, and panels of horizontal bars with columns of figures beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from topologies.commands.pictures.canvas import FAINT, GREY, INK, QUIET, canvas, save

WIDTH, LEFT, FOOT, MARGIN = 9.6, 0.215, 0.5, 0.18
FITS = 25  # characters of a name in full size


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


class Bar(NamedTuple):
    """Seconds from `start` on, and where the bar lies in its row, from -0.5 to 0.5."""

    seconds: float
    color: str
    place: float
    height: float
    start: float = 0.0


class Row(NamedTuple):
    """A name, its bars, and its figures in the order of the columns."""

    name: str
    bars: Sequence[Bar]
    figures: Sequence[str]


class Panel(NamedTuple):
    """Rows under a title and a smaller `note`; `mark`: seconds at which a dashed line stands."""

    title: str
    rows: Sequence[Row]
    note: str = ""
    mark: float | None = None


class Bars(NamedTuple):
    """A picture of panels under one another."""

    title: str
    row: float  # inches of a row
    head: float  # inches above the first panel
    gap: float  # inches between two panels
    right: float  # where the bars end, in widths of the picture
    columns: Mapping[str, float]  # the heads of the figures, and their right edges likewise
    bold: str  # the column that stands out
    colors: Mapping[str, str]  # and their names in the legend
    mark: str = ""  # the name of the dashed line

    def draw(self, path: Path, heading: str, panels: Sequence[Panel]) -> None:
        """Draw the panels, and write the picture."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        heights = [self.row * (len(panel.rows) + 0.3) for panel in panels]
        height = self.head + sum(heights) + self.gap * (len(panels) - 1) + FOOT
        figure = canvas(WIDTH, height, self.title)
        figure.text(MARGIN / WIDTH, 1 - 0.44 / height, heading, size=9.5, color=QUIET, va="top")
        top = height - self.head
        for panel, tall in zip(panels, heights, strict=True):
            axes = figure.add_axes((LEFT, (top - tall) / height, self.right - LEFT, tall / height))
            self._panel(axes, panel)
            top -= tall + self.gap
        handles: list[Any] = [Patch(color=color, label=name) for color, name in self.colors.items()]
        if any(panel.mark for panel in panels):
            handles.append(Line2D([], [], color=INK, linewidth=1.0, linestyle="--", label=self.mark))
        figure.legend(
            handles=handles, loc="upper right", bbox_to_anchor=(1 - 0.1 / WIDTH, 1 - 0.06 / height), frameon=False,
            ncols=2 if self.mark else len(handles), fontsize=9.5, labelcolor=INK, handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip
        save(figure, path)

    def _panel(self, axes: Any, panel: Panel) -> None:
        frame(axes, "", "")
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        places = [(head, (edge - LEFT) / (self.right - LEFT)) for head, edge in self.columns.items()]
        at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right", "color": INK}
        longest = panel.mark or 0.0
        for number, (name, bars, figures) in enumerate(panel.rows):
            for seconds, color, place, tall, start in bars:
                axes.barh(number + place, seconds * 1e3, left=start * 1e3, height=tall, color=color)
                longest = max(longest, start + seconds)
            axes.text(-0.018, number, name, size=min(10.0, 10 * FITS / len(name)), **at)
            for (head, place), text in zip(places, figures, strict=True):
                axes.text(place, number, text, size=10, weight="bold" if head == self.bold else "normal", **at)
        if panel.mark:
            axes.axvline(panel.mark * 1e3, color=INK, linewidth=1.0, linestyle="--")
        axes.set(xlim=(0, longest * 1.02e3), ylim=(len(panel.rows) - 0.35, -0.65), yticks=[])
        for head, place in places:
            axes.text(place, 1.0, head, transform=axes.transAxes, size=9, ha="right", va="bottom", color=QUIET)
        axes.annotate("ms", (1, 0), (12, -6), "axes fraction", "offset points", size=9.5, va="top", color=QUIET)
        left, pad = (MARGIN / WIDTH - LEFT) / (self.right - LEFT), 24 if panel.note else 8
        axes.set_title(panel.title, loc="left", x=left, size=10.5, color=INK, weight="bold", pad=pad)
        axes.annotate(panel.note, (left, 1), (0, 10), "axes fraction", "offset points", size=9, color=QUIET)
