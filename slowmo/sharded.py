"""SlowMo with anchor and momentum spread over the ranks: each keeps those of 1/n of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gossip import Averager, ExactAverage, GossipOptimizer, UsageError, World
from gossip.state.merging import scalar, wide

from .outer.rule import Part, Rule
from .outer.step import OuterStep
from .outer.wrapper import Outer
from .refusals import checked, refuse_shrink


class Halves(ExactAverage):
    """`ExactAverage` with room between its halves, in which each rank has the mean of its own parts."""

    def describe(self) -> str:
        """The line of an exact average, in halves."""
        return f"ExactAverage(size={self.worlds[0].size}) in halves"

    def own_parts(self, values: Sequence[torch.Tensor]) -> list[Part]:
        """The parts of `values` whose mean this rank has between the halves."""
        alike = [wide(each.to("meta")) for each in values]  # the tensors that are summed, without their memory
        return [Part(number, where.start, where.stop) for number, where in self._channel.own_parts(alike)]

    def average(self, step: int) -> None:
        """In this rank's own parts:  z <- Σ_j w_j z_j / Σ_j w_j.  The other values are undefined until `gather`."""
        mass = self.mass
        self._summed = self._numerators()
        total = mass.drift.beside(mass.weight.reshape(1), self._channel)
        companions = self._companions()
        mass.stats.wait(self._channel.sum([total, *companions]))
        mass.stats.wait(self._channel.reduce_scatter(self._summed))
        for number, where in self._channel.own_parts(self._summed):
            x, values = self._summed[number][where].div_(scalar(total[0])), mass.values[number]
            if self._summed[number] is not values:
                values[where].copy_(x)
        self._share(total, companions)
        mass.drift.compare(total[1:], self._channel)

    def gather(self) -> None:
        """Copy every rank's own parts, as they are now, to all ranks."""
        mass, summed = self.mass, self._summed
        pairs = zip(mass.values, summed, strict=True)
        copies = [(values, x) for values, x in pairs if x is not values]
        for number, where in self._channel.own_parts(summed):
            if summed[number] is not mass.values[number]:
                summed[number][where].copy_(mass.values[number][where])
        mass.stats.wait(self._channel.all_gather(summed))
        for values, x in copies:
            values.copy_(x)
        self._summed = []


class ShardedStep(OuterStep):
    """The outer step on this rank's own parts, between the halves of the exact average."""

    averager: Halves

    def all_parts(self) -> list[Part]:
        return self.averager.own_parts(self.base_mass.values)

    def _move_(self, ratios: Sequence[float | None]) -> None:
        super()._move_(ratios)
        self.averager.gather()

    # -- checkpoints: anchors and momenta by their place, so that those of several ranks make a whole ------------------

    def state_dict(self) -> dict[str, Any]:
        buckets = sorted({part.bucket for part in self.parts})
        return {
            **super().state_dict(),
            "anchors": self._by_place(self.anchors),
            "momenta": self._by_place(self.rule.momenta),
            "lengths": [len(self.base_mass.values[number]) for number in buckets],
        }

    def _by_place(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        pairs = zip(self.parts, tensors, strict=True)
        return {":".join(map(str, part)): tensor.clone() for part, tensor in pairs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = [part for part in self.all_parts() if part.bucket < len(state["lengths"])]
        super().load_state_dict(
            {
                **state,
                "anchors": [_assembled(part, state["anchors"]) for part in own],
                "momenta": [_assembled(part, state["momenta"]) for part in own],
            }
        )

    def check_own(self, saved: dict[str, Any]) -> None:
        theirs, ours = saved["lengths"], [len(values) for values in self.base_mass.values]
        if theirs != ours[: len(theirs)]:
            raise UsageError(
                f"this state's slow momentum is of buckets of {theirs} elements, and the model's are of {ours}: it "
                "belongs to another model"
            )
        for part in self.all_parts():
            if part.bucket < len(theirs):
                _assembled(part, saved["anchors"])


class ShardedSlowMo(Outer):
    """`SlowMo(optimizer, ExactAverage(world))` with 2/n copies of the model for anchor and momentum instead of 2.

    The sum behind an exact average goes in two halves, and the outer step stands between them:

        reduce-scatter    rank i:  x^i_{t,τ}  <- Σ_j w_j z^i_j / Σ_j w_j         i-th part alone
        outer step        rank i:  x^i_{t+1,0} from its own x^i_{t,0} and m^i
        all-gather        z <- (x^1_{t+1,0}, …, x^n_{t+1,0})                     on every rank

    As many bytes as an exact average, 2(n−1)/n of the parameters'; all ranks end with the same bits. Where w = 1 these
    are the bits of `SlowMo` (over NCCL, whose own sum has another order, but for rounding).

    Each rank's state_dict has its own parts. They go on bit for bit on as many ranks; `gossip.checkpoint` puts them
    together for any other number.

    Args:
        world: the ranks over which average, anchor and momentum go.
        optimizer, period, momentum, lr, buffers, nesterov, rescale, anchors_on: as in `SlowMo`.

    Raises:
        UsageError: options that cannot work, or a base with on_failure="shrink".

    >>> import gossip, slowmo, torch
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.ShardedSlowMo(sgd, gossip.init(), period=12, momentum=0.6)

    Source: optimizer states in parts, as in ZeRO, Rajbhandari et al., SC 2020, arXiv 1910.02054, section 5.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        world: World,
        period: int = 48,
        momentum: float = 0.5,
        lr: float = 1.0,
        buffers: str = "maintain",
        nesterov: bool = False,
        rescale: bool = True,
        anchors_on: str | None = None,
    ) -> None:
        lost = "without the anchor and momentum that a dead rank alone has"
        refuse_shrink(optimizer, lost, "SlowMo(..., ExactAverage(world))")
        halves = Halves(checked(world))
        options = f"{buffers=}, "
        super().__init__(
            optimizer, halves, period, momentum, lr, nesterov, rescale, options, buffers, anchors_on=anchors_on
        )

    def _make(self, base: GossipOptimizer, averager: Averager, rule: Rule, period: int, rescale: bool) -> OuterStep:
        return ShardedStep(base, averager, rule, period, rescale, type(self).__name__)


def _assembled(part: Part, pieces: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """One part out of the pieces that cover it."""
    whole, covered = torch.empty(0), 0
    for place, piece in pieces.items():
        bucket, start, stop = map(int, place.split(":"))
        first, last = max(start, part.start), min(stop, part.stop)
        if bucket == part.bucket and first < last:
            if not covered:
                whole = piece.new_empty(part.stop - part.start)
            whole[first - part.start : last - part.start] = piece[first - start : last - start]
            covered += last - first
    if covered != part.stop - part.start:
        raise UsageError(
            "this state's anchors and slow momenta are not of the parts that this rank keeps: each rank loads the "
            "state that it saved, and gossip.checkpoint puts them together for another number of ranks"
        )
    return whole
