"""The table on a terminal: refreshed in place with rich, printed again and again without."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..observe.snapshot import Snapshot
from .table import ACT, TITLES, lines, parts

if TYPE_CHECKING:
    from rich.console import Group

Ranks = Sequence[Snapshot]

STYLES = {"stopped": "bold red", "ended": "bold red", "silent": "red"}


def watch(look: Callable[[], Ranks], interval: float) -> None:
    """Show the ranks that `look` finds, every `interval` seconds, until none is left."""
    with (_in_place if find_spec("rich") else _again)() as show:
        while ranks := look():
            show(ranks)
            time.sleep(interval)


@contextmanager
def _in_place() -> Iterator[Callable[[Ranks], None]]:
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield lambda ranks: live.update(rendered(ranks), refresh=True)


@contextmanager
def _again() -> Iterator[Callable[[Ranks], None]]:
    yield lambda ranks: print(time.strftime("%H:%M:%S"), *lines(ranks), "", sep="\n", flush=True)


def rendered(ranks: Ranks) -> Group:
    """The table for rich: red are ranks that do not run, yellow are ranks that wait."""
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    found: list[RenderableType] = []
    for heading, warning, rows in parts(ranks):
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for number, title in enumerate(TITLES):
            if number == ACT:
                table.add_column(title, overflow="fold")
            else:
                table.add_column(title, justify="right", no_wrap=True)
        for each, row in rows:
            table.add_row(*map(Text, row), style=STYLES.get(each.state, "yellow" if each.waits else ""))
        found += [Text(heading, "bold"), *([Text(warning, "bold red")] if warning else []), table, Text()]
    return Group(*found)
