"""When to ask again whether a batch has landed, of a library that does not tell.

Each question costs a core some 50 µs, most of it for waking up, which ranks that share cores take from one another. So
it is asked soon after the post and after a part has moved, then ever more rarely; and soon again from the moment on at
which such a batch has landed at the earliest of late. Before that a few questions do, where it moves without them.
"""

from __future__ import annotations

from collections import deque

SHORTEST, LONGEST = 2e-5, 1e-3
"""Seconds between two questions."""

REMEMBERED = 8
"""Batches of a kind: the shortest of so many is what the next one takes at the least."""

KINDS = 256
"""Of which there is memory, the last ones: messages such as those of a gather have any size."""

PROBES = 8
"""Questions before a batch is expected, at the least: it may have become quicker."""

Kind = tuple[int, bool, int, int]
"""The number of the channel, whether all comes from this host, and the bytes that are sent and received."""


def pace(waited: float) -> float:
    """Seconds until the next question, where nothing has moved for `waited`: a tenth, and a millisecond at the most.

    >>> pace(0.0), pace(0.005), pace(1.0)
    (2e-05, 0.0005, 0.001)
    """
    return min(max(waited / 10, SHORTEST), LONGEST)


def lull(least: float, messages: int) -> float:
    """Seconds between two questions for a batch of so many messages that takes `least`: one for each of them.

    >>> lull(0.08, 17), lull(1e-3, 1), lull(0.0, 1)
    (0.001, 0.000125, 2e-05)
    """
    return min(max(least / max(messages, PROBES), SHORTEST), LONGEST)


class Habits:
    """How long batches of each kind take.

    >>> habits = Habits()
    >>> kind = (0, False, 100, 100)
    >>> habits.least(kind)
    0.0
    >>> habits.note(kind, 0.25)
    >>> habits.note(kind, 0.5)
    >>> habits.least(kind)
    0.25
    """

    def __init__(self) -> None:
        self._took: dict[Kind, deque[float]] = {}

    def note(self, kind: Kind, seconds: float) -> None:
        """One has taken `seconds`."""
        took = self._took.pop(kind, None) or deque(maxlen=REMEMBERED)
        took.append(seconds)
        self._took[kind] = took  # behind all others
        if len(self._took) > KINDS:
            del self._took[next(iter(self._took))]

    def least(self, kind: Kind) -> float:
        """Seconds that the quickest of the last few has taken; 0 where there was none."""
        return min(self._took.get(kind, ()), default=0.0)
