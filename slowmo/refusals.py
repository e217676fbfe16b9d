"""What the optimizers with outer iterations refuse, before anything is changed."""

from __future__ import annotations

from typing import Any

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


def refuse_own_pace(optimizer: Any, name: str) -> None:
    """Where the ranks of `optimizer` need not make the same steps, and `name` has a sum of all of them on its way."""
    if isinstance(optimizer, GossipOptimizer) and not optimizer.averager.lockstep:
        raise UsageError(
            f"landing='any' lets each rank make steps at its own pace, and {name} waits for all ranks in one step: use "
            "landing='due' or 'early'"
        )
