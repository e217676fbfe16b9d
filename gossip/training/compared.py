"""Saved options are compared with those of the optimizer that loads them, and a state without ours is told of."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError, levels_to_the_user

CHOICES = ("check", "own")


def check_options(name: str, saved: Mapping[str, Any], own: Mapping[str, Any], options: str) -> None:
    """Compare the options that `name` was saved with; with options="own" go on with one's own.

    >>> check_options("SlowMo", {"period": 4}, {"period": 2}, "own")
    >>> check_options("SlowMo", {"period": 4}, {"period": 2}, "check")
    Traceback (most recent call last):
    gossip.errors.UsageError: this state was saved by SlowMo(period=4), ...

    Raises:
        UsageError: they differ; with both values. Or `options` is neither "check" nor "own".
    """
    if options not in CHOICES:
        raise UsageError(f"options is {options!r}; there are {', '.join(map(repr, CHOICES))}")
    differing = [option for option in own if option in saved and saved[option] != own[option]]
    if differing and options == "check":
        theirs, ours = (", ".join(f"{option}={each[option]!r}" for option in differing) for each in (saved, own))
        raise UsageError(
            f"this state was saved by {name}({theirs}), and this is {name}({ours}): make it with the same options, or "
            "load with options='own' to go on with those that it has here"
        )


def check_bare(state: Mapping[str, Any], kind: str) -> None:
    """A state without "gossip": warn that the optimizer begins anew.

    Raises:
        UsageError: `torch.distributed.checkpoint` made it, so that its weight and rounds may have been dropped.
    """
    named = [name for group in state.get("param_groups", ()) for name in group["params"] if isinstance(name, str)]
    if named:
        raise UsageError(
            f"this state names its parameters ({named[0]!r} first), as torch.distributed.checkpoint does, and holds no "
            "'gossip'. It was saved with flatten_optimizer_state_dict, which drops weight, rounds and messages in "
            f"flight: save without. Or it is of a plain {kind}: load it before GossipOptimizer is made"
        )
    warnings.warn(
        f"this state holds no 'gossip': it is a plain {kind}'s. Weight 1, round 0 and step 0 begin here, nothing is in "
        "flight, and slow momentum begins anew",
        stacklevel=levels_to_the_user(),
    )


def warn_without_slowmo(name: str) -> None:
    """A state of a GossipOptimizer by itself, loaded into `name` around one."""
    warnings.warn(
        f"this state holds no 'slowmo': {name} takes its anchor at the next step, and its slow momentum begins at 0",
        stacklevel=levels_to_the_user(),
    )
