"""SlowMo: every τ steps, momentum over the distance that the base optimizer has travelled.

Source: Wang, Tantia, Ballas, Rabbat, "SlowMo: improving communication-efficient distributed SGD with slow momentum",
ICLR 2020, arXiv 1910.00643, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from gossip import Averager, Death, GossipOptimizer, NoAverage, Stats, UsageError
from gossip.wrapper import Wrapper

from .buffers import Average, Buffers, Maintain, Reset

STRATEGIES = ("reset", "maintain", "average")


def _passed_on(name: str) -> property:
    """The attribute `name` of the optimizer inside."""
    return property(
        lambda self: getattr(self.optimizer, name),
        lambda self, value: setattr(self.optimizer, name, value),
        lambda self: delattr(self.optimizer, name),
    )


class SlowMo(Wrapper):
    """`optimizer` with an outer step after every `period` of its steps.

    With the anchor x_{t,0}, where the outer iteration t began, and γ_t the mean learning rate over it:

        x_{t,τ}    <- what `averager` makes of where the base steps ended
        u_{t+1}    =  β u_t + (x_{t,0} − x_{t,τ}) / γ_t
        x_{t+1,0}  =  x_{t,0} − α γ_t u_{t+1}

    computed with m = γu, so that nothing is divided by a rate and a rate may be 0 (then x_{t+1,0} = x_{t,τ} and u is
    kept). Anchor and momentum are two copies of the model, in float32 or wider.

    The anchor is taken when the first `step()` begins, so parameters that were loaded before it count; the ranks
    compare theirs then.

    Args:
        optimizer: a GossipOptimizer, or any torch optimizer, which then trains each rank by itself in between
            (local SGD, local AdamW).
        averager: `ExactAverage(world)` is SlowMo, `NoAverage()` the variant without averaging, `PushSum(world, ...)`
            without overlap gossips once in an outer step.
        period: τ, base steps in an outer iteration.
        momentum: β, in [0, 1).
        lr: α, above 0; the paper's is 1.
        buffers: what the outer step does to the base optimizer's state: "maintain" it, "reset" it, or "average" it.
        nesterov: x_{t+1,0} = x_{t,0} − α(β m_{t+1} + d) with d = x_{t,0} − x_{t,τ}.
        rescale: whether u follows the learning rate, as the paper has it. False is momentum over d itself; with
            `nesterov=True` over local AdamW that is DiLoCo.

    Raises:
        UsageError: options that cannot work.
        Disagreement: ranks hold different models or options, or different parameters at the first step.

    >>> import gossip, slowmo, torch
    >>> world = gossip.init()
    >>> sgd = torch.optim.SGD(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    >>> optimizer = slowmo.SlowMo(sgd, gossip.ExactAverage(world), period=12, momentum=0.6)
    """

    optimizer: GossipOptimizer
    # What torch.amp.GradScaler sets around a step belongs to the optimizer that makes it.
    grad_scale = _passed_on("grad_scale")
    found_inf = _passed_on("found_inf")

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        averager: Averager,
        period: int = 48,
        momentum: float = 0.5,
        lr: float = 1.0,
        buffers: str = "maintain",
        nesterov: bool = False,
        rescale: bool = True,
    ) -> None:
        if isinstance(optimizer, SlowMo):
            raise UsageError("SlowMo around SlowMo: put one around the optimizer, with one period")
        if not isinstance(averager, Averager):
            raise UsageError(f"averager is {averager!r}, which is no Averager such as gossip.ExactAverage(world)")
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise UsageError(f"period is {period!r}, but it is a whole number of steps, at least 1")
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum is {momentum!r}, but slow momentum is stable from 0 up to, not including, 1")
        if not (lr > 0 and math.isfinite(lr)):
            raise UsageError(f"lr is {lr!r}, but the slow learning rate is a positive number; the paper's is 1")
        if buffers not in STRATEGIES:
            raise UsageError(f"buffers is {buffers!r}; there are {', '.join(map(repr, STRATEGIES))}")
        if buffers == "average" and not averager.worlds:
            raise UsageError("buffers='average' needs ranks to average over, and this averager speaks to none")
        if averager.overlap:
            raise UsageError(
                f"{averager.describe()} would land after the outer step that needs it: use overlap=0 here, and let "
                "the base optimizer overlap"
            )
        base = optimizer if isinstance(optimizer, GossipOptimizer) else GossipOptimizer(optimizer, NoAverage())
        if base.rewrites:
            raise UsageError("this GossipOptimizer has a SlowMo around it already: two would share its steps")
        super().__init__(base)
        base.attach(
            averager,
            period,
            f"SlowMo(period={period}, momentum={momentum}, lr={lr}, {buffers=}, {nesterov=}, {rescale=})",
        )
        base.register_step_pre_hook(self._begin)
        base.rewrites.append(self._rewrite)
        self.averager = averager
        self.period, self.momentum, self.lr = period, momentum, lr
        self.nesterov, self.rescale = nesterov, rescale
        self.steps = 0
        self.anchors: list[torch.Tensor] = []  # x_{t,0}, one for each bucket
        self.momenta: list[torch.Tensor] = []  # m = γu
        self._rates: list[list[float]] = []  # of each group, in the steps of this outer iteration
        self._last_rates: list[float | None] = []  # γ_{t-1}: the last that was not 0
        self._buffers = self._strategy(buffers)

    def _strategy(self, name: str) -> Buffers:
        base = self.optimizer.optimizer
        if name == "reset":
            return Reset(base)
        return Average(base, self.averager.worlds[0], self.optimizer.stats) if name == "average" else Maintain()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer, and of the outer iteration where it is due. Every rank calls it."""
        return self.optimizer.step(closure)

    def _begin(self, *_: object) -> None:
        """Before each step of the base optimizer."""
        self._anchor()
        for number, group in enumerate(self.param_groups):
            if number == len(self._rates):
                self._rates.append([])
                self._last_rates.append(None)
            self._rates[number].append(float(group["lr"]))

    @torch.no_grad()
    def _anchor(self) -> None:
        """Take the anchor of every bucket that has none, before anything changes it."""
        buckets = self.optimizer.mass.buckets
        new = range(len(self.anchors), len(buckets))
        if not new:
            return
        self.optimizer.parameters.check_equal(
            new,
            "SlowMo begins from equal parameters: load the same file on every rank before the first step, or build "
            "the optimizers after loading, so that rank 0's are taken",
        )
        for number in new:
            self.anchors.append(_wide_copy(buckets[number].values))
            self.momenta.append(torch.zeros_like(self.anchors[number]))

    def _rewrite(self, step: int) -> None:
        """After the update of each step, while nothing that reads the values is in flight."""
        self.steps += 1
        if self.steps % self.period == 0:
            with self.stats.span("slowmo"):
                self._end_iteration()

    def _end_iteration(self) -> None:
        """Average, outer step, and the next iteration begins where that leaves the values."""
        mass = self.optimizer.mass
        self.optimizer.persist(mass.settle)
        # x_{t,τ}, exact or gossiped or as it is
        self.optimizer.persist(lambda: self.averager.average(self.steps - 1))
        rates = [math.fsum(rates) / len(rates) for rates in self._rates]
        for bucket, anchor, m in zip(mass.buckets, self.anchors, self.momenta, strict=True):
            for group, where in bucket.segments():
                self._outer_step_(bucket.values[where], anchor[where], m[where], self._ratio(group, rates[group]))
        for group, rate in enumerate(rates):
            self._last_rates[group] = rate or self._last_rates[group]
            self._rates[group].clear()
        self.optimizer.persist(self._buffers.outer_step)

    def _ratio(self, group: int, rate: float) -> float | None:
        """r = γ_t/γ_{t−1}, 1 the first time; None for a rate of 0, where nothing was learned."""
        if rate == 0:
            return None
        last = self._last_rates[group]
        return rate / last if self.rescale and last is not None else 1.0

    def _outer_step_(self, values: torch.Tensor, anchor: torch.Tensor, m: torch.Tensor, r: float | None) -> None:
        """The outer step on part of a bucket, in the dtype of the anchor.

        With d = x_{t,0} − x_{t,τ}:    m' = βr·m + d ;    x_{t+1,0} = x_{t,τ} + (1−α)·d − αβr·m
        and with Nesterov:                                x_{t+1,0} = x_{t,τ} + (1−α)·d − αβ·m'
        """
        if r is None:
            anchor.copy_(values)
            return
        α, β = self.lr, self.momentum
        x = values if values.dtype == anchor.dtype else values.to(anchor.dtype)
        d = anchor.sub_(x)  # the anchor's memory, which x_{t+1,0} takes below
        # A term whose factor is 0 is left out: x_{t,τ} stays bit for bit with β = 0 and α = 1.
        if β and not self.nesterov:
            x.add_(m, alpha=-α * β * r)
        m.mul_(β * r).add_(d)
        if β and self.nesterov:
            x.add_(m, alpha=-α * β)
        if α != 1:
            x.add_(d, alpha=1 - α)
        anchor.copy_(x)
        if x is not values:
            values.copy_(x)

    # -- what it passes on ---------------------------------------------------------------------------------------------

    @property
    def weight(self) -> float:
        """The push-sum weight that this rank holds."""
        return self.optimizer.weight

    @property
    def stats(self) -> Stats:
        """Counters of the last step and of the run, outer steps included."""
        return self.optimizer.stats

    @property
    def deaths(self) -> list[Death]:
        """Ranks that died while the others went on."""
        return self.optimizer.deaths

    def settle(self) -> None:
        """Land everything in flight. Every rank calls it."""
        self.optimizer.settle()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in more parameters, on every rank at the same step; their anchor is taken when the next one begins."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base's keys and "slowmo": anchors, momenta, rates and counter."""
        return {
            **self.optimizer.state_dict(),
            "slowmo": {
                "steps": self.steps,
                "anchors": [anchor.clone() for anchor in self.anchors],
                "momenta": [momentum.clone() for momentum in self.momenta],
                "rates": [list(rates) for rates in self._rates],
                "last_rates": list(self._last_rates),
                "runs": self.averager.describe(),
                "averager": self.optimizer.persist(self.averager.state_dict),
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`; without its "slowmo" the anchor is taken anew at the next step."""
        saved = state_dict.get("slowmo")
        if saved is not None:
            self._refuse_foreign(saved)
        self.optimizer.load_state_dict(state_dict)
        self.optimizer.persist(self.averager.forget)
        self.steps = 0
        self.anchors, self.momenta, self._rates, self._last_rates = [], [], [], []
        if saved is None:
            return
        devices = [bucket.values.device for bucket in self.optimizer.mass.buckets]
        self.steps = saved["steps"]
        self.anchors = [anchor.to(device, copy=True) for anchor, device in zip(saved["anchors"], devices, strict=False)]
        self.momenta = [m.to(device, copy=True) for m, device in zip(saved["momenta"], devices, strict=False)]
        self._rates = [list(rates) for rates in saved["rates"]]
        self._last_rates = list(saved["last_rates"])
        self.averager.load_state_dict(saved["averager"])

    def _refuse_foreign(self, saved: dict[str, Any]) -> None:
        theirs = [anchor.numel() for anchor in saved["anchors"]]
        ours = [bucket.values.numel() for bucket in self.optimizer.mass.buckets]
        if theirs != ours[: len(theirs)]:
            raise UsageError(
                f"this state's slow momentum has buckets of {theirs} elements, and the model's are of {ours}: it "
                "belongs to another model"
            )
        if saved["runs"] != self.averager.describe():
            raise UsageError(
                f"this state's outer steps ran {saved['runs']}, and here they run {self.averager.describe()}"
            )


def _wide_copy(values: torch.Tensor) -> torch.Tensor:
    """A copy in float32 or wider."""
    return values.clone() if values.dtype == torch.float64 else values.to(torch.float32, copy=True)
