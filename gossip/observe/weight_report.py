"""A report of the weight of all ranks. Gossip conserves it, which one small sum checks."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class WeightReport:
    """The weight of all ranks in one step, the same on every rank.

    Attributes:
        ranks: n, the number of ranks and the sum of their first weights.
        held: Σ w.
        in_flight: the weight that was given and is not yet merged.
        spread: rms over ranks of w − Σ w / n; 0 if every round so far was doubly stochastic and has landed.
    """

    ranks: int
    held: float
    in_flight: float
    spread: float

    @classmethod
    def of(cls, ranks: int, sums: torch.Tensor) -> WeightReport:
        """The report of `ranks` ranks whose `addends` have these sums."""
        held, in_flight, squares = sums.tolist()
        return cls(ranks, held, in_flight, max(0.0, squares / ranks - (held / ranks) ** 2) ** 0.5)

    def __str__(self) -> str:
        """The numbers, and the weight that was lost."""
        return f"{self!r}, lost {self.lost:g}"

    @property
    def lost(self) -> float:
        """n − Σ w − weight in flight: 0 but for rounding; positive if a share was lost, negative if merged twice."""
        return self.ranks - self.held - self.in_flight


def addends(weight: torch.Tensor, in_flight: torch.Tensor | float) -> torch.Tensor:
    """One rank's part of the sums: w, the weight that it has given less the weight that it has merged, and w²."""
    w = weight.reshape(1)
    given = torch.as_tensor(in_flight, dtype=w.dtype, device=w.device).reshape(1)
    return torch.cat([w, given, w * w])
