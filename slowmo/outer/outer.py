"""What all optimizers with outer iterations share: anchors, and the outer step on parts of the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from gossip import Averager, Death, GossipOptimizer, NoAverage, Stats, UsageError, WeightReport, World
from gossip.averagers.base import check_averager
from gossip.checks import check_flag
from gossip.state.hooks import Hook
from gossip.training.carried import carried, restored
from gossip.training.checks.arguments import check_group, check_state
from gossip.training.compared import check_options, warn_without_slowmo
from gossip.training.wrapper import Wrapper, passed_on

from ..refusals import refuse_no_rate, refuse_two_rules, steps_of
from .jumps import Jumps
from .memory import Memory
from .outer_optimizer import MakeOuter, OuterOptimizer
from .rates import Rates
from .rule import Part, Rule, SlowMomentum

KEPT = ("steps", "anchors", "momenta", "rates", "last_rates", "runs", "averager")
"""What no state can do without."""


class Outer(Wrapper, ABC):
    """`optimizer` with outer steps between its own; a subclass says when, on what, and what is averaged before.

    Args:
        averager: what the outer steps do to the values, or speak over, from now on.
        period: τ, base steps in an outer iteration.
        momentum: β, in [0, 1).
        lr: α, above 0.
        nesterov, rescale: as in `SlowMo`.
        options: what else the ranks have to agree on.
        outer: makes the optimizer of the outer step, in the place of slow momentum.
        anchors_on: "cpu" keeps anchors and momenta on the host.

    Attributes:
        steps: that were made.
        parts: what anchors and momenta are kept of.
        anchors: x_{t,0}, one for each part.
        momenta: m = γu; none with an `outer` optimizer, which then stands in `rule.optimizer`.
        rule: makes the outer step.

    Raises:
        UsageError: options that cannot work.
    """

    optimizer: GossipOptimizer
    # What torch.amp.GradScaler sets around a step belongs to the optimizer that makes it.
    grad_scale = passed_on("grad_scale")
    found_inf = passed_on("found_inf")
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
        options: str,
        outer: MakeOuter | None = None,
        anchors_on: str | None = None,
    ) -> None:
        name = type(self).__name__
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
                f"{averager.describe()} would land after the outer step that needs it: use overlap=0 here, and let "
                "the base optimizer overlap"
            )
        self._follows = rescale and momentum > 0 and outer is None
        if self._follows and isinstance(optimizer, torch.optim.Optimizer):
            refuse_no_rate(optimizer, optimizer.param_groups)
        base = optimizer if isinstance(optimizer, GossipOptimizer) else GossipOptimizer(optimizer, NoAverage())
        if base.rewrites:
            raise UsageError(f"this GossipOptimizer has a {name} around it already: two would share its steps")
        super().__init__(base)
        self.averager, self.rule = averager, rule
        own = {"momentum": rule.momentum, "lr": rule.lr, "nesterov": rule.nesterov}
        self._given: dict[str, Any] = {"period": period, **own, "rescale": bool(rescale)}
        self.period, self.rescale = period, rescale
        if outer is not None:
            rule.begin(self._parts(), base.mass.buckets)
        self._more = options
        base.attach(averager, period, f"{name}({self._described()})", call=f"slowmo.{name}(...)")
        base.beginnings.append(Hook(self._begin))
        base.rewrites.append(Hook(self._rewrite))
        self._jumps = Jumps(base, name)
        self._forget()

    def _forget(self) -> None:
        """As before the first step."""
        self.steps = 0
        self.parts: list[Part] = []
        self.anchors: list[torch.Tensor] = []
        self.rule.forget()
        self._rates = Rates()
        self._jumps.forget()

    @torch.no_grad()
    def restart(self) -> None:
        """Take new anchors when the next step begins, and begin with slow momentum 0; every rank calls it.

        For weights that are loaded in the middle of a run, the same on every rank, which slow momentum would take for
        a step of the base optimizer. Outer steps stay where they were due.

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
        steps = self.steps
        self._forget()
        self.steps = steps

    # -- the outer iteration -------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer, and of the outer iteration where it is due. Every rank calls it."""
        return self.optimizer.step(closure)

    def _begin(self) -> None:
        """Before each step of the base optimizer."""
        self._anchor()
        self._rates.note(self.param_groups)

    @abstractmethod
    def _rewrite(self) -> None:
        """After the update of each step, while nothing that reads the values is in flight."""

    def _parts(self) -> list[Part]:
        """What this rank keeps anchors of, bucket by bucket, at least one part of each: here whole buckets."""
        return [Part(number, 0, len(values)) for number, values in enumerate(self.optimizer.mass.values)]

    @torch.no_grad()
    def _anchor(self) -> None:
        """Take the anchor of every bucket that has none, before anything changes it."""
        buckets = self.optimizer.mass.buckets
        new = range(self.parts[-1].bucket + 1 if self.parts else 0, len(buckets))
        if not new:
            return
        self.optimizer.parameters.check_equal(
            new,
            f"{type(self).__name__} begins from equal parameters: load the same file on every rank before the first "
            "step, or build the optimizers after loading, so that rank 0's are taken",
        )
        for part in self._parts()[len(self.parts) :]:
            self._keep(part).copy_(self._values(part))

    def _keep(self, part: Part) -> torch.Tensor:
        """The memory for the anchor of one more part."""
        self.parts.append(part)
        self.anchors.append(self.rule.keep(part, self.optimizer.mass.buckets[part.bucket]))
        return self.anchors[-1]

    def _values(self, part: Part) -> torch.Tensor:
        """The values z of a part, in the parameters' own memory."""
        return self.optimizer.mass.values[part.bucket][part.start : part.stop]

    def __repr__(self) -> str:
        """In one line: the base, what the outer steps average, and how they move."""
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

    def settle(self) -> None:
        """Land everything in flight. Every rank calls it. Weights that are loaded then want `restart`."""
        self.optimizer.settle()
        if self.parts and (self.momentum or self.lr != 1):  # else an outer step leaves what it finds
            self._jumps.note()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in more parameters, on every rank at the same step; their anchor is taken when the next one begins."""
        check_group(param_group)
        if self._follows:
            refuse_no_rate(self.optimizer, [param_group])
        self.optimizer.add_param_group(param_group)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The base's keys and "slowmo": anchors, momenta, rates, counter and options."""
        return carried({**restored(self.optimizer.state_dict()), "slowmo": self._kept()})

    def _kept(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            **self.rule.state_dict(),
            "anchors": [anchor.clone() for anchor in self.anchors],
            "rates": [list(rates) for rates in self._rates.now],
            "last_rates": list(self._rates.last),
            "kind": type(self).__name__,
            "options": self._options(),
            "runs": self.averager.describe(),
            "averager": self.optimizer.persist(self.averager.state_dict),
        }

    def _options(self) -> dict[str, Any]:
        """What a state is compared by, as it was given; `momentum` and the like may be set between two steps."""
        return {**self._given, **self.rule.options()}

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
        check_state(state_dict, "slowmo", KEPT)
        state_dict = restored(state_dict)
        check_state(state_dict, "slowmo", KEPT)
        saved = state_dict.get("slowmo")
        if saved is not None:
            self._refuse_foreign(saved)
            check_options(type(self).__name__, saved.get("options", {}), self._options(), options)
        elif "gossip" in state_dict:
            warn_without_slowmo(type(self).__name__)
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "slowmo"}, options)
        self.optimizer.persist(self.averager.forget)
        self._forget()
        if saved is not None:
            self._take(self.rule.with_own_options(saved) if options == "own" else saved)
            self.averager.load_state_dict(saved["averager"])

    def _take(self, saved: dict[str, Any]) -> None:
        self.steps = saved["steps"]
        for part, anchor in zip(self._parts(), saved["anchors"], strict=False):
            self._keep(part).copy_(anchor)
        self.rule.load_state_dict(saved)
        self._rates.now = [list(rates) for rates in saved["rates"]]
        self._rates.last = list(saved["last_rates"])

    def _refuse_foreign(self, saved: dict[str, Any]) -> None:
        self._refuse_other_averager(saved)
        self.rule.refuse_foreign(saved)
        theirs = [anchor.numel() for anchor in saved["anchors"]]
        ours = [part.stop - part.start for part in self._parts()]
        if theirs != ours[: len(theirs)]:
            raise UsageError(
                f"this state's slow momentum has buckets of {theirs} elements, and the model's are of {ours}: it "
                "belongs to another model"
            )

    def _refuse_other_averager(self, saved: dict[str, Any]) -> None:
        if saved.get("kind", type(self).__name__) != type(self).__name__:
            raise UsageError(f"this state was saved by {saved['kind']}, and this is {type(self).__name__}")
        if saved["runs"] != self.averager.describe():
            raise UsageError(
                f"this state's outer steps ran {saved['runs']}, and here they run {self.averager.describe()}"
            )
