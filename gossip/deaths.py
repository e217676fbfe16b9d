"""What is left of the mass when a rank has died, and who goes on with it.

The weights of those that are left become theirs alone: Σ w is their number again, all weights times the same factor.
So their weighted mean, which is what they agree on, stays what it was, and an update counts for as much as before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from .averaging import ROUNDING, Averager
from .mass import Mass
from .transports import Told

log = logging.getLogger("gossip")


class Death(NamedTuple):
    """Ranks that died, and what went with them.

    Attributes:
        ranks: as the job numbered them when it began.
        step: the step that this rank was in.
        left: how many ranks went on.
        weight: what the dead held, and what was on its way from them: of a Σ w of left + len(ranks).
        seconds: from noticing to going on.
    """

    ranks: tuple[int, ...]
    step: int
    left: int
    weight: float
    seconds: float

    def __str__(self) -> str:
        who = f"rank {self.ranks[0]}" if len(self.ranks) == 1 else f"ranks {', '.join(map(str, self.ranks))}"
        return (
            f"{who} died, seen in step {self.step}: weight {self.weight:.4g} of {self.left + len(self.ranks)} is lost, "
            f"and {self.left} {'ranks go' if self.left > 1 else 'rank goes'} on after {self.seconds:.3f} s"
        )


def tell(mass: Mass, averagers: Sequence[Averager]) -> dict[str, Any]:
    """What the other ranks have to know of this one."""
    return {"held": float(mass.weight), "aloft": mass.aloft, "averagers": [averager.tell() for averager in averagers]}


def go_on(mass: Mass, averagers: Sequence[Averager], me: int, told: Told) -> float:
    """Take back what never arrived, and share Σ w among those that are left; what Σ w came to before."""
    parts = [{rank: each["averagers"][number] for rank, each in told.items()} for number in range(len(averagers))]
    found = [averager.weights(part) for averager, part in zip(averagers, parts, strict=True)]
    weights = {rank: each["held"] + sum(weights[rank] for weights in found) for rank, each in told.items()}
    total = float(sum(weights.values()))
    # w_i <- w_i · n / Σ_j w_j
    scale = len(told) / total
    unmerged = sum(averager.go_on(part, scale) for averager, part in zip(averagers, parts, strict=True))
    landed = not any(each["aloft"] for each in told.values())
    alike = all(abs(weight * scale - 1) < ROUNDING for weight in weights.values())
    mass.go_on(weights[me] * scale - unmerged, unmerged, landed and alike)
    return total
