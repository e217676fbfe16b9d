"""State dicts: how they pass through `torch.distributed.checkpoint`, and what is compared before one is loaded.

`torch.distributed.checkpoint` knows "state" and "param_groups" alone. Its `get_state_dict` drops every other key, so
there the first parameter group carries ours. Its `load` fills only the keys and tensors that the new state_dict has
already, and no message in flight is among them. So each section travels as one opaque object. A file holds an ordinary
dictionary in its place.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch

from ..averagers.base import Averager
from ..checks import shown
from ..errors import UsageError, levels_to_the_user

CHECKPOINTS = "torch.distributed.checkpoint"
OURS = ("gossip", "slowmo")
WHOLE = "whole"
PORTABLE = "portable"
"""The key of a state that any number of ranks goes on from; see `gossip.consensus.portable`."""

PROBE = "_init_optim_state"
"""The function that makes a step to learn what state an optimizer keeps."""

KEPT = ("steps", "places", "runs", "weight", "whole", "balanced", "equal", "averager")
"""Keys that the section "gossip" of every state has."""


class Carried(bytes):
    """A dictionary that torch takes for bytes, and that unpickles as an OrderedDict, without this class."""

    section: Mapping[str, Any]

    def __new__(cls, section: Mapping[str, Any]) -> Carried:
        carried = super().__new__(cls)
        carried.section = section
        return carried

    def __reduce_ex__(self, protocol: object) -> tuple[type, tuple[()], None, None, Iterator[tuple[str, Any]]]:
        return OrderedDict, (), None, None, iter(self.section.items())


def asking() -> str:
    """The function of `torch.distributed.checkpoint` that calls, the innermost one; "" where none does."""
    frame: FrameType | None = sys._getframe(1) if CHECKPOINTS in sys.modules else None
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith(CHECKPOINTS):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_name


def is_probe(optimizer: Any) -> bool:
    """Whether this step is the one with which torch learns what state `optimizer` keeps: rates and gradients are 0."""
    rates = (group.get("lr", 0.0) for group in optimizer.param_groups)
    if optimizer.state or any(isinstance(rate, int | float) and rate for rate in rates):
        return False
    return asking() == PROBE  # nothing else tells it from a step of the schedule


def carried(state: dict[str, Any]) -> dict[str, Any]:
    """`state`, or where `torch.distributed.checkpoint` asks for it, what gets through."""
    caller = asking()
    if not caller:
        return state
    if caller != "_get_optim_state_dict":  # it was given the optimizer itself
        return {WHOLE: Carried(copy.deepcopy(state))}
    first, *groups = state["param_groups"]
    sections = {name: Carried(state[name]) for name in OURS if name in state}
    return {**state, "param_groups": [{**first, **sections}, *groups]}


def restored(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state_dict as it was before it was carried."""
    if WHOLE in state:
        return dict(getattr(state[WHOLE], "section", state[WHOLE]))
    first, *groups = state.get("param_groups") or [{}]
    sections = {name: getattr(first[name], "section", first[name]) for name in OURS if name in first}
    if not sections:
        return dict(state)
    bare = {name: value for name, value in first.items() if name not in sections}
    return {**state, "param_groups": [bare, *groups], **sections, **{n: state[n] for n in OURS if n in state}}


def unpacked(state: Any, key: str, needed: Collection[str]) -> dict[str, Any]:
    """A state_dict as it was before it was carried, with everything `needed` under `key`, if it has that key."""
    if not isinstance(state, Mapping) or not (state := restored(state)):
        what = "an empty dictionary" if isinstance(state, Mapping) else shown(state)
        raise UsageError(
            f"load_state_dict takes what state_dict() of the same optimizer returned, and this is {what}: where "
            "nothing was saved, leave the call out"
        )
    saved = state.get(key)
    missing = [name for name in needed if name not in saved] if isinstance(saved, Mapping) else needed
    if saved is not None and missing:
        raise UsageError(
            f"this state has under {key!r} no {', '.join(map(repr, missing))}: it was cut or changed after "
            f"state_dict() returned it. Load it whole, or leave {key!r} out to begin anew"
        )
    return state


