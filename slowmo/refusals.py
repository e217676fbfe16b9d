"""Checks of the arguments of optimizers with outer iterations, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from gossip import GossipOptimizer, UsageError, World
from gossip.checks import real, shown, whole


def checked(world: World) -> World:
    """`world`, where it is one."""
    if not isinstance(world, World):
        raise UsageError(
            f"world is {shown(world)}, and this method makes its own averager: give it the World "
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


def steps_of(period: Any) -> int:
    """`period` as a number of steps."""
    return whole(period, "period is {}, but it is a whole number of steps, at least 1", 1)


def check_momentum(momentum: Any) -> float:
    """`momentum`, where slow momentum is stable with it."""
    sentence = "momentum is {}, but slow momentum is stable from 0 up to, not including, 1"
    if not 0 <= real(momentum, sentence) < 1:
        raise UsageError(sentence.format(momentum))
    return float(momentum)


def check_rate(lr: Any) -> float:
    """`lr`, where it is a slow learning rate."""
    sentence = "lr is {}, but the slow learning rate is a positive number; the paper's is 1"
    if not real(lr, sentence) > 0:
        raise UsageError(sentence.format(lr))
    return float(lr)


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


def shards_of(shards: Any, period: int, name: str = "shards") -> int:
    """`shards`, where each of them has an average of its own in a period."""
    return _up_to(shards, 1, period, f"{name} is {{}}, but it is a whole number from 1 to the period, {period}")


def delay_of(delay: Any, period: int) -> int:
    """`delay`, where an average has been used before the next one of its shard is sent."""
    return _up_to(delay, 0, period, f"delay is {{}}, but it is a number of steps from 0 to the period, {period}")


def mixing_of(mixing: Any) -> float | None:
    """`mixing`, where it is a share or None."""
    sentence = "mixing is {}, but it is the share of a rank's own parameters that stays, from 0 to 1, or None"
    if mixing is not None and not 0 <= real(mixing, sentence) <= 1:
        raise UsageError(sentence.format(mixing))
    return None if mixing is None else float(mixing)


def _up_to(value: Any, least: int, most: int, sentence: str) -> int:
    number = whole(value, sentence, least)
    if number > most:
        raise UsageError(sentence.format(number))
    return number


def refuse_unmerged(optimizer: Any, name: str) -> None:
    """Where a round of `optimizer` is merged after its step, and `name` reads values at the end of the step."""
    if isinstance(optimizer, GossipOptimizer) and optimizer.averager.unmerged:
        raise UsageError(
            f"landing='forward' merges a round in the next forward pass, and {name} reads values when the step ends: "
            "use landing='due'"
        )


def refuse_own_pace(optimizer: Any, name: str) -> None:
    """Where the ranks of `optimizer` need not make the same steps, and `name` has a sum of all of them on its way."""
    if isinstance(optimizer, GossipOptimizer) and not optimizer.averager.lockstep:
        raise UsageError(
            f"landing='any' lets each rank make steps at its own pace, and {name} waits for all ranks in one step: use "
            "landing='due' or 'early'"
        )
