"""The output of rank 0: a progress bar where there is a terminal to move it on, and figures with their units."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gossip.launching.launchers import Launcher


def screen(launcher: Launcher) -> Console:
    """The console of rank 0; on other ranks nothing appears."""
    size = _terminal(launcher)
    width = max(size.columns, 80) if size else 120
    return Console(force_terminal=size is not None, width=width, quiet=launcher.rank > 0, highlight=False)


def _terminal(launcher: Launcher) -> os.terminal_size | None:
    """The size of the terminal that shows this rank's output; None where a file or a pipe takes it."""
    if not sys.stdout.isatty():
        return None
    if launcher.name != "openmpi":
        return os.get_terminal_size(sys.stdout.fileno())
    # Open MPI gives each rank a terminal of 80 columns, also when its own output goes to a file. On the first host
    # mpirun is the parent of the ranks, and Linux shows where its output goes.
    try:
        output = os.readlink(f"/proc/{os.getppid()}/fd/1")
        if not output.startswith(("/dev/pts/", "/dev/tty")):
            return None
        with open(output, opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)) as terminal:
            return os.get_terminal_size(terminal.fileno())
    except OSError:
        return None


class Course:
    """The progress of a command: one bar over all its parts on a terminal, otherwise one line for each part."""

    def __init__(self, console: Console, steps: int) -> None:
        columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = console.is_terminal and not console.quiet
        self._console = console
        self._bar = Progress(*columns, console=console, transient=True, disable=not shown)
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> Course:
        self._bar.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._bar.stop()

    def part(self, title: str) -> None:
        """Begin a part."""
        self._bar.update(self._task, description=title)
        if self._bar.disable:
            self._console.print(f"{title} ...")

    def advance(self, steps: int) -> None:
        """Count steps that are done since the last call."""
        self._bar.advance(self._task, steps)


def ms(seconds: float) -> str:
    """Milliseconds, with as many digits as can mean something: "12.3" or "0.051"."""
    value = seconds * 1e3
    return f"{value:.{3 - sum(abs(value) >= least for least in (1, 10, 1000))}f}"


def size(count: float) -> str:
    """Bytes in the decimal unit that fits: "1.024 MB" or "0 B"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count:.0f} B"


def percent(share: float) -> str:
    """A share, as in "1.2 %"."""
    return f"{share * 100:.1f} %"
