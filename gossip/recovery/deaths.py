"""The weight that is left when a rank has died, and the optimizers that go on with it.

The weights of the survivors become theirs alone: Σ w is their number again, all weights times the same factor. So their
weighted mean, on which they agree, stays the same, and an update counts for as much as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ..averagers.base import Averager, NoAverage
from ..averagers.exact import ExactAverage
from ..averagers.landing.due import Due
from ..averagers.push_sum import PushSum
from ..errors import UsageError
from ..state.mass import ROUNDING, Mass
from ..transports import Carrier, Told
from ..world import World
from .push_sum import Recoverable

log = logging.getLogger("gossip")


class Death(NamedTuple):
    """Ranks that died, and the weight that went with them.

    Attributes:
        ranks: their numbers when the job began.
        step: the step that this rank was in.
        left: how many ranks went on.
        weight: the weight that the dead held, and that was on its way from them, of a Σ w of left + len(ranks).
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


class Recovery:
    """Lets the averagers of one optimizer go on without ranks that died."""

    def __init__(self, mass: Mass) -> None:
        self.deaths: list[Death] = []
        self._mass = mass
        self._landings: list[Recoverable] = []
        self._carrier: Carrier | None = None
        self._me = 0
        self._known: set[int] = set()

    @property
    def lost(self) -> list[int]:
        """The ranks that died, as the job numbers them."""
        return [] if self._carrier is None else sorted(self._carrier.lost)

    def prepare(self, averager: Averager) -> None:
        """Let `averager`, which is not bound yet, go on after a death. `check_recoverable` comes first."""
        for leaf in _leaves(averager):
            if isinstance(leaf, PushSum):
                assert isinstance(leaf.landing, Due)
                leaf.landing = Recoverable(leaf.landing)
                self._landings.append(leaf.landing)

    def enrol(self, world: World) -> None:
        """Take part in meetings of all ranks after a death. Every rank calls it."""
        if self._carrier is None:
            channel = world.channel()
            self._carrier, self._me = channel.carrier, channel.me
            self._known = set(self._carrier.lost)
            self._carrier.enrol(self, channel)

    def together(self, act: Callable[[], None]) -> None:
        """Do `act` on all ranks; no rank leaves before all have, or one that notices a death would meet nobody."""
        if self._carrier is None:
            act()
        else:
            self._carrier.together(act)

    def tell(self) -> dict[str, Any]:
        """The facts about this rank that the survivors need."""
        landings = [landing.tell() for landing in self._landings]
        return {"held": float(self._mass.weight), "aloft": self._mass.rounds_in_flight, "averagers": landings}

    def go_on(self, told: Told) -> None:
        """Take back weight that never arrived, and share Σ w among the ranks that have told."""
        assert self._carrier is not None
        mass, landings = self._mass, self._landings
        parts = [{rank: each["averagers"][number] for rank, each in told.items()} for number in range(len(landings))]
        found = [landing.weights(part) for landing, part in zip(landings, parts, strict=True)]
        weights = {rank: each["held"] + sum(weights[rank] for weights in found) for rank, each in told.items()}
        total = float(sum(weights.values()))
        # w_i <- w_i · n / Σ_j w_j
        scale = len(told) / total
        unmerged = sum(landing.go_on(part, scale) for landing, part in zip(landings, parts, strict=True))
        mass.reading.clear()
        mass.weight_in_flight = unmerged
        mass.weight = torch.full_like(mass.weight, weights[self._me] * scale - unmerged)
        mass.is_one = mass.equal = False
        have_landed = not any(each["aloft"] for each in told.values())
        mass.balanced = have_landed and all(abs(weight * scale - 1) < ROUNDING for weight in weights.values())
        if mass.balanced:
            mass.set_one()
        gone = tuple(sorted(self._carrier.lost - self._known))
        self._known |= self._carrier.lost
        lost = len(told) + len(gone) - total
        self.deaths.append(Death(gone, mass.stats.board.slot.step, len(told), lost, self._carrier.seconds))
        if self._me == min(told):
            log.warning("%s", self.deaths[-1])


def _leaves(averager: Averager) -> Iterator[Averager]:
    """The averagers that `averager` is made of, or itself."""
    for member in averager.members:
        yield from _leaves(member)
    if not averager.members:
        yield averager


def check_recoverable(averager: Averager, worlds: Sequence[World]) -> None:
    """Check that an averager can go on without ranks that died."""
    for leaf in _leaves(averager):
        if not isinstance(leaf, (PushSum, ExactAverage, NoAverage)):
            raise UsageError(
                f"on_failure='shrink' goes on with PushSum, ExactAverage, NoAverage and what is composed of them, and "
                f"{type(leaf).__name__} is none of these: leave on_failure='raise' and restart from a checkpoint"
            )
        if isinstance(leaf, PushSum) and not (type(leaf.landing) is Due or isinstance(leaf.landing, Recoverable)):
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
