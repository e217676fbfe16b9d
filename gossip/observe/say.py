"""How a rank says why it ends: on the standard error that people read, and without an error of its own."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TextIO

_latest: TextIO | None = sys.stderr


def stderr() -> TextIO | None:
    """`sys.stderr`, or what it was before a string took its place.

    torch.distributed's excepthook collects in a string what the hook inside it prints, and shows that afterwards. A
    hook that ends the process never comes back to it.

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
    """Write a line to `stderr()`. A process whose stderr is closed ends all the same."""
    stream = stderr()
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            stream.write(text + "\n")
            stream.flush()


def flush() -> None:
    """Let out what is still held of stdout and stderr, before a process ends without Python's own end."""
    for stream in (sys.stdout, sys.stderr, stderr()):
        with contextlib.suppress(OSError, ValueError):  # closed, here or at its other end
            if stream is not None:
                stream.flush()
