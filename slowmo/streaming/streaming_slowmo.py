"""SlowMo over one part of the model at a time, whose exact average travels while the next steps compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from gossip import Averager, GossipOptimizer, UsageError, World
from gossip.training.arguments import check_group

from ..outer.outer_optimizer import MakeOuter
from ..outer.rule import Rule
from ..outer.step import OuterStep
from ..outer.wrapper import Outer
from ..refusals import (
    checked,
    delay_of,
    mixing_of,
    refuse_own_pace,
    refuse_shrink,
    refuse_unmerged,
    shards_of,
    steps_of,
)
from .applying import Application, Mixed, Progress, SameStep
from .fragments import Cut, Fragments, Member, Shards
from .step import StreamingStep
from .stream import Stream


class StreamingSlowMo(Outer):
    """SlowMo whose exact average never stops a step: one shard of the model at a time, on its way while others compute.

    The model is cut into `shards` of one size. Each has an outer iteration of τ steps of its own, one after another.
    With τ shards one of them is due in each step, and a step sends 1/τ of an exact average. At the end of a shard's
    iteration t every rank i sends x_i, its values as they are, with its weight ω_i, and goes on; `delay` steps later
    all of them have

        x̄         =  Σ_j ω_j x_j / Σ_j ω_j
        m_{t+1}   =  βr m_t + (a_t − x̄)                         r = γ_t/γ_{t−1}, of this shard's steps
        a_{t+1}   =  x̄ + (1−α)(a_t − x̄) − αβr m_t

    and take it, where the base's averager mixes nothing (local steps, AR-SGD) or without delay, as

        z_i       <- a_{t+1} + (z_i − x_i)

    The steps of rank i since it sent count on top of a_{t+1}, and in the next iteration. Over a base that gossips or
    averages, z_i − x_i would hold what that has mixed meanwhile: a deviation that it has made λ times itself would come
    out as λ − 1 times. So with a delay every rank takes the same step there,

        z_i       <- z_i + (a_{t+1} − x̄)

    and gossip alone brings the ranks together; it has to reach all of `world`. The mean moves as before. With
    `mixing` = μ, over any base,

        z_i       <- (1−μ) a_{t+1} + μ z_i

    so that with μ = 0 the average overwrites what rank i has done since it sent.

    Settings by origin. The defaults are SlowMo's outer step. Streaming DiLoCo has an outer Nesterov step of its own
    (momentum=0.9, nesterov=True, rescale=False, or `outer`), calls `mixing` α and `delay` τ. torchft's `DiLoCo` is
    fragments=model_fragments, period=sync_every, delay=fragment_sync_delay, mixing=fragment_update_alpha, ahead=True
    and outer=its outer optimizer's class with its options; this class then gives its reference values, bit for bit.

    Anchors and momenta are the same bits on every rank, and two copies of the model; what is on its way takes two
    copies of its shard, or one where the step is the same for all or mixed. Over NCCL averages and rounds of gossip
    pass through one stream, one after another; what of that is hidden behind computing is not yet measured.

    With β = 0 and α = 1 an outer step leaves the mean over the ranks as it was. Where all ranks take the same step, it
    leaves the base's run as it was, bit for bit. x̄ is the mean of the values held when it was sent. Over a base that
    gossips with overlap 0 or 1 and landing="due" nothing else is in flight. With more in flight, x̄ lacks it. Weights
    stay.

    One shard and no delay is `SlowMo(optimizer, ExactAverage(world))` where weights are 1, bit for bit in float32 and
    float64. The first iteration of each shard but the last is shorter than τ. The base optimizer's state is maintained.
    Every rank calls `state_dict()` at the same step: it waits for the averages that are on their way.

    Args:
        optimizer: a GossipOptimizer, or any torch optimizer, which then trains each rank by itself in between.
        world: the ranks over which averages go.
        period: τ, base steps in an outer iteration.
        momentum, lr, nesterov, rescale, outer, anchors_on: as in `SlowMo`, but for γ, which is each rank's own: with
            `rescale` every rank has to follow one schedule of learning rates, and is warned where one does not.
        shards: at most τ; without it τ, which sends the least in a step. Fewer, with a longer delay, cost less where
            messages are slow to start: an exact average of a shard is 2(n−1) of them, one after another.
        delay: steps for which an average may travel, at most τ. It is waited for when it has not arrived by then, and
            never applied before, so that runs repeat bit for bit. As many averages as end within `delay` steps are on
            their way at once, each on a channel of its own.
        fragments: instead of `shards`, at most τ fragments that hold all parameters of the optimizer. Each is a module,
            a parameter, or a list of these. A tied parameter belongs to the first fragment that holds it.
        mixing: μ, the share of a rank's own parameters that stays when a shard's average is applied; None keeps all
            progress, as above.
        ahead: a shard's average is sent `delay` steps before its iteration ends, and applied at the end; otherwise it
            is sent at the end.

    Raises:
        UsageError: options that cannot work, or a base with on_failure="shrink", module_buffers="average",
            landing="any", or, with a delay, gossip among some of the ranks only.

    Source: Douillard et al., "Streaming DiLoCo with overlapping communication", 2025, arXiv 2501.18512, for the
    schedule; the outer step is SlowMo's.

    >>> import gossip, slowmo, torch
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.StreamingSlowMo(sgd, gossip.init(), period=12, momentum=0.6)
    """

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
        fragments: Iterable[Member | Iterable[Member]] | None = None,
        mixing: float | None = None,
        ahead: bool = False,
        outer: MakeOuter | None = None,
        anchors_on: str | None = None,
    ) -> None:
        period = steps_of(period)
        if shards is not None and fragments is not None:
            raise UsageError(f"shards={shards} and fragments=... are two ways to cut the model: give one")
        delay, mixing = delay_of(delay, period), mixing_of(mixing)
        count = period if shards is None else shards_of(shards, period)
        self._cut: Cut = Shards(count) if fragments is None else Fragments(fragments)
        shards_of(self._cut.count, period, "fragments")
        self._cut.check(parameter for group in getattr(optimizer, "param_groups", ()) for parameter in group["params"])
        lost = "with an average that was on its way when a rank died"
        refuse_shrink(optimizer, lost, "SlowMo(..., ExactAverage(world))")
        if isinstance(optimizer, GossipOptimizer) and optimizer.mass.companions:
            raise UsageError(
                "module_buffers='average' takes buffers along with an exact average of the whole model, which there "
                "is none of here: leave module_buffers='local', or take SlowMo(..., ExactAverage(world))"
            )
        refuse_own_pace(optimizer, type(self).__name__)
        refuse_unmerged(optimizer, type(self).__name__)
        self._application: Application
        if mixing is not None:
            self._application = Mixed(mixing)
        else:
            self._application = SameStep() if delay and _mixes(optimizer, checked(world)) else Progress()
        stream = Stream(checked(world), period, self._cut.count, delay, self._application.keeps, ahead)
        self.shards, self.delay, self.mixing, self.ahead = self._cut.count, delay, mixing, ahead
        options = f"{self._cut.describe()}, {mixing=}, {ahead=}, "
        super().__init__(
            optimizer, stream, period, momentum, lr, nesterov, rescale, options, outer=outer, anchors_on=anchors_on
        )

    def _make(self, base: GossipOptimizer, averager: Averager, rule: Rule, period: int, rescale: bool) -> OuterStep:
        assert isinstance(averager, Stream)
        return StreamingStep(
            base, averager, rule, period, rescale, type(self).__name__, cut=self._cut, application=self._application
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As for any optimizer with outer iterations; with fragments=..., its parameters are in one of them."""
        check_group(param_group)
        given = param_group["params"]
        listed = [given] if isinstance(given, torch.Tensor) else list(given)
        self._cut.check(each[1] if isinstance(each, tuple) else each for each in listed)
        super().add_param_group({**param_group, "params": listed})

    def _options(self) -> dict[str, Any]:
        own = {"fragments": self._cut.describe(), "mixing": self.mixing, "ahead": self.ahead}
        return {**super()._options(), "shards": self.shards, "delay": self.delay, **own}


def _mixes(base: torch.optim.Optimizer, world: World) -> bool:
    """Whether the base's averager brings ranks nearer to one another, which then has to be all of `world`."""
    if not isinstance(base, GossipOptimizer) or not base.averager.worlds:
        return False
    sizes = [size for _, size in base.parameters.council.places()]
    if len(sizes) == 1 and sizes[0] < world.size:
        raise UsageError(
            f"{base.averager.describe()} mixes {sizes[0]} of {world.size} ranks, and with a delay it alone brings ranks"
            " together: use delay=0, mixing=..., or gradients=world.node in the place of averages inside a node"
        )
    return True
