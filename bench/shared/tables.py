"""Tables for the terminal, for Markdown and for CSV."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from tabulate import tabulate


def on_screen(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """For a terminal: the first column to the left, numbers to the right."""
    made = Table(*columns, title=title, title_justify="left", title_style="bold")
    for column in made.columns[1:]:
        column.justify = "right"
    for row in rows:
        made.add_row(*row)
    return made


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> str:
    """A Markdown table: the first column and those that `texts` names to the left, numbers to the right."""
    sides = ["left" if number == 0 or head in texts else "right" for number, head in enumerate(columns)]
    table: str = tabulate(rows, columns, tablefmt="pipe", disable_numparse=True, colalign=sides)
    return re.sub(" {2,}", " ", table)  # one long cell would pad all of its column


def write_csv(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """One line for each result, in seconds and bytes; `seconds_median` is the JSON's `seconds.median`."""
    rows = [dict(_flat(result)) for result in results]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, dict.fromkeys(head for row in rows for head in row))
        writer.writeheader()
        writer.writerows(rows)


def _flat(result: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}_")
        elif not isinstance(value, list):
            yield before + name, value
