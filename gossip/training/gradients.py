"""Gradients averaged over a world before the update: over all ranks that is AR-SGD, over a node its inner half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..errors import GossipError
from ..state.buckets.bucket import Bucket
from ..state.mass import Mass
from ..state.merging import wide
from ..world import World

RANKS = 2.0**13
"""More than average their gradients; four digits in this base fit into a float64."""


class Said(NamedTuple):
    """Four facts that a rank sends along with its gradients, or the number of ranks for which each holds.

    Attributes:
        skips: it skips this update.
        again: these are of an evaluation inside the update.
        early: its closure is evaluated already.
        inside: its closure is evaluated inside the update that follows.
    """

    skips: float
    again: float = False
    early: float = False
    inside: float = False

    def number(self) -> float:
        """All as one number, whose sum over ranks has the sums.

        >>> Said.of(Said(True, early=True).number() + Said(False, early=True).number())
        Said(skips=1.0, again=0.0, early=2.0, inside=0.0)
        """
        return self.skips + RANKS * (self.again + RANKS * (self.early + RANKS * self.inside))

    @classmethod
    def of(cls, total: float) -> Said:
        """The sums."""
        rest, skips = divmod(total, RANKS)
        rest, again = divmod(rest, RANKS)
        inside, early = divmod(rest, RANKS)
        return cls(skips, again, early, inside)


class GradientAverage:
    """g <- Σ_j g_j / n over the ranks of `world`, in the gradients themselves.

    A rank without a gradient counts as zero; a parameter that has none on any rank stays without. When one rank has to
    skip its update, since its gradients overflowed, every rank skips: no rank waits, and all stay equal. An optimizer
    that evaluates its closure inside the update has the gradients of each evaluation averaged, on every rank as often.
    """

    def __init__(self, world: World, mass: Mass) -> None:
        self.world = world
        self._channel = world.channel()
        self._mass = mass
        self._room: list[torch.Tensor] = []

    @torch.no_grad()
    def average_(self, buckets: Sequence[Bucket], said: Said) -> Said:
        """Average in place, unless any rank skips; how many ranks say what. Every rank calls this in every step.

        Raises:
            GossipError: ranks evaluate their closures a different number of times in one step.
        """
        *counts, last = self._channel.together(lambda: self._totals(buckets, said))
        all_said = Said.of(last)
        if 0 < all_said.again < self._channel.size:
            raise GossipError(
                f"{all_said.again:.0f} of {self._channel.size} ranks evaluated their closure once more in a step that "
                "the others had ended, so their gradients cannot be averaged: let each rank evaluate it equally often, "
                "or leave gradients=None and average parameters"
            )
        if 0 < all_said.inside < self._channel.size:
            raise GossipError(
                f"{all_said.inside:.0f} of {self._channel.size} ranks evaluate their closure inside this update, and "
                "average gradients once more there, which the others do not: give every rank a closure in this step, "
                "and call zero_grad() before the first one, or leave gradients=None and average parameters"
            )
        if all_said.skips:
            return all_said
        number = 0
        for room, bucket in zip(self._room, buckets, strict=True):
            for slot in bucket.slots:
                if counts[number]:
                    gradient = slot.parameter.grad
                    if gradient is None or 0 in gradient.stride():  # an expanded one has not room for its values
                        gradient = slot.parameter.grad = torch.empty_like(slot.parameter)
                    total = _as(slot.parameter, room[slot.start : slot.stop])
                    # g = Σ_j g_j / n
                    torch.div(total, self._channel.size, out=gradient)
                number += 1
        return all_said

    def _totals(self, buckets: Sequence[Bucket], said: Said) -> list[float]:
        """Σ_j g_j into the room; how many ranks have a gradient of each parameter, and what they say."""
        if [room.numel() for room in self._room] != [bucket.values.numel() for bucket in buckets]:
            self._room = [wide(torch.zeros_like(bucket.values)) for bucket in buckets]
        slots = [slot for bucket in buckets for slot in bucket.slots]
        present = torch.tensor([0.0] * len(slots) + [said.number()], dtype=torch.float64)
        number = 0
        for room, bucket in zip(self._room, buckets, strict=True):
            for slot in bucket.slots:
                gradient, place = slot.parameter.grad, room[slot.start : slot.stop]
                if gradient is None:
                    place.zero_()
                else:
                    if gradient.layout is not torch.strided:
                        raise GossipError(
                            f"the gradient of parameter {slot.name} is sparse: dense gradients can be averaged, so "
                            "make the layer with sparse=False"
                        )
                    _as(slot.parameter, place).copy_(gradient)
                    present[number] = 1
                number += 1
        if not said.skips:
            self._mass.check(self._room, "the gradient of")
        # Gradients on a GPU have a sum of their own, so that no host waits for a device to know which ranks have a
        # gradient. One after the other: two sums on one channel would take each other's messages.
        apart = [room for room in self._room if room.is_cuda]
        beside = [room for room in self._room if not room.is_cuda]
        told = self._mass.drift.beside(present, self._channel)
        for tensors in (apart, [*beside, told]):
            if tensors:
                with self._channel.waiting():
                    self._mass.stats.wait(self._channel.sum(tensors))
        self._mass.drift.compare(told[len(present) :], self._channel)
        return told[: len(present)].tolist()


def _as(parameter: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """`flat` in the shape and strides of `parameter`, which is dense."""
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())
