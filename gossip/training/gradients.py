"""Gradients averaged over a world before the update: over all ranks that is AR-SGD, over a node its inner half."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ..errors import GossipError
from ..state.buckets.bucket import Bucket, Slot
from ..state.mass import Mass
from ..state.merging import wide
from ..world import World

RANKS = 2.0**13
"""More than average their gradients; four digits in this base fit into a float64."""


class Said(NamedTuple):
    """Four facts that a rank sends along with its gradients, or the number of ranks for which each holds."""

    skips: float  # this update
    again: float = False  # these gradients are of an evaluation inside the update
    early: float = False  # its closure is evaluated already
    inside: float = False  # its closure is evaluated inside the update that follows

    def number(self) -> float:
        """All as one number, whose sum over ranks has the sums."""
        return sum(fact * RANKS**place for place, fact in enumerate(self))

    @classmethod
    def of(cls, total: float) -> Said:
        """The sums."""
        return cls(*(total // RANKS**place % RANKS for place in range(4)))


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
        """Average in place, unless any rank skips; how many ranks say what. Every rank calls this in every step."""
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
        for (slot, total), count in zip(self._places(buckets), counts, strict=True):
            if count:
                gradient = slot.parameter.grad
                if gradient is None or 0 in gradient.stride():  # an expanded one has not room for its values
                    gradient = slot.parameter.grad = torch.empty_like(slot.parameter)
                # g = Σ_j g_j / n
                torch.div(total, self._channel.size, out=gradient)
        return all_said

    def _places(self, buckets: Sequence[Bucket]) -> Iterator[tuple[Slot, torch.Tensor]]:
        """Each parameter's slot, and its place in the room, with the shape and strides of the parameter."""
        for room, bucket in zip(self._room, buckets, strict=True):
            for slot in bucket.slots:
                shape, stride = slot.parameter.shape, slot.parameter.stride()
                yield slot, room.as_strided(shape, stride, room.storage_offset() + slot.start)

    def _totals(self, buckets: Sequence[Bucket], said: Said) -> list[float]:
        """Σ_j g_j into the room; how many ranks have a gradient of each parameter, and what they say."""
        if [room.numel() for room in self._room] != [bucket.values.numel() for bucket in buckets]:
            self._room = [wide(torch.zeros_like(bucket.values)) for bucket in buckets]
        present = []
        for slot, place in self._places(buckets):
            gradient = slot.parameter.grad
            if gradient is None:
                place.zero_()
            elif gradient.layout is torch.strided:
                place.copy_(gradient)
            else:
                raise GossipError(
                    f"the gradient of parameter {slot.name} is sparse: dense gradients can be averaged, so make the "
                    "layer with sparse=False"
                )
            present.append(float(gradient is not None))
        numbers = torch.tensor([*present, said.number()], dtype=torch.float64)
        if not said.skips:
            self._mass.check(self._room, "the gradient of")
        # Gradients on a GPU have a sum of their own, so that no host waits for a device to know which ranks have a
        # gradient. One after the other: two sums on one channel would take each other's messages.
        apart = [room for room in self._room if room.is_cuda]
        beside = [room for room in self._room if not room.is_cuda]
        told = self._mass.drift.beside(numbers, self._channel)
        for tensors in (apart, [*beside, told]):
            if tensors:
                with self._channel.waiting():
                    self._mass.stats.wait(self._channel.sum(tensors))
        self._mass.drift.compare(told[len(numbers) :], self._channel)
        return told[: len(numbers)].tolist()
