"""What is left of the mass when a rank has died, and who goes on with it.

The weights of those that are left become theirs alone: Σ w is their number again, all weights times the same factor.
So their weighted mean, which is what they agree on, stays what it was, and an update counts for as much as before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..averagers.base import ROUNDING, Averager
from ..errors import UsageError
from ..state.mass import Mass
from ..transports import Told, Transport
from ..world import World

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


class Survivor:
    """One optimizer's mass among those that go on when ranks die.

    Attributes:
        carrier: what goes on.
        deaths: those that it went on after.
    """

    def __init__(self, mass: Mass, averagers: Sequence[Averager], channel: Transport) -> None:
        assert channel.carrier.outlives, "refuse_mortal comes first"
        self.carrier = channel.carrier
        self.deaths: list[Death] = []
        self._mass, self._averagers, self._me = mass, averagers, channel.me
        self._known = set(self.carrier.lost)
        self.carrier.enrol(self, channel)

    def tell(self) -> dict[str, Any]:
        """What the other ranks have to know of this one."""
        mass = self._mass
        averagers = [averager.tell() for averager in self._averagers]
        return {"held": float(mass.weight), "aloft": mass.aloft, "averagers": averagers}

    def go_on(self, told: Told) -> None:
        """Begin again among the ranks that have told."""
        total = share(self._mass, self._averagers, self._me, told)
        gone = tuple(sorted(self.carrier.lost - self._known))
        self._known |= self.carrier.lost
        lost = len(told) + len(gone) - total
        step = self._mass.stats.board.slot.step
        self.deaths.append(Death(gone, step, len(told), lost, self.carrier.seconds))
        if self._me == min(told):
            log.warning("%s", self.deaths[-1])


def share(mass: Mass, averagers: Sequence[Averager], me: int, told: Told) -> float:
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


def refuse_mortal(averager: Averager, worlds: Sequence[World]) -> None:
    """Refuse what cannot go on without ranks that died.

    Raises:
        UsageError: an averager, a transport, or averages over a part of the ranks.
    """
    if not averager.outlives:
        raise UsageError("on_failure='shrink' needs landing='due', by which each rank knows what is under way")
    for world in worlds:
        if not world.base.carrier.outlives:
            raise UsageError(
                f"on_failure='shrink' needs a transport that outlives a process, and {world.transport!r} as it was "
                "started here does not: launch with mpirun --with-ft ulfm and take transport 'mpi', or leave "
                "on_failure='raise' and restart from a checkpoint"
            )
        if world.size < world.base.carrier.size:
            raise UsageError(
                f"on_failure='shrink' works over the whole world, and here are averages over {world.size} of its "
                f"{world.base.carrier.size} ranks: leave on_failure='raise' with sub-worlds"
            )
