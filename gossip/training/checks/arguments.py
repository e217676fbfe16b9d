"""Arguments of an optimizer and of its methods that are of the wrong kind, said before anything is changed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from ...checks import check_flag, shown
from ...errors import UsageError


def check_module(module: Any) -> None:
    """Return where `module` is a model or None.

    Raises:
        UsageError: saying what it is.
    """
    if module is not None and not isinstance(module, torch.nn.Module):
        what = "its state_dict()" if isinstance(module, Mapping) else shown(module)
        raise UsageError(f"module is {what}, but it is the model itself, a torch.nn.Module: give module=model")


def check_switches(**switches: Any) -> None:
    """Return where `trace` is a folder or None, and every other option is True or False.

    Raises:
        UsageError: naming the first that is not.
    """
    trace = switches.pop("trace")
    if trace is not None and not isinstance(trace, (str, os.PathLike)):
        raise UsageError(f"trace is {shown(trace)}, but it is the folder into which each rank writes its timeline")
    for name, value in switches.items():
        check_flag(name, value)


def check_closure(closure: Any) -> None:
    """Return where `closure` can be called.

    Raises:
        UsageError: saying what it is.
    """
    if closure is not None and not callable(closure):
        raise UsageError(
            f"step takes a function that computes the loss and calls backward() on it, and this is {shown(closure)}: "
            "after loss.backward(), call step() without it"
        )


def check_keys(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Return where `optimizer` finds in `state` what it saved, as far as that is known: torch's own format.

    Raises:
        UsageError: naming what is missing.
    """
    own_format = type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict
    if own_format or optimizer._optimizer_load_state_dict_pre_hooks:  # either may take any other
        return
    missing = [key for key in ("param_groups", "state") if key not in state]
    if missing:
        raise UsageError(
            f"this state has no {' and no '.join(map(repr, missing))}, and so is none of an optimizer, but has "
            f"{', '.join(map(repr, list(state)[:5]))}: load what state_dict() of the optimizer returned"
        )


def check_group(param_group: Any) -> None:
    """Return where `param_group` is what torch's optimizers take in.

    Raises:
        UsageError: saying what it is, or that it names no parameter.
    """
    if not isinstance(param_group, Mapping) or "params" not in param_group:
        raise UsageError(
            f"add_param_group takes a dictionary such as {{'params': list(module.parameters()), 'lr': 0.1}}, and this "
            f"is {'one without params' if isinstance(param_group, Mapping) else shown(param_group)}"
        )
    params = param_group["params"]
    if not isinstance(params, Iterable) or isinstance(params, (str, bytes, Mapping)):
        raise UsageError(f"'params' of a group is {shown(params)}, but it is a list of parameters")


def check_state(state: Any, key: str, needed: Collection[str]) -> None:
    """Return where `state` is a state_dict, and what it has under `key`, if anything, holds everything `needed`.

    Raises:
        UsageError: saying what it is, or what is missing.
    """
    if not isinstance(state, Mapping) or not state:
        what = "an empty dictionary" if isinstance(state, Mapping) else shown(state)
        raise UsageError(
            f"load_state_dict takes what state_dict() of the same optimizer returned, and this is {what}: where "
            "nothing was saved, leave the call out"
        )
    saved = state.get(key)
    if saved is None:
        return
    missing = [name for name in needed if name not in saved] if isinstance(saved, Mapping) else needed
    if missing:
        raise UsageError(
            f"this state has under {key!r} no {', '.join(map(repr, missing))}: it was cut or changed after "
            f"state_dict() returned it. Load it whole, or leave {key!r} out to begin anew"
        )
