"""SlowMo over one part of the model at a time, whose exact average travels while the next steps compute.

Source: Douillard et al., "Streaming DiLoCo with overlapping communication", 2025, arXiv 2501.18512, for the schedule;
the outer step is SlowMo's.
"""

from __future__ import annotations

from typing import Any

import torch

from gossip import GossipOptimizer, UsageError, World
from gossip.mass import scalar

from .outer import Outer, Part
from .rates import Rates
from .stream import Sent, Stream


class StreamingSlowMo(Outer):
    """SlowMo whose exact average never stops a step: one shard of the model at a time, on its way while others compute.

    The model is cut into `shards` of one size. Each has an outer iteration of τ steps of its own, one after another, so
    that with τ shards one of them is due in each step and a step sends 1/τ of an exact average. At the end of a
    shard's iteration t every rank i sends x_i, its values as they are, with its weight ω_i, and goes on; `delay` steps
    later all of them take

        x̄         =  Σ_j ω_j x_j / Σ_j ω_j
        m_{t+1}   =  βr m_t + (a_t − x̄)                         r = γ_t/γ_{t−1}, of this shard's steps
        a_{t+1}   =  x̄ + (1−α)(a_t − x̄) − αβr m_t
        z_i       <- a_{t+1} + (z_i − x_i) + (ω_i/w_i − 1)(a_{t+1} − x_i)

    What rank i has done since it sent counts on top of a_{t+1}, and in the next iteration. Gossip in between counts as
    that too, so with a delay ranks that gossip come no nearer to one another than gossip brings them; their mean and
    the slow momentum are not touched by that. The last term is 0 where weights are 1. Anchors and momenta are the same
    bits on every rank, and two copies of the model; what is on its way takes two copies of its shard.

    With β = 0 and α = 1 an outer step leaves Σ w z over all ranks, held and in flight, as it was: what a rank takes
    counts for the weight that it sent with. x̄ is the mean of what was held then. That is all there is over a base that
    gossips with overlap 0 or 1 and landing="due"; with more in flight, x̄ lacks what was. Weights themselves stay.

    One shard and no delay is `SlowMo(optimizer, ExactAverage(world))` where weights are 1, bit for bit in float32 and
    float64. The first iteration of each shard but the last is shorter than τ. The base optimizer's state is maintained.

    Args:
        optimizer: a GossipOptimizer, or any torch optimizer, which then trains each rank by itself in between.
        world: the ranks over which averages go.
        period: τ, base steps in an outer iteration.
        momentum, lr, nesterov, rescale: as in `SlowMo`.
        shards: at most τ; without it τ.
        delay: steps for which an average may travel, at most τ. It is waited for when it has not arrived by then, and
            never applied before, so that runs repeat bit for bit. As many averages as end within `delay` steps are on
            their way at once, each on a channel of its own.

    Raises:
        UsageError: options that cannot work, or a base with on_failure="shrink" or module_buffers="average".

    >>> import gossip, slowmo, torch
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.StreamingSlowMo(sgd, gossip.init(), period=12, momentum=0.6)
    """

    averager: Stream

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        world: World,
        period: int = 48,
        momentum: float = 0.5,
        lr: float = 1.0,
        shards: int | None = None,
        delay: int = 1,
        nesterov: bool = False,
        rescale: bool = True,
    ) -> None:
        shards = period if shards is None else shards
        if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= period:
            raise UsageError(f"shards is {shards!r}, but it is a whole number from 1 to the period, {period}")
        if isinstance(delay, bool) or not isinstance(delay, int) or not 0 <= delay <= period:
            raise UsageError(f"delay is {delay!r}, but it is a number of steps from 0 to the period, {period}")
        if getattr(optimizer, "on_failure", "raise") == "shrink":
            raise UsageError(
                "on_failure='shrink' cannot go on with an average that was on its way when a rank died: take "
                "SlowMo(..., ExactAverage(world)), or leave on_failure='raise' and restart from a checkpoint"
            )
        if isinstance(optimizer, GossipOptimizer) and optimizer.mass.companions:
            raise UsageError(
                "module_buffers='average' takes buffers along with an exact average of the whole model, which there "
                "is none of here: leave module_buffers='local', or take SlowMo(..., ExactAverage(world))"
            )
        super().__init__(optimizer, Stream(world, period, shards, delay), period, momentum, lr, nesterov, rescale, "")
        self.shards, self.delay = shards, delay
        self.optimizer.mass.lands_with(self._land)

    def _forget(self) -> None:
        super()._forget()
        self._each = [Rates() for _ in range(self.averager.shards)]

    def _parts(self) -> list[Part]:
        shards = self.averager.shards
        return [
            Part(number, shard * len(values) // shards, (shard + 1) * len(values) // shards)
            for number, values in enumerate(self.optimizer.mass.values)
            for shard in range(shards)
        ]

    def _begin(self, *_: object) -> None:
        self._anchor()
        for rates in self._each:
            rates.note(self.param_groups)
        self.averager.ask()

    def _rewrite(self, step: int) -> None:
        self.steps += 1
        self.averager.ask()
        with self.stats.span("slowmo"):
            self._take_due()
            for shard in self.averager.ending(self.steps):
                values = [self._values(part) for part in self.parts[shard :: self.shards]]
                self.averager.send(self.steps, shard, self._each[shard].end(self.rescale), values)
            if self.delay == 0:
                self._take_due()

    def _take_due(self) -> None:
        while self.averager.aloft and self.averager.aloft[0].due <= self.steps:
            self._apply(self.averager.take())

    def _land(self) -> None:
        """When everything lands, so does this."""
        while self.averager.aloft:
            self._apply(self.averager.take())

    @torch.no_grad()
    def _apply(self, sent: Sent) -> None:
        """The outer step of one shard, with what this rank has done meanwhile on top."""
        mass = self.optimizer.mass
        mass.quiet()
        ratio = sent.weight / mass.weight
        *sums, total = sent.sums
        for place, (mean, own) in enumerate(zip(sums, sent.own, strict=True)):
            number = sent.shard + place * self.shards
            # x̄ = Σ ω x / Σ ω, which becomes a_{t+1}
            anchor = mean.div_(scalar(total[0]))
            self._move_(number, anchor, sent.ratios)
            # z <- a_{t+1} + (z − x) + (ω/w − 1)(a_{t+1} − x)
            z = self._values(self.parts[number])
            since = z.to(anchor.dtype) - own
            if ratio.is_cuda or ratio.item() != 1:
                since += (anchor - own) * scalar(ratio - 1)
            z.copy_(anchor.add_(since))

    # -- checkpoints: rates of each shard, and averages that have arrived and are not applied yet ----------------------

    def _kept(self) -> dict[str, Any]:
        return {
            **super()._kept(),
            "rates": [[list(group) for group in rates.now] for rates in self._each],
            "last_rates": [list(rates.last) for rates in self._each],
        }

    def _take(self, saved: dict[str, Any]) -> None:
        super()._take({**saved, "rates": [], "last_rates": []})
        for rates, now, last in zip(self._each, saved["rates"], saved["last_rates"], strict=True):
            rates.now, rates.last = [list(group) for group in now], list(last)
