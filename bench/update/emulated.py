"""Compute that stands for a forward and backward pass."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Compute = Callable[[], object]


def sleeping(seconds: float) -> Compute:
    """Leaves the core to others, as a pass on an accelerator does."""
    return lambda: time.sleep(seconds)


def multiplying(times: int) -> Compute:
    """Matrix products of torch, which lets go of the interpreter lock inside each of them (256×256)."""
    a, b = torch.rand(256, 256), torch.rand(256, 256)
    room = torch.empty(256, 256)

    def compute() -> None:
        for _ in range(times):
            torch.mm(a, b, out=room)

    return compute


def interpreting(times: int) -> Compute:
    """Pure Python, which never lets go of the interpreter lock by itself."""

    def compute() -> int:
        total = 0
        for number in range(times):
            total += number & 7
        return total

    return compute


KINDS: dict[str, Callable[[int], Compute]] = {"torch": multiplying, "python": interpreting}
TRIAL = {"torch": 50, "python": 100_000}


def times_for(kind: str, seconds: float) -> int:
    """How often `KINDS[kind]` has to do its piece to be busy for so long on this core, undisturbed."""
    trial = KINDS[kind](TRIAL[kind])
    trial()
    took = []
    for _ in range(5):
        began = time.perf_counter()
        trial()
        took.append(time.perf_counter() - began)
    return max(1, round(TRIAL[kind] * seconds / min(took)))
