"""Averagers made of averagers: one after another, and one in every so many steps."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from ..checks import whole
from ..errors import UsageError
from ..passes.forward import ForwardPass
from ..state.mass import Mass
from .base import Averager, State, check_averager


def _on_each(name: str) -> Any:
    """The method `name`, which calls that of each member in order."""

    @wraps(getattr(Averager, name))
    def act(self: Composite, *step: int, **named: int) -> None:
        for member in self.members:
            getattr(member, name)(*step, **named)

    return act


class Composite(Averager):
    """An averager made of others: it passes each call on to each of them, in order."""

    def __init__(self, *members: Averager) -> None:
        name = type(self).__name__
        for number, member in enumerate(members):
            check_averager(
                member, f"member {number} of {name} is {{}}, but it is an averager such as gossip.ExactAverage(world)"
            )
            if any(member is other for other in members[:number]):
                raise UsageError(f"member {number} of {name} is in it already: make a new averager for each place")
        self.members = members
        self.worlds = tuple(world for member in members for world in member.worlds)
        self.overlap = max((member.overlap for member in members), default=0)
        self.lockstep = all(member.lockstep for member in members)
        self.unmerged = any(member.unmerged for member in members)
        self.levels = tuple(world for member in members for world in member.levels)
        self.nodes = tuple(node for member in members for node in member.nodes)

    def watch(self, forward: ForwardPass) -> None:
        for member in self.members:
            member.watch(forward)

    def bind(self, mass: Mass, every: int) -> None:
        for member in self.members:
            member.bind(mass, every)
        super().bind(mass, every)

    begin, land, average, post = map(_on_each, ("begin", "land", "average", "post"))
    settle, quiesce, rebind, forget = map(_on_each, ("settle", "quiesce", "rebind", "forget"))

    def rewrites(self, step: int) -> bool:
        return any(member.rewrites(step) for member in self.members)

    def in_flight(self) -> bool:
        return any(member.in_flight() for member in self.members)

    def arrived(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        return [message for member in self.members for message in member.arrived()]

    def state_dict(self) -> State:
        return {str(number): member.state_dict() for number, member in enumerate(self.members)}

    def load_state_dict(self, state: State) -> None:
        for number, member in enumerate(self.members):
            member.load_state_dict(state[str(number)])


class Every(Composite):
    """Let `averager` act in every `period`-th step only. Rounds of gossip count posts, not steps.

    Args:
        period: steps from one action to the next; it acts in each step t with (t + 1) mod period = 0.
        averager: acts in these steps.

    Raises:
        UsageError: a period that is not a whole number of at least 1.

    >>> import gossip
    >>> Every(4, Every(2, gossip.NoAverage())).describe()
    'Every(4, Every(2, NoAverage()))'
    """

    def __init__(self, period: int, averager: Averager) -> None:
        self.period = whole(period, "Every({}, ...): the period is a whole number of steps, at least 1", 1)
        super().__init__(averager)

    def describe(self) -> str:
        return f"Every({self.period}, {self.members[0].describe()})"

    def __repr__(self) -> str:
        return f"Every({self.period}, {self.members[0]!r})"

    def bind(self, mass: Mass, every: int) -> None:
        super().bind(mass, every * self.period)


class Chain(Composite):
    """Several averagers, one after another in each step.

    Gossip-PGA is `Chain(PushSum(...), Every(H, ExactAverage(...)))`.

    Args:
        members: in the order in which they act.

    >>> import gossip
    >>> Chain(gossip.NoAverage(), Every(2, gossip.NoAverage())).describe()
    'Chain(NoAverage(), Every(2, NoAverage()))'
    """

    def describe(self) -> str:
        return f"Chain({', '.join(member.describe() for member in self.members)})"

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.members))})"
