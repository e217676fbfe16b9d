"""The mode of an optimizer that moves parameters between the values that train and those that are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import GossipError
from ..state.buckets.writes import Writes
from .parameters import Parameters


class Mode:
    """The names "train" and "eval", as schedule-free optimizers have them."""

    def __init__(self, parameters: Parameters, writes: Writes) -> None:
        self._now = "train"
        self._parameters, self._writes = parameters, writes

    def rewritten(self, write: Callable[[], Any], mode: str, hold_still: Callable[[], None]) -> Any:
        """Do `write`, which changes the wrapped optimizer's parameters, while no flight reads them."""
        if mode == self._now == "eval":
            return write()  # which finds nothing to change, also inside `mean`
        hold_still()
        result = write()
        self._parameters.rounded.write_()
        self._writes.again()
        self._now = mode
        return result

    def check(self, in_flight: bool, call: str) -> None:
        """Check that the parameters hold the values that train, while something is in flight."""
        if in_flight and self._now == "eval":
            raise GossipError(
                f"{call} was called while the optimizer is in eval mode, and what is in flight belongs to the values "
                "that train: call settle() before optimizer.eval(), or optimizer.train() before this call"
            )
