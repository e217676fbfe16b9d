"""The exact average over all ranks, which ends inside the step."""

from __future__ import annotations

import torch

from ..state.merging import scalar, wide, wide_copy
from ..state.module_tensors import compact
from ..world import World, check_world
from .base import ROUNDING, Averager


class ExactAverage(Averager):
    """The mean over all ranks, weights honoured, in the step itself.

        z <- Σ_j w_j z_j / Σ_j w_j ,   w <- 1

    A rewrite: it lands everything in flight first. 16-bit values are summed in float32. All ranks end with the same
    bits. Costs 2(n-1)/n of the parameters' bytes a rank.

    Args:
        world: the ranks whose mean is taken, n of them.

    >>> import gossip
    >>> averager = gossip.Every(12, gossip.ExactAverage(gossip.init()))     # local SGD, τ = 12
    """

    def __init__(self, world: World) -> None:
        check_world(world, "ExactAverage averages over a World, and this is {}")
        self.worlds = self.levels = (world,)
        self._channel = world.channel()
        self._next = 0  # the first step that has not been averaged: what has counted is not done again after a death

    def describe(self) -> str:
        return f"ExactAverage(size={self.worlds[0].size})"

    def average(self, step: int) -> None:
        if not self.due(step) or step < self._next:
            return
        mass = self.mass
        turn = step // self.every
        numerators, total, companions = self._channel.together(lambda: self._sums(turn))
        self._next = step + 1
        # z = Σ x / Σ w
        for values, x in zip(mass.values, numerators, strict=True):
            x.div_(scalar(total[0]))
            if x is not values:
                values.copy_(x)
        self._share(total, companions)
        mass.drift.compare(total[1:], self._channel)

    def _sums(self, turn: int) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        """Σ x, Σ w with every rank's learning rate, and the sums of the companions over all ranks."""
        mass = self.mass
        numerators = self._numerators()
        companions = self._companions()
        total = mass.drift.beside(mass.weight.reshape(1), self._channel, turn)
        with self._channel.waiting():
            mass.stats.wait(self._channel.sum([*numerators, total, *companions]))
        return numerators, total, companions

    def _numerators(self) -> list[torch.Tensor]:
        """x = w·z once all has landed: in place where the dtype is wide enough to be summed in."""
        mass = self.mass
        mass.settle()
        mass.look(mass.values)
        numerators = [wide(values) for values in mass.values]
        if self._channel.carrier.parties:  # where the values have to outlive the sum
            pairs = zip(mass.values, numerators, strict=True)
            numerators = [x if x is not values else x.clone() for values, x in pairs]
        if not mass.whole:
            for x in numerators:
                x.mul_(scalar(mass.weight))
        return numerators

    def _companions(self) -> list[torch.Tensor]:
        return [wide_copy(compact(tensor.detach()).reshape(-1)) for tensor in self.mass.companions.tensors()]

    def _share(self, total: torch.Tensor, companions: list[torch.Tensor]) -> None:
        """Every rank holds the same: w = Σ w / n, and so for the companions."""
        mass, n = self.mass, self._channel.size
        with torch.no_grad():
            for tensor, summed in zip(mass.companions.tensors(), companions, strict=True):
                tensor = compact(tensor)
                tensor.copy_(summed.div_(n).reshape(tensor.shape))
        # That is 1 for all ranks together, which on a GPU nobody reads; some of them share what they hold together.
        everyone = n == self._channel.carrier.size
        if mass.balanced or (everyone and total.is_cuda) or abs(total[0].item() / n - 1) < ROUNDING:
            mass.become_whole()
            mass.balanced |= everyone
        else:
            mass.weight = total[0] / n

    def forget(self) -> None:
        self._next = 0
