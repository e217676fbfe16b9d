"""A text stream that begins each line with the rank that wrote it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import Any, TextIO


class Labelled:
    """Writes text to a stream, with a label at the start of each line.

    A line is written in one piece when it ends or on `flush`, so that lines of several ranks do not mix on a terminal.
    A carriage return starts a line too: a progress bar keeps its label.
    """

    def __init__(self, stream: TextIO, label: str) -> None:
        self.stream = stream
        self.label = label
        self._pending = ""
        self._at_start = True
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Buffer text, and write the lines that it completes."""
        with self._lock:
            self._pending += text
            end = max(self._pending.rfind("\n"), self._pending.rfind("\r")) + 1
            ready, self._pending = self._pending[:end], self._pending[end:]
            self._pass(ready)
            if "\n" in ready:
                self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Write the buffered text, also a line that has not ended."""
        with self._lock:
            ready, self._pending = self._pending, ""
            self._pass(ready)
            self.stream.flush()

    def _pass(self, text: str) -> None:
        # "\r\n" is one end of line, a lone "\r" goes back to the start of the line.
        for line in re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text):
            self.stream.write((self.label if self._at_start and line not in ("\r", "\r\n") else "") + line)
            self._at_start = line.endswith(("\n", "\r"))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:  # encoding, isatty, fileno, buffer, reconfigure …
        return getattr(self.stream, name)
