"""The result of a command, as text and as one JSON document; tables and paragraphs of the text."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np


class Report(NamedTuple):
    """The result of a command."""

    lines: list[str]
    """For a person, on stdout."""
    document: dict[str, Any]
    """For a program, on stdout in place of the lines if `--json` is given."""
    code: int = 0
    """The exit code."""
    complaint: str = ""
    """An error message for stderr."""


def json_text(document: Mapping[str, Any]) -> str:
    """One JSON document; numbers that are not finite become null.

    >>> print(json_text({"gap": float("nan")}))
    {
      "gap": null
    }
    """
    # In ASCII, so that the output is legible in any encoding of the terminal.
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


V = TypeVar("V")

WIDTH = 108
"""The largest number of columns of a line."""

NARROW = 24
"""The smallest number of columns for a text, for any prefix."""

GAP = "  "


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """The lines of a table; the columns numbered in `left` are flush left, the others flush right.

    The last column wraps if it is flush left and the line would become too long.

    >>> print("\\n".join(table(["graph", "rounds"], [["base", "6"], ["ring", "291"]])))
    graph  rounds
    base        6
    ring      291
    """
    cells = [list(titles), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    before = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    last = len(titles) - 1
    lines: list[str] = []
    for row in cells:
        placed = [text.ljust(width) if i in left else text.rjust(width) for i, (text, width) in _columns(row, widths)]
        if last in left and before + widths[-1] > WIDTH:
            parts = textwrap.wrap(row[-1], max(NARROW, WIDTH - before), break_on_hyphens=False) or [""]
            lines.append(GAP.join([*placed[:-1], parts[0]]).rstrip())
            lines.extend(" " * before + part for part in parts[1:])
        else:
            lines.append(GAP.join(placed).rstrip())
    return lines


def cell(value: V | None, text: Callable[[V], str] = str) -> str:
    """The text of a value in a table; "-" without a value."""
    return "-" if value is None else text(value)


def paragraph(text: str, before: str = "") -> list[str]:
    """The lines of a text, wrapped to the width of a table; the first line begins with `before`, others are indented.

    >>> print("\\n".join(paragraph("Ring: each rank sends on.", "  ring  ")))
      ring  Ring: each rank sends on.
    """
    return textwrap.wrap(
        text,
        max(WIDTH, len(before) + NARROW),
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_on_hyphens=False,
    )


def _columns(row: Sequence[str], widths: Sequence[int]) -> list[tuple[int, tuple[str, int]]]:
    return list(enumerate(zip(row, widths, strict=True)))
