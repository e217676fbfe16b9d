"""The outer step: an averager that moves anchors with momentum, after every `period` base steps."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from gossip import Averager, GossipOptimizer, UsageError
from gossip.errors import levels_to_the_user
from gossip.observe.process import say
from gossip.state.buckets.writes import Writes
from gossip.state.mass import Mass

from .buffers import Buffers, Maintain
from .rates import Rates
from .rule import Part, Rule


class OuterStep(Averager):
    """Average with `averager`, then x_{t+1,0} by `rule`, after every `period` base steps.

    Args:
        base: the optimizer that makes the base steps.
        averager: makes x_{t,τ} of the values where the base steps ended.
        rule: makes x_{t+1,0} of x_{t,0} and x_{t,τ}, and keeps the momenta.
        period: τ, base steps in an outer iteration.
        rescale: whether momentum follows the learning rates.
        name: the public class, for errors.

    Attributes:
        base_mass: the values and the weight of the base optimizer.
        began: the base optimizer's steps before the first one that counts here.
        made: the base steps since.
        parts: the parts of the model that have an anchor and a momentum.
        anchors: x_{t,0}, one for each part.
        buffers: acts on the base optimizer's state at each outer step.
    """

    buffers: Buffers = Maintain()

    def __init__(
        self, base: GossipOptimizer, averager: Averager, rule: Rule, period: int, rescale: bool, name: str
    ) -> None:
        self.averager, self.rule, self.period, self.rescale = averager, rule, period, rescale
        self.members = (averager,)
        self.worlds, self.levels, self.nodes = averager.worlds, averager.levels, averager.nodes
        self.lockstep = averager.lockstep
        self.began, self.made = base.steps, 0
        self._name, self._optimizer, self._parameters, self.base_mass = name, base.optimizer, base.parameters, base.mass
        self._settled = Writes(base.mass.buckets, base.parameters.rounded)
        rule.begin(self.all_parts(), base.mass.buckets)
        self.forget_anchors()

    def forget_anchors(self) -> None:
        """Take anchors when the next step begins, and begin with momentum 0."""
        self.parts: list[Part] = []
        self.anchors: list[torch.Tensor] = []
        self.rule.forget()
        self._settled.forget()
        self._begin_rates()

    def _begin_rates(self) -> None:
        self._rates = Rates()

    def bind(self, mass: Mass, every: int) -> None:
        self.averager.bind(mass, every)
        super().bind(mass, every)

    def describe(self) -> str:
        return self.averager.describe()

    # -- the step ------------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        self._warn_of_writes()
        self._take_anchors()
        self._note_rates()

    def _note_rates(self) -> None:
        self._rates.note(self._optimizer.param_groups)

    def rewrites(self, step: int) -> bool:
        return (step + 1 - self.began) % self.period == 0

    def average(self, step: int) -> None:
        self.made = step + 1 - self.began
        if self.rewrites(step):
            with self.base_mass.stats.span("slowmo"):
                self._end_iteration(step)

    def _end_iteration(self, step: int) -> None:
        # x_{t,τ}, exact or gossiped or as it is
        self.averager.average(step - self.began)
        self._move_(self._rates.end(self.rescale, self._agreed(self._rates.means())))
        self.buffers.outer_step()

    def _agreed(self, rates: list[float]) -> list[float]:
        """γ_t of each group: its mean over ranks that are to be in consensus, whatever schedule each follows."""
        if not self.rescale or (self.rule.momentum == 0 and self.rule.lr == 1):  # nothing depends on it
            return rates
        for world in self.averager.levels:
            each = [json.loads(row) for row in world.all_gather(json.dumps(rates).encode())]
            if any(theirs != rates for theirs in each):
                rates = [math.fsum(group) / len(each) for group in zip(*each, strict=True)]
        return rates

    def _move_(self, ratios: Sequence[float | None]) -> None:
        """x_{t+1,0}, everywhere."""
        self.rule.move_({number: self.values(part) for number, part in enumerate(self.parts)}, ratios)

    # -- anchors -------------------------------------------------------------------------------------------------------

    def all_parts(self) -> list[Part]:
        """The parts that this rank keeps anchors of, at least one of each bucket: here whole buckets."""
        return [Part(number, 0, len(values)) for number, values in enumerate(self.base_mass.values)]

    def values(self, part: Part) -> torch.Tensor:
        """The values z of a part, in the parameters' own memory."""
        return self.base_mass.values[part.bucket][part.start : part.stop]

    @torch.no_grad()
    def _take_anchors(self) -> None:
        """Take the anchor of every bucket that has none, before anything changes it."""
        new = range(self.parts[-1].bucket + 1 if self.parts else 0, len(self.base_mass.buckets))
        if not new:
            return
        self._parameters.check_equal(
            new,
            f"{self._name} begins from equal parameters: load the same file on every rank before the first "
            "step, or build the optimizers after loading, so that rank 0's are taken",
        )
        for part in self.all_parts()[len(self.parts) :]:
            self.keep(part).copy_(self.values(part))

    def keep(self, part: Part) -> torch.Tensor:
        """The memory for the anchor of one more part."""
        self.parts.append(part)
        self.anchors.append(self.rule.keep(part, self.base_mass.buckets[part.bucket]))
        return self.anchors[-1]

    def note_settled(self) -> None:
        """Everything has landed: warn in the next step if parameters were written meanwhile."""
        if self.parts and (self.rule.momentum or self.rule.lr != 1):  # else an outer step leaves what it finds
            self._settled.note()

    def note_rewritten(self) -> None:
        """The base optimizer has moved parameters to the values of another mode, and that is no warning."""
        self._settled.again()

    def _warn_of_writes(self) -> None:
        if self._settled.altered():
            warnings.warn(
                f"parameters were written after settle(), and {self._name} counts that as a slow gradient. Where other "
                "weights were loaded, call restart() afterwards, on every rank: anchor and momentum begin anew. A "
                "small change, such as a clamp, may stay as it is",
                stacklevel=levels_to_the_user(),
            )
        self._settled.forget()

    def warn_if_idle(self) -> None:
        """At the end of a run: no outer step ever came."""
        has_failed = getattr(sys, "last_value", None) is not None
        if 0 < self.made < self.period and self.base_mass.stats.board.rank == 0 and not has_failed:
            say(
                f"gossip: {self._name} made no outer step: the run had {self.made} steps, and the outer step comes "
                f"after every {self.period}, so that slow momentum did nothing. Take a smaller period"
            )

    # -- between steps -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        self.averager.settle()

    def in_flight(self) -> bool:
        return self.averager.in_flight()

    def quiesce(self) -> None:
        self.averager.quiesce()

    def rebind(self) -> None:
        self.averager.rebind()

    def forget(self) -> None:
        self.averager.forget()
        self.forget_anchors()

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.rule.state_dict(),
            "anchors": [anchor.clone() for anchor in self.anchors],
            **self._rates_state(),
            "averager": self.averager.state_dict(),
        }

    def _rates_state(self) -> dict[str, Any]:
        return {"rates": [list(rates) for rates in self._rates.now], "last_rates": list(self._rates.last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, anchor in zip(self.all_parts(), state["anchors"], strict=False):
            self.keep(part).copy_(anchor)
        self.rule.load_state_dict(state)
        self._load_rates(state)
        self.averager.load_state_dict(state["averager"])

    def _load_rates(self, state: dict[str, Any]) -> None:
        self._rates.now = [list(rates) for rates in state["rates"]]
        self._rates.last = list(state["last_rates"])

    def check_own(self, saved: dict[str, Any]) -> None:
        """Check that a state belongs to the same model.

        Raises:
            UsageError: it has anchors of other sizes.
        """
        theirs = [anchor.numel() for anchor in saved["anchors"]]
        ours = [part.stop - part.start for part in self.all_parts()]
        if theirs != ours[: len(theirs)]:
            raise UsageError(
                f"this state's slow momentum has buckets of {theirs} elements, and the model's are of {ours}: it "
                "belongs to another model"
            )
