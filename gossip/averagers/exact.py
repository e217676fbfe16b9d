"""The exact average over all ranks, which ends inside the step."""

from __future__ import annotations

import torch

from ..state.merging import scalar, wide, wide_copy
from ..state.module_tensors import compact, widest
from ..world import World, check_world
from .base import Averager


class ExactAverage(Averager):
    """The mean over all ranks, weights honoured, in the step itself.

        z <- Σ_j w_j z_j / Σ_j w_j ,   w <- 1

    Everything in flight lands first. 16-bit values are summed in float32. All ranks end with the same bits. It costs
    2(n-1)/n of the parameters' bytes a rank.

    Args:
        world: the n ranks whose mean is taken.

    >>> import gossip
    >>> averager = gossip.Every(12, gossip.ExactAverage(gossip.init()))     # local SGD, τ = 12
    """

    def __init__(self, world: World) -> None:
        check_world(world, "ExactAverage averages over a World, and this is {}")
        self.worlds = self.levels = (world,)
        self._channel = world.channel()

    def describe(self) -> str:
        return f"ExactAverage(size={self.worlds[0].size})"

    def rewrites(self, step: int) -> bool:
        return self.is_due(step)

    def average(self, step: int) -> None:
        if not self.is_due(step):
            return
        mass = self.mass
        turn = step // self.every
        numerators, total, companions = self._channel.together(lambda: self._sums(turn))
        # z = Σ x / Σ w
        for values, x in zip(mass.values, numerators, strict=True):
            x.div_(scalar(total[0]))
            if x is not values:
                values.copy_(x)
        self._share(total, companions)
        mass.drift.compare(total[1:], self._channel)

    def _sums(self, turn: int) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        """Σ x, Σ w with every rank's learning rate, and the sums of the module's buffers, over all ranks."""
        mass, numerators, companions = self.mass, self._numerators(), self._companions()
        total = mass.drift.beside(mass.weight.reshape(1), self._channel, turn)
        with self._channel.waiting():
            mass.stats.wait(self._channel.sum([*numerators, total, *companions]))
        return numerators, total, companions

    def _numerators(self) -> list[torch.Tensor]:
        """x = w·z: in place where the dtype is wide enough, unless a sum that a death breaks off restarts from z."""
        mass = self.mass
        mass.quiesce()
        mass.check(mass.values)
        numerators = [(wide_copy if self._channel.carrier.parties else wide)(values) for values in mass.values]
        if not mass.is_one:
            for x in numerators:
                x.mul_(scalar(mass.weight))
        return numerators

    def _companions(self) -> list[torch.Tensor]:
        return [widest(compact(tensor)) for tensor in self.mass.companions.tensors()]

    def _share(self, total: torch.Tensor, companions: list[torch.Tensor]) -> None:
        """Give every rank the same: w = Σ w / n, and the mean of the module's buffers."""
        mass, n = self.mass, self._channel.size
        with torch.no_grad():
            for tensor, summed in zip(mass.companions.tensors(), companions, strict=True):
                tensor = compact(tensor)
                tensor.copy_(summed.div_(n).reshape(tensor.shape))
        mass.share(total[0] / n, everyone=n == self._channel.carrier.size)
