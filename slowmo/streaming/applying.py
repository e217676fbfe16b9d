"""How an outer step reaches values that have gone on while the average travelled, one strategy each.

x_i is what rank i sent, x̄ the average, a the anchor after the outer step, and z_i what rank i holds now.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class Application(ABC):
    """One strategy.

    Attributes:
        keeps: it needs x_i, so that a copy of it is kept meanwhile.
    """

    keeps = False

    def before(self, z: torch.Tensor, mean: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor | None:
        """Before x̄ becomes a: compute the tensor that `apply_` gets as `kept`."""
        return None

    @abstractmethod
    def apply_(self, z: torch.Tensor, a: torch.Tensor, kept: torch.Tensor | None) -> None:
        """Write z. The memory of `a`, which is float32 or wider, is free afterwards."""


class Progress(Application):
    """z_i <- a + (z_i − x_i): what rank i has done since it sent counts on top."""

    keeps = True

    def before(self, z: torch.Tensor, mean: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        assert own is not None, "it is kept"
        return z.to(mean.dtype) - own.to(z.device)

    def apply_(self, z: torch.Tensor, a: torch.Tensor, kept: torch.Tensor | None) -> None:
        assert kept is not None
        z.copy_(a.add_(kept))


class SameStep(Application):
    """z_i <- z_i + (a − x̄): the same step on every rank, over a base that brings them together itself."""

    def before(self, z: torch.Tensor, mean: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        return mean.clone()

    def apply_(self, z: torch.Tensor, a: torch.Tensor, kept: torch.Tensor | None) -> None:
        assert kept is not None
        z.add_(a.sub_(kept))


class Mixed(Application):
    """z_i <- (1 − μ) a + μ z_i: with μ = 0 the average overwrites what rank i has done since it sent."""

    def __init__(self, mixing: float) -> None:
        self.mixing = mixing

    def apply_(self, z: torch.Tensor, a: torch.Tensor, kept: torch.Tensor | None) -> None:
        z.copy_(a.lerp_(z.to(a.dtype), self.mixing))
