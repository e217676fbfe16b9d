"""Weights that were written after settle(): slow momentum takes them for what the base optimizer has done."""

from __future__ import annotations

import warnings

from gossip import GossipOptimizer
from gossip.errors import levels_to_the_user
from gossip.state.buckets.writes import Writes


class Jumps:
    """Compares the parameters of `base` when a step begins with what `settle` left, for the optimizer called `name`."""

    def __init__(self, base: GossipOptimizer, name: str) -> None:
        self._writes = Writes(base.mass.buckets, base.parameters.rounded)
        self._name = name
        base.register_step_pre_hook(self._look)

    def note(self) -> None:
        """Everything has landed, so parameters may be written."""
        self._writes.note()

    def forget(self) -> None:
        """What was written is no jump: anchors are taken anew."""
        self._writes.forget()

    def _look(self, *_: object) -> None:
        if self._writes.altered():
            warnings.warn(
                f"parameters were written after settle(), and {self._name} counts that as a slow gradient. Where other "
                "weights were loaded, call restart() afterwards, on every rank: anchor and momentum begin anew. A "
                "small change, such as a clamp, may stay as it is",
                stacklevel=levels_to_the_user(),
            )
        self._writes.forget()
