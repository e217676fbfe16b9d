"""A report of the weight of all ranks. Gossip conserves it, which one small sum checks."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..state.mass import Mass
from ..world import World


@dataclass(frozen=True)
class Account:
    """The weight of all ranks in one step, the same on every rank.

    Attributes:
        ranks: n, the number of ranks and the sum of their first weights.
        held: Σ w.
        aloft: the weight in flight: given and not yet merged.
        spread: rms over ranks of w − Σ w / n; 0 if every round so far was doubly stochastic and has landed.
    """

    ranks: int
    held: float
    aloft: float
    spread: float

    def __str__(self) -> str:
        """The numbers, and the weight that was lost."""
        return f"{self!r}, lost {self.lost:g}"

    @property
    def lost(self) -> float:
        """n − held − aloft: 0 but for rounding; above 0 if a share was lost, below 0 if one was merged twice."""
        return self.ranks - self.held - self.aloft


def account(mass: Mass, world: World | None) -> Account:
    """Sum over the ranks of `world`; a rank by itself has its own."""

    def total() -> torch.Tensor:
        w = mass.weight.reshape(1)
        sums = torch.cat([w, torch.as_tensor(mass.aloft_weight, dtype=w.dtype, device=w.device).reshape(1), w * w])
        if world is not None:
            mass.stats.wait(world.base.sum([sums]))
        return sums

    held, aloft, squares = (total() if world is None else world.base.together(total)).tolist()
    n = 1 if world is None else world.base.size
    return Account(n, held, aloft, max(0.0, squares / n - (held / n) ** 2) ** 0.5)
