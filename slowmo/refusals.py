"""What the optimizers with outer iterations refuse, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from gossip import GossipOptimizer, UsageError, World


def checked(world: World) -> World:
    """`world`, where it is one."""
    if not isinstance(world, World):
        raise UsageError(
            f"world is of type {type(world).__name__}, and this method makes its own averager: give it the World "
            "itself, which gossip.init() returns"
        )
    return world


def refuse_shrink(optimizer: Any, lost: str, instead: str) -> None:
    """Where `optimizer` goes on when ranks die, and this method would not, for it lacks what is `lost` then."""
    if getattr(optimizer, "on_failure", "raise") == "shrink":
        raise UsageError(
            f"on_failure='shrink' cannot go on {lost}: take {instead}, or leave on_failure='raise' and restart from a "
            "checkpoint"
        )


def refuse_period(period: Any) -> None:
    """Unless it is a number of steps."""
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise UsageError(f"period is {period!r}, but it is a whole number of steps, at least 1")


def refuse_no_rate(optimizer: torch.optim.Optimizer, groups: Iterable[Mapping[str, Any]]) -> None:
    """Where slow momentum follows the learning rates of `optimizer`, and one of `groups` has none."""
    base = optimizer.optimizer if isinstance(optimizer, GossipOptimizer) else optimizer
    for group in groups:
        if group.get("lr", base.defaults.get("lr")) is None:
            raise UsageError(
                f"a parameter group of this {type(base).__name__} has no learning rate for slow momentum to follow: "
                "pass rescale=False, with which momentum goes on as it is"
            )


def refuse_two_rules(momentum: float, lr: float, nesterov: bool, rescale: bool) -> None:
    """Where options of slow momentum are given beside an outer optimizer, which has its own."""
    if (momentum, lr, nesterov, rescale) != (0.5, 1.0, False, True):
        raise UsageError(
            f"outer=... has a momentum and a learning rate of its own: leave out momentum={momentum!r}, lr={lr!r}, "
            f"nesterov={nesterov!r} and rescale={rescale!r}"
        )


def refuse_shards(shards: Any, period: int, name: str = "shards") -> None:
    """Unless each of them has an average of its own in a period; None is for as many as the period has steps."""
    if shards is not None and (isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= period):
        raise UsageError(f"{name} is {shards!r}, but it is a whole number from 1 to the period, {period}")


def refuse_delay(delay: Any, period: int) -> None:
    """Unless it is a number of steps in which an average has been used before the next one is sent."""
    if isinstance(delay, bool) or not isinstance(delay, int) or not 0 <= delay <= period:
        raise UsageError(f"delay is {delay!r}, but it is a number of steps from 0 to the period, {period}")


def refuse_mixing(mixing: Any) -> None:
    """Unless it is a share."""
    if mixing is not None and not (isinstance(mixing, (int, float)) and 0 <= mixing <= 1):
        raise UsageError(
            f"mixing is {mixing!r}, but it is the share of a rank's own parameters that stays, from 0 to 1, or None"
        )


def refuse_own_pace(optimizer: Any, name: str) -> None:
    """Where the ranks of `optimizer` need not make the same steps, and `name` has a sum of all of them on its way."""
    if isinstance(optimizer, GossipOptimizer) and not optimizer.averager.lockstep:
        raise UsageError(
            f"landing='any' lets each rank make steps at its own pace, and {name} waits for all ranks in one step: use "
            "landing='due' or 'early'"
        )
