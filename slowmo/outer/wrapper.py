"""The public side of all optimizers with outer iterations: arguments, what passes to the base, and state_dicts."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from gossip import Averager, Death, GossipOptimizer, NoAverage, Stats, UsageError, WeightReport, World
from gossip.averagers.base import check_averager
from gossip.checks import check_choice, check_flag
from gossip.consensus.portable import adopted
from gossip.training.arguments import check_group
from gossip.training.state_dicts import carried, check_options, restored, unpacked, warn_without_slowmo
from gossip.training.wrapper import Wrapper, passed_on

from ..refusals import refuse_no_rate, refuse_two_rules, steps_of
from .buffers import STRATEGIES, strategy
from .memory import Memory
from .outer_optimizer import MakeOuter, OuterOptimizer
from .rule import Rule, SlowMomentum
from .step import OuterStep

KEPT = ("steps", "anchors", "momenta", "rates", "last_rates", "runs", "averager")
"""Keys that every state of slow momentum has."""


class Outer(Wrapper):
    """`optimizer` with outer steps between its own.

    Args:
        averager: acts on the values at outer steps, from now on.
        period: τ, base steps in an outer iteration.
        momentum: β, in [0, 1).
        lr: α, above 0.
        nesterov, rescale: as in `SlowMo`.
        options: more options that the ranks have to agree on.
        buffers: what an outer step does to the base optimizer's state.
        outer: makes the optimizer of the outer step, in the place of slow momentum.
        anchors_on: "cpu" keeps anchors and momenta on the host.

    Attributes:
        outer_step: acts between the base steps, as one of the averagers of `optimizer`.
        parts: the parts of the model that have an anchor and a momentum.
        anchors: x_{t,0}, one for each part.
        momenta: m = γu; none with an `outer` optimizer, which then stands in `rule.optimizer`.
        rule: makes the outer step.

    Raises:
        UsageError: options that cannot work.
    """

    optimizer: GossipOptimizer
    # torch.amp.GradScaler sets these around a step, for the optimizer that makes the update.
    grad_scale = passed_on("grad_scale")
    found_inf = passed_on("found_inf")
    consensus = passed_on("consensus")
    averager = passed_on("averager", "outer_step")
    period = passed_on("period", "outer_step")
    rescale = passed_on("rescale", "outer_step")
    parts = passed_on("parts", "outer_step")
    anchors = passed_on("anchors", "outer_step")
    rule = passed_on("rule", "outer_step")
    momentum = passed_on("momentum", "rule")
    lr = passed_on("lr", "rule")
    nesterov = passed_on("nesterov", "rule")
    momenta = passed_on("momenta", "rule")

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        averager: Averager,
        period: int,
        momentum: float,
        lr: float,
        nesterov: bool,
        rescale: bool,
        options: str = "",
        buffers: str = "maintain",
        outer: MakeOuter | None = None,
        anchors_on: str | None = None,
    ) -> None:
        name = type(self).__name__
        check_choice("buffers", buffers, STRATEGIES)
        if buffers == "average" and isinstance(averager, Averager) and not averager.worlds:
            raise UsageError("buffers='average' needs ranks to average over, and this averager speaks to none")
        if isinstance(optimizer, Outer):
            raise UsageError(f"{name} around {type(optimizer).__name__}: put one around the optimizer, with one period")
        check_averager(averager, "averager is {}, which is no Averager such as gossip.ExactAverage(world)")
        period = steps_of(period)
        check_flag("nesterov", nesterov)
        check_flag("rescale", rescale)
        memory = Memory(anchors_on)
        if outer is not None:
            refuse_two_rules(momentum, lr, nesterov, rescale)
            rescale = False
        rule: Rule = SlowMomentum(memory, momentum, lr, nesterov) if outer is None else OuterOptimizer(memory, outer)
        if averager.overlap:
            raise UsageError(
                f"{averager.describe()} would land after the outer step that needs it: use overlap=0 and landing='due' "
                "here, and let the base optimizer overlap"
            )
        self._follows = rescale and momentum > 0 and outer is None
        if self._follows and isinstance(optimizer, torch.optim.Optimizer):
            refuse_no_rate(optimizer, optimizer.param_groups)
        base = optimizer if isinstance(optimizer, GossipOptimizer) else GossipOptimizer(optimizer, NoAverage())
        if any(isinstance(other, OuterStep) for other in base.averagers):
            raise UsageError(f"this GossipOptimizer has a {name} around it already: two would share its steps")
        super().__init__(base)
        own = {"momentum": rule.momentum, "lr": rule.lr, "nesterov": rule.nesterov}
        self._given: dict[str, Any] = {"period": period, **own, "rescale": bool(rescale)}
        self._more = options
        self.outer_step = self._make(base, averager, rule, period, rescale)
        self.buffers = buffers
        base.attach(self.outer_step, period, f"{name}({self._described()})", call=f"slowmo.{name}(...)")
        weakref.finalize(self, self.outer_step.warn_if_idle)
        self.outer_step.buffers = strategy(buffers, base.optimizer, averager.worlds, base.stats)

    def _make(self, base: GossipOptimizer, averager: Averager, rule: Rule, period: int, rescale: bool) -> OuterStep:
        return OuterStep(base, averager, rule, period, rescale, type(self).__name__)

    @property
    def steps(self) -> int:
        """Base steps that were made since the outer iterations began."""
        return self.optimizer.steps - self.outer_step.began

    @torch.no_grad()
    def restart(self) -> None:
        """Take new anchors when the next step begins, and begin with slow momentum 0; every rank calls it.

        For weights that are loaded in the middle of a run, the same on every rank. Slow momentum would take them for a
        step of the base optimizer. Outer steps stay where they were due.

        >>> import gossip, slowmo, torch
        >>> model = torch.nn.Linear(4, 2)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> optimizer = slowmo.SlowMo(sgd, gossip.ExactAverage(gossip.init()), period=12)
        >>> optimizer.settle()
        >>> model.load_state_dict(torch.nn.Linear(4, 2).state_dict())
        <All keys matched successfully>
        >>> optimizer.restart()
        """
        self.settle()
        self.outer_step.forget_anchors()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer, and of the outer iteration where it is due. Every rank calls it."""
        return self.optimizer.step(closure)

    def __repr__(self) -> str:
        """In one line: the base, the averager of the outer steps, and how they move."""
        return f"{type(self).__name__}({self.optimizer!r}, {self.averager!r}, {self._described()})"

    def _described(self) -> str:
        return f"period={self.period}, {self.rule.describe()}, {self._more}rescale={self.rescale}"

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

    def weight_report(self, world: World | None = None) -> WeightReport:
        """The weight of all ranks, held and in flight, for one small sum. Every rank calls it at the same step."""
        return self.optimizer.weight_report(world)

    def average_(self) -> None:
        """Go on from the mean of all ranks, whose anchors and slow momenta stay. Every rank calls it."""
        super().average_()
        self.outer_step.note_rewritten()

    def settle(self) -> None:
        """Land everything in flight. Every rank calls it. After loading weights then, call `restart`."""
        self.optimizer.settle()
        self.outer_step.note_settled()

    def rewritten(self, write: Callable[[], Any], mode: str) -> Any:
        """Do `write`, the `train` or `eval` of a schedule-free optimizer."""
        result = write()
        self.outer_step.note_rewritten()
        return result

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in more parameters, on every rank at the same step; their anchor is taken when the next one begins."""
        check_group(param_group)
        if self._follows:
            refuse_no_rate(self.optimizer, [param_group])
        self.optimizer.add_param_group(param_group)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The base's keys and "slowmo": anchors, momenta, rates, counter and options."""
        return carried({**restored(self.optimizer.state_dict()), "slowmo": self._state()})

    def _state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            **self.outer_step.state_dict(),
            "kind": type(self).__name__,
            "options": self._options(),
            "runs": self.averager.describe(),
        }

    def _options(self) -> dict[str, Any]:
        """The options that a state is compared by, as given; `momentum` and the like may be set between two steps."""
        return {**self._given, "buffers": self.buffers, **self.rule.options()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any], options: str = "check") -> None:
        """Go on from `state_dict()`; without its "slowmo", with a warning, the anchor is taken anew at the next step.

        Args:
            state_dict: this rank's.
            options: "check" refuses a state that was saved with another period, momentum or other option, "own" goes on
                with those here.

        Raises:
            UsageError: the state of another rank, model, method, averager or options.
        """
        state_dict = unpacked(state_dict, "slowmo", KEPT)
        state_dict = adopted(state_dict, "slowmo", self._state)
        saved = state_dict.get("slowmo")
        if saved is not None:
            self._check_own(saved)
            check_options(type(self).__name__, saved.get("options", {}), self._options(), options)
        elif "gossip" in state_dict:
            warn_without_slowmo(type(self).__name__)
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "slowmo"}, options)
        self.outer_step.forget()
        self.outer_step.began = self.optimizer.steps
        if saved is not None:
            self.outer_step.began -= saved["steps"]
            self.outer_step.load_state_dict(self.rule.with_own_options(saved) if options == "own" else saved)

    def _check_own(self, saved: dict[str, Any]) -> None:
        """Check that a state belongs to this class, averager, rule and model.

        Raises:
            UsageError: naming what differs.
        """
        if saved.get("kind", type(self).__name__) != type(self).__name__:
            raise UsageError(f"this state was saved by {saved['kind']}, and this is {type(self).__name__}")
        if saved["runs"] != self.averager.describe():
            raise UsageError(
                f"this state's outer steps ran {saved['runs']}, and here they run {self.averager.describe()}"
            )
        self.rule.check_own(saved)
        self.outer_step.check_own(saved)
