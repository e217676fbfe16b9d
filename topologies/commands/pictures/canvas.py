"""Common parts of all pictures: colours, sizes, and the way into a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from topologies.errors import PictureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, GREY, FAINT = "#1c2733", "#55616e", "#a3adb8", "#e7ebef"

DPI = 150
COLUMNS = 4
"""The largest number of panels, or of names in a legend, side by side."""


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise PictureError(
            "pictures need matplotlib: pip install matplotlib, or install this package with its extra `bench`"
        ) from error
    return Figure


def canvas(width: float, height: float, title: str) -> Figure:
    """A white figure of `width` by `height` inches with a title at the top left; `PictureError` without matplotlib."""
    figure = _figure_class()(figsize=(width, height), facecolor="white")
    figure.text(0.18 / width, 1 - 0.16 / height, title, size=13, weight="bold", color=INK, va="top")
    return figure


def check_file(path: str | os.PathLike[str]) -> None:
    """Check matplotlib, the ending and the folder before a picture is made; raises `PictureError`."""
    formats = _figure_class()().canvas.get_supported_filetypes()
    folder, ending = os.path.dirname(path) or ".", os.path.splitext(path)[1][1:].lower()
    if ending not in formats:
        # Without an ending, matplotlib would write to another file.
        raise PictureError(
            f"the picture cannot be written to {os.fspath(path)}: its ending says the format, as in .png or .svg, and "
            f"is {ending or 'none'!r}"
        )
    if not os.path.isdir(folder):
        raise PictureError(
            f"the picture cannot be written to {os.fspath(path)}: there is no folder {folder}, so make it first"
        )


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, whose ending determines the format; raises `PictureError` if that fails."""
    check_file(path)
    try:
        figure.savefig(path, dpi=DPI)
    except (OSError, ValueError) as error:
        raise PictureError(f"the picture cannot be written to {os.fspath(path)}: {error}") from error
    return Path(path)
