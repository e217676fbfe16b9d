"""Optimizers that talk to other ranks by themselves, whose exchange and gossip would undo one another.

Their packages need not be installed to be known. Such an optimizer holds a process group, or its code names a
collective that moves values. A few packages do neither, and are known by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch

from ..errors import UsageError

GROUPS = {"ProcessGroup", "ProcessSet"}
"""Names of classes that stand for a set of ranks, in torch.distributed and torchft, and in Horovod."""

PACKAGES = {"byteps", "hivemind", "horovod", "torchft"}

COLLECTIVES = {
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_to_all",
    "broadcast",
    "reduce_scatter",
    "reduce_scatter_tensor",
}
"""An optimizer that takes parts of its update from other ranks calls one. A sum of a few numbers does no harm."""

DEPTH = 3
"""An optimizer holds an averager, which holds a dictionary of groups."""


def check_silent(optimizer: torch.optim.Optimizer) -> None:
    """Return where `optimizer` computes its update from what this rank has.

    Raises:
        UsageError: it communicates, and how that is known.

    >>> check_silent(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    """
    kind = type(optimizer)
    evidence = (
        next((f"it comes from {c.__module__}" for c in kind.__mro__ if c.__module__.split(".")[0] in PACKAGES), "")
        or next((f"its {name} holds a process group" for name, v in vars(optimizer).items() if _holds_group(v)), "")
        or next((f"its code calls {name}" for name in sorted(COLLECTIVES & set(_named(kind)))), "")
    )
    if evidence:
        raise UsageError(
            f"{kind.__name__} exchanges values with other ranks itself ({evidence}), and what gossip averages would be "
            "overwritten: give GossipOptimizer the plain torch optimizer that it is made of. ShardedSlowMo of slowmo "
            "shards state over ranks"
        )


def _holds_group(thing: Any, depth: int = DEPTH) -> bool:
    if any(base.__name__ in GROUPS for base in type(thing).__mro__):
        return True
    if depth == 1 or isinstance(thing, torch.Tensor | torch.nn.Module | type | str):
        return False  # a model in DistributedDataParallel holds a group too, which the optimizer does not use
    if isinstance(thing, Mapping):
        parts = list(thing.values())
    elif isinstance(thing, list | tuple):
        parts = list(thing)
    else:
        parts = list(getattr(thing, "__dict__", {}).values())
    return any(_holds_group(part, depth - 1) for part in parts)


def _named(kind: type) -> Iterator[str]:
    """Every global and attribute that the code of a class names, torch's own classes left out."""
    for base in kind.__mro__:
        if base.__module__.startswith("torch.optim."):
            continue
        for function in vars(base).values():
            if isinstance(function, FunctionType):
                yield from _names(inspect.unwrap(function).__code__)  # out of torch.no_grad() and step's hooks


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
