"""SlowMo whose slow momentum is averaged, and nothing else: the ranks keep parameters of their own, and one memory."""

from __future__ import annotations

from typing import Any

import torch

from gossip import Averager, GossipOptimizer, NoAverage, World
from gossip.transports import Flight

from .outer.rule import Rule
from .outer.step import OuterStep
from .outer.wrapper import Outer
from .refusals import checked, refuse_own_pace, refuse_shrink


class OwnValues(NoAverage):
    """Leave the values alone; the ranks of `world` agree on what they run."""

    def __init__(self, world: World) -> None:
        self.worlds = (world,)

    def describe(self) -> str:
        """Says how many share the momentum."""
        return f"NoAverage(), momentum shared by {self.worlds[0].size}"


class SharedStep(OuterStep):
    """The outer step whose momentum is averaged while the next iteration computes."""

    def __init__(self, base: GossipOptimizer, averager: Averager, *options: Any) -> None:
        self._flight: Flight | None = None
        self._channel = averager.worlds[0].channel()
        super().__init__(base, averager, *options)

    def begin(self, step: int) -> None:
        super().begin(step)
        if self._flight is not None:
            self._flight.done()  # some transports move a sum along only when asked

    def _end_iteration(self, step: int) -> None:
        self.land_momentum()
        super()._end_iteration(step)
        mass = self.base_mass
        self._rates_sum = mass.drift.beside(mass.weight.new_empty(0), self._channel)
        self._flight = self._channel.sum([*self.rule.momenta, self._rates_sum])

    def land_momentum(self) -> None:
        """m <- Σ_j m_j / n, which nothing has read since it was posted."""
        if self._flight is not None:
            self.base_mass.stats.wait(self._flight)
            self._flight = None
            self.base_mass.drift.compare(self._rates_sum, self._channel)
            torch._foreach_div_(self.rule.momenta, self._channel.size)

    def settle(self) -> None:
        super().settle()
        self.land_momentum()

    def state_dict(self) -> dict[str, Any]:
        self.land_momentum()
        return super().state_dict()


class SharedMomentum(Outer):
    """SlowMo without an average of the parameters, whose slow momentum is the exact mean over all ranks.

    On rank i, where the parameters are its own after gossip:

        d_i          =  x^i_{t,0} − x^i_{t,τ}
        x^i_{t+1,0}  =  x^i_{t,0} − α γ_t (β u_t + d_i / γ_t)
        u_{t+1}      =  Σ_j (β u_t + d_j / γ_t) / n

    With `SlowMo` and `NoAverage` every rank remembers its own steps; here all remember the same ones, those of all
    ranks. A rank's last steps count for itself at once, and for the others from the next outer step on. So the mean has
    τ steps to travel, and is waited for only then. β = 0, α = 1 is the base optimizer, bit for bit.

    Anchor and momentum are two copies of the model; the mean costs as many bytes as an exact average in float32 or
    wider, and the ranks hold it in the same bits. Over NCCL it passes through one stream with the rounds of gossip, one
    after another; what of that is hidden behind computing is not yet measured.

    Args:
        optimizer: a GossipOptimizer, which is what brings the ranks together, or any torch optimizer.
        world: the ranks that share one momentum.
        period, momentum, lr, buffers, nesterov, rescale: as in `SlowMo`; with `nesterov=True` β m_{t+1} is of this
            rank's own m_{t+1}, before the mean.

    Raises:
        UsageError: options that cannot work, or a base with on_failure="shrink" or landing="any".

    >>> import gossip, slowmo, topologies, torch
    >>> world = gossip.init()
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> sgp = gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size)))
    >>> optimizer = slowmo.SharedMomentum(sgp, world, period=12, momentum=0.6)

    Beside: SlowMo without averages, Wang et al., ICLR 2020, arXiv 1910.00643, whose u is each rank's own.
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
    ) -> None:
        refuse_shrink(optimizer, "with a momentum that was on its way when a rank died", "SlowMo(..., NoAverage())")
        refuse_own_pace(optimizer, type(self).__name__)
        own, options = OwnValues(checked(world)), f"{buffers=}, "
        super().__init__(optimizer, own, period, momentum, lr, nesterov, rescale, options, buffers)

    def _make(self, base: GossipOptimizer, averager: Averager, rule: Rule, period: int, rescale: bool) -> OuterStep:
        return SharedStep(base, averager, rule, period, rescale, type(self).__name__)

    def load_state_dict(self, state_dict: dict[str, Any], options: str = "check") -> None:
        """As `SlowMo` does it. Every rank calls it at the same step."""
        self.outer_step.settle()
        super().load_state_dict(state_dict, options)
