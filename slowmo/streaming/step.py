"""The outer step of one part of the model after another, each when its average has travelled."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from gossip import GossipOptimizer, UsageError
from gossip.state.merging import scalar

from ..outer.rates import Rates
from ..outer.rule import Part, Rule
from ..outer.step import OuterStep
from .applying import Application
from .fragments import Cut
from .stream import Sent, Stream


class StreamingStep(OuterStep):
    """In each step: the outer step of averages that are due, and the post of averages whose iteration ends.

    Args:
        cut: which parts of the model are averaged together.
        application: applies an outer step to values that have gone on meanwhile.
    """

    averager: Stream

    def __init__(
        self,
        base: GossipOptimizer,
        averager: Stream,
        rule: Rule,
        period: int,
        rescale: bool,
        name: str,
        *,
        cut: Cut,
        application: Application,
    ) -> None:
        self._cut, self._application = cut, application
        self._each = [Rates() for _ in range(averager.shards)]
        super().__init__(base, averager, rule, period, rescale, name)

    def _begin_rates(self) -> None:
        self._each = [Rates() for _ in self._each]

    def all_parts(self) -> list[Part]:
        self._placed = self._cut.parts(self.base_mass.buckets)
        return [part for _, part in self._placed]

    def _numbers(self, shard: int) -> list[int]:
        """The numbers of the parts of one shard."""
        return [number for number, (place, _) in enumerate(self._placed[: len(self.parts)]) if place == shard]

    def begin(self, step: int) -> None:
        super().begin(step)
        self.averager.ask()

    def _note_rates(self) -> None:
        for rates in self._each:
            rates.note(self._optimizer.param_groups)

    def rewrites(self, step: int) -> bool:
        return False  # an average is applied to values whose rounds go on

    def warn_if_idle(self) -> None:
        """Some shard has an outer step long before the period ends."""

    def average(self, step: int) -> None:
        made = step + 1 - self.began
        self.averager.ask()
        with self.base_mass.stats.span("slowmo"):
            self._apply_due(made)
            for shard in self.averager.posting(made):
                values = [self.values(self.parts[number]) for number in self._numbers(shard)]
                self.averager.send(made, shard, self._each[shard].end(self.rescale), values)
            if self.averager.delay == 0:
                self._apply_due(made)

    def _apply_due(self, made: int) -> None:
        while self.averager.sent and self.averager.sent[0].due <= made:
            self._apply(self.averager.take())

    @torch.no_grad()
    def settle(self) -> None:
        while self.averager.sent:
            self._apply(self.averager.take())

    def _apply(self, sent: Sent) -> None:
        """The outer step of one shard, and its effect on the values as they are now."""
        self.base_mass.quiesce()
        *sums, total = sent.sums
        numbers = self._numbers(sent.shard)
        now = [self.values(self.parts[number]) for number in numbers]
        # x̄ = Σ ω x / Σ ω, which becomes a_{t+1} when it is moved
        means = [x.to(z.device).div_(scalar(total[0])) for x, z in zip(sums, now, strict=True)]
        own = sent.own or itertools.repeat(None, len(means))
        kept = [self._application.before(z, x, mine) for z, x, mine in zip(now, means, own, strict=True)]
        self.rule.move_(dict(zip(numbers, means, strict=True)), sent.ratios)
        for z, a, before in zip(now, means, kept, strict=True):
            self._application.apply_(z, a, before)

    # -- checkpoints: rates of each shard, and averages that have arrived and are not applied yet ----------------------

    def _rates_state(self) -> dict[str, Any]:
        return {
            "rates": [[list(group) for group in rates.now] for rates in self._each],
            "last_rates": [list(rates.last) for rates in self._each],
        }

    def _load_rates(self, state: dict[str, Any]) -> None:
        for rates, now, last in zip(self._each, state["rates"], state["last_rates"], strict=True):
            rates.now, rates.last = [list(group) for group in now], list(last)

    def check_own(self, saved: dict[str, Any]) -> None:
        super().check_own(saved)
        sent = saved["averager"]["aloft"]
        cut = self._cut.describe()
        kept = all(each["own"] for each in sent) or not self._application.keeps
        if sent and not (kept and saved.get("options", {}).get("fragments", cut) == cut):
            raise UsageError(
                "this state has averages in flight, which only fit the same fragments and a mixing=... as it was saved "
                "with: call settle() on every rank before saving, to go on with others"
            )
