"""A line about a wait that takes long: a person who looks at a silent job sees what it waits for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("gossip")

NOTICE = 30.0
"""Seconds of a wait after which a line says what it waits for."""


class Notice:
    """Logs `sentence()` once, when the wait that began now has taken `NOTICE` seconds; nothing where that is empty.

    >>> notice = Notice(lambda: "rank 0 waited 30 s for rank 1")
    >>> notice.look()
    """

    def __init__(self, sentence: Callable[[], str]) -> None:
        self._sentence: Callable[[], str] | None = sentence
        self._due = time.monotonic() + NOTICE

    def look(self) -> None:
        """Log the line if it is due. A wait calls this now and then."""
        if self._sentence is not None and time.monotonic() >= self._due:
            if said := self._sentence():
                log.warning(said)
            self._sentence = None
