"""The state that this process has once, whatever the number of its worlds, and its standard error.

`process` is the global state of `gossip.observe`, of the end of the job and of its signals; other modules hold none.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from .board import Board


@dataclass
class Process:
    """The state of the process. Functions of `process`, `ending` and `signals` read and write it.

    Attributes:
        board: the status board of the last world made; None before the first.
        end_job: ends the processes of the other ranks with an exit code; None before the first world.
        show_error: the excepthook that shows tracebacks; None until `ending.abort_on_errors` has replaced it.
        watch: the `signals.Watch`; None until signals are handled.
        timelines: the `timeline.Timeline` of each file, shared by the optimizers of a rank.
        lock: guards `timelines`, for ranks may be threads; a finalizer may take it while it is held.
        stderr: the last `sys.stderr` that was no string.
    """

    board: Board | None = None
    end_job: Callable[[int], None] | None = None
    show_error: Callable[[type[BaseException], BaseException, TracebackType | None], object] | None = None
    watch: Any = None
    timelines: dict[Path, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    stderr: TextIO | None = sys.stderr


process = Process()


def stderr() -> TextIO | None:
    """`sys.stderr`, or the stream before it while a string replaces it.

    torch.distributed's excepthook collects in a string the output of the hook inside it, and prints it afterwards. A
    hook that ends the process never returns there.

    >>> before = stderr()
    >>> with contextlib.redirect_stderr(io.StringIO()):
    ...     stderr() is before
    True
    """
    if sys.stderr is not None and not isinstance(sys.stderr, io.StringIO):
        process.stderr = sys.stderr
    return process.stderr


def say(text: str) -> None:
    """Write a line to `stderr()`, unless that is closed."""
    stream = stderr()
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.write(text + "\n")
            stream.flush()


def report(board: Board) -> None:
    """Write this rank's position and the Python stacks of the program's threads to stderr."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        if not str(names.get(ident)).startswith("gossip-"):  # our own threads only wait
            lines.append(f"thread {names.get(ident, ident)}:")
            lines += "".join(traceback.format_stack(frame)).splitlines()
    _say_with_label(board, lines)


def report_of_all(board: Board) -> None:
    """Write this rank's position, and let the other ranks of this host report, before a timeout ends the job."""
    _say_with_label(board, [])
    board.ask()


def _say_with_label(board: Board, lines: Sequence[str]) -> None:
    label = f"[rank {board.rank} on {board.hosts[board.rank]}] " if board.hosts else f"[rank {board.rank}] "
    say("\n".join(label + line for line in (str(board.slot), *lines)))
    board.slot.reported = time.monotonic()


def flush() -> None:
    """Flush stdout and stderr, before the process ends without Python's own exit."""
    for stream in (sys.stdout, sys.stderr, stderr()):
        with contextlib.suppress(OSError, ValueError):  # closed, here or by its reader
            if stream is not None:
                stream.flush()
