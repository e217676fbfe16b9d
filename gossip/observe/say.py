"""Writes to the standard error that the user sees, and raises no errors of its own."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TextIO

_latest: TextIO | None = sys.stderr


def stderr() -> TextIO | None:
    """`sys.stderr`, or the stream before it while a string replaces it.

    torch.distributed's excepthook collects in a string the output of the hook inside it, and prints it afterwards. A
    hook that ends the process never returns there.

    >>> import contextlib, io, sys
    >>> before = sys.stderr
    >>> with contextlib.redirect_stderr(io.StringIO()):
    ...     stderr() is before
    True
    """
    global _latest
    if sys.stderr is not None and not isinstance(sys.stderr, io.StringIO):
        _latest = sys.stderr
    return _latest


def say(text: str) -> None:
    """Write a line to `stderr()`, unless that is closed."""
    stream = stderr()
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.write(text + "\n")
            stream.flush()


def flush() -> None:
    """Flush stdout and stderr, before the process ends without Python's own exit."""
    for stream in (sys.stdout, sys.stderr, stderr()):
        with contextlib.suppress(OSError, ValueError):  # closed, here or by its reader
            if stream is not None:
                stream.flush()
