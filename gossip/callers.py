"""Where in the user's own code a call of ours was made, so that warnings point there."""

from __future__ import annotations

import sys

OURS = ("torch", "gossip", "slowmo")


def levels_to_the_user() -> int:
    """How far above the caller of this the user's code is, counted as `warnings.warn` does."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in OURS:
        level, frame = level + 1, frame.f_back
    return level