def of_optimizer(state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the wrapped optimizer itself, of a state_dict of its wrapper."""
    return {key: value for key, value in state.items() if key not in ("gossip", PORTABLE)}


def check_options(name: str, saved: Mapping[str, Any], own: Mapping[str, Any], options: str) -> None:
    """Compare the options that `name` was saved with; with options="own" go on with one's own."""
    if options not in ("check", "own"):
        raise UsageError(f"options is {options!r}; there are 'check', 'own'")
    differing = [option for option in own if option in saved and saved[option] != own[option]]
    if differing and options == "check":
        theirs, ours = (", ".join(f"{option}={each[option]!r}" for option in differing) for each in (saved, own))
        raise UsageError(
            f"this state was saved by {name}({theirs}), and this is {name}({ours}): make it with the same options, or "
            "load with options='own' to go on with those that it has here"
        )


def check_format(state: Mapping[str, Any], saved: Mapping[str, Any] | None, optimizer: torch.optim.Optimizer) -> None:
    """Check that `optimizer` finds in `state` what it saved; without the section `saved`, warn that it begins anew."""
    # Of a format of the optimizer's own, or one that its hooks change, nothing is known.
    own_format = type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict
    known = not own_format and not optimizer._optimizer_load_state_dict_pre_hooks
    missing = [key for key in ("param_groups", "state") if key not in state]
    if known and missing:
        raise UsageError(
            f"this state has no {' and no '.join(map(repr, missing))}, and so is none of an optimizer, but has "
            f"{', '.join(map(repr, list(state)[:5]))}: load what state_dict() of the optimizer returned"
        )
    if saved is not None:
        return
    kind = type(optimizer).__name__
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


def check_runs(state: Mapping[str, Any], saved: Mapping[str, Any], averager: Averager, here: Mapping[str, Any]) -> None:
    """Check that `saved` was saved with this averager, optimizer and average of gradients, and nothing around it."""
    for then, now, part in (
        (saved["runs"], averager.describe(), "averager"),
        (saved.get("optimizer", here["optimizer"]), here["optimizer"], "optimizer"),
        (saved.get("gradients", here["gradients"]), here["gradients"], "average of gradients"),
    ):
        if then != now:
            raise UsageError(
                f"this state was saved while running {then}, and this is {now}: settle and save the model alone to go "
                f"on with another {part}"
            )
    more = sorted(state.keys() - {*saved.get("keys", state), "gossip", PORTABLE})
    if more:
        raise UsageError(
            f"this state holds {', '.join(map(repr, more))} of an optimizer around the GossipOptimizer that it was "
            "saved from, and here there is none: make it as it was, or leave that out of the state to go on without"
        )


def moments(states: Mapping[Any, Any], shapes: Mapping[int, Sequence[int]]) -> dict[tuple[int, str], torch.Tensor]:
    """(number of the parameter, name in its state) -> tensor, in the same order wherever the same are held.

    A name that has another shape than its parameter anywhere is a counter everywhere, also beside a parameter without
    dimensions. State under a key of the optimizer's own, such as a text, belongs to no parameter and is none either.

    >>> state = {"exp_avg": torch.zeros(2), "step": torch.zeros(()), "mu_product": torch.ones(())}
    >>> alone = {"exp_avg": torch.zeros(()), "mu_product": torch.ones(())}
    >>> list(moments({0: state, 1: alone}, {0: (2,), 1: ()}))
    [(0, 'exp_avg'), (1, 'exp_avg')]
    """
    floating = [
        (number, name, value)
        for number in sorted(shapes)
        if isinstance(states.get(number), Mapping)
        for name, value in sorted(states[number].items(), key=lambda entry: str(entry[0]))
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    counters = {"step", *(name for number, name, value in floating if tuple(value.shape) != tuple(shapes[number]))}
    return {(number, name): value for number, name, value in floating if name not in counters}
