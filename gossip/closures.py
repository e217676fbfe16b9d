"""A closure that is evaluated before its step begins, so that what is in flight travels meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .errors import GossipError

Loss = Any


class Evaluated:
    """`closure`, evaluated now: the first call gives that loss, and others evaluate it again.

    `once`: the optimizer that must not do so, since gradients are averaged over ranks, which would be missing then.

    >>> losses = iter([0.5, 0.25])
    >>> closure = Evaluated(lambda: next(losses))
    >>> closure(), closure()
    (0.5, 0.25)
    """

    def __init__(self, closure: Callable[[], Loss], once: str | None = None) -> None:
        self._closure, self._once = closure, once
        with torch.enable_grad():
            self._losses = [closure()]

    def __call__(self) -> Loss:
        if self._losses:
            return self._losses.pop()
        if self._once is not None:
            raise GossipError(
                f"{self._once} evaluates its closure again within a step, and those gradients would be this rank's "
                "alone: leave gradients=None and average parameters"
            )
        with torch.enable_grad():
            return self._closure()
