"""A text stream that says on every line which rank wrote it."""

from __future__ import annotations

import io
import re
import threading
from typing import Any, TextIO


class Labelled(io.TextIOBase):
    """Passes text on to a stream, with a label at the start of each line.

    A line goes out in one piece when it ends or on `flush`, so that the lines of ranks that share a terminal do not
    run into each other. A carriage return starts a line too: a progress bar keeps its label.

    Example:
        >>> import sys
        >>> stream = Labelled(sys.stdout, "[2] ")
        >>> _ = stream.write("loss 0.31\\n")
        [2] loss 0.31
    """

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream = stream
        self.label = label
        self._pending = ""
        self._at_start = True
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Take text, and pass on the lines that it completes."""
        with self._lock:
            self._pending += text
            end = max(self._pending.rfind("\n"), self._pending.rfind("\r")) + 1
            ready, self._pending = self._pending[:end], self._pending[end:]
            self._pass(ready)
            if "\n" in ready:
                self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Pass on also a line that has not ended."""
        with self._lock:
            ready, self._pending = self._pending, ""
            self._pass(ready)
            self.stream.flush()

    def _pass(self, text: str) -> None:
        # "\r\n" is one end of line, a lone "\r" goes back to the start of the line.
        for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text):
            self.stream.write((self.label if self._at_start and line not in ("\r", "\r\n") else "") + line)
            self._at_start = line.endswith(("\n", "\r"))

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream below."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """That of the stream below."""
        return self.stream.errors

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the stream below is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The file below: what is written there directly has no label."""
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:  # buffer, reconfigure and what else a script may ask of its output
        return getattr(self.stream, name)
