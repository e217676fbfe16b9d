"""Collectives of small things of a script: means of numbers and tensors, reductions, and objects of every rank."""

from __future__ import annotations

import math
import numbers
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...checks import check_choice, shown
from ...errors import UsageError
from ..communicator import Communicator

REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda rows: rows.sum(0, dtype=rows.dtype),
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.amax(0),
    "min": lambda rows: rows.amin(0),
    "product": lambda rows: rows.prod(0, dtype=rows.dtype),
}

Leaf = tuple[str, Any]  # where it stands, such as "['loss']", and a number or a tensor


def all_gather(channel: Communicator, thing: Any) -> list[Any]:
    """The object of every rank, by rank, on every rank."""
    if isinstance(thing, (bytearray, memoryview)):
        thing = bytes(thing)
    try:
        packed = pickle.dumps(thing)
    except Exception as error:  # whatever the object raises
        raise UsageError(
            f"all_gather sends a pickled copy, and {shown(thing)} cannot be pickled ({error}): give numbers, text, "
            "tensors, or lists and dictionaries of them"
        ) from error
    return [pickle.loads(row) for row in channel.gather(packed)]


def mean(channel: Communicator, value: Any) -> Any:
    """Means over ranks, in float64 for numbers and in float32 or wider for tensors; `value` stays as it is."""
    leaves = list(_leaves(value, ""))
    means = channel.together(lambda: _means(channel, leaves))
    return _rebuilt(value, iter(means))


def _means(channel: Communicator, leaves: list[Leaf]) -> list[Any]:
    tensors = [leaf for _, leaf in leaves if isinstance(leaf, torch.Tensor)]
    rows = _alike(channel, "mean", [(place, _kind(leaf)) for place, leaf in leaves], leaves)
    sums = [_sum(channel, tensor).div_(channel.size).to(tensor.device, tensor.dtype) for tensor in tensors]
    summed = iter(sums)
    return [
        next(summed) if isinstance(leaf, torch.Tensor) else math.fsum(row[number] for row in rows) / channel.size
        for number, (_, leaf) in enumerate(leaves)
    ]


def _alike(channel: Communicator, call: str, kinds: list[tuple[str, str]], leaves: list[Leaf]) -> list[list[Any]]:
    """The numbers of every rank, by rank; an error on all ranks unless each gave the same `kinds`."""
    own = [leaf for _, leaf in leaves]
    packed = pickle.dumps((kinds, [None if isinstance(leaf, torch.Tensor) else leaf for leaf in own]))
    told = [pickle.loads(row) for row in channel.gather_once(packed)]
    for rank, (theirs, _) in enumerate(told):
        if theirs != told[0][0]:
            differing = sorted(set(theirs) ^ set(told[0][0])) or theirs
            raise UsageError(
                f"world.{call}(...) got different things: rank 0 gave {_listed(told[0][0])}, and rank {rank} gave "
                f"{_listed(theirs)}; they differ in {differing[0][0] or 'its kind'}. Every rank gives the same keys, "
                "shapes and dtypes",
                speaks=channel.rank == 0,
            )
    return [row for _, row in told]


def _listed(kinds: list[tuple[str, str]]) -> str:
    return ", ".join(f"{place or 'one'} {kind}".strip() for place, kind in kinds[:3]) + ("…" if len(kinds) > 3 else "")


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} of shape {tuple(leaf.shape)}" if isinstance(leaf, torch.Tensor) else "number"


def _sum(channel: Communicator, tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, in float32 or wider, in memory of its own."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    total = tensor.detach().to(channel.home or tensor.device, wide, copy=True).contiguous()
    with channel.waiting():
        channel.sum([total.view(-1)]).wait()
    return total


def _leaves(value: Any, place: str) -> Iterator[Leaf]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{place}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{place}[{number}]")
    elif isinstance(value, torch.Tensor):
        yield place, value if value.is_floating_point() else value.double()
    elif isinstance(value, numbers.Real):
        yield place, float(value)
    else:
        raise UsageError(
            f"world.mean takes numbers, tensors, and lists, tuples and dictionaries of them, and {place or 'this'} is "
            f"{shown(value)}"
        )


def _rebuilt(value: Any, means: Iterator[Any]) -> Any:
    if isinstance(value, dict):
        return {key: _rebuilt(part, means) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_rebuilt(part, means) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return next(means)


@torch.no_grad()
def all_reduce(channel: Communicator, tensor: Any, op: str) -> torch.Tensor:
    """`tensor`, reduced over all ranks in place. Sums and means of floating-point tensors are in float32 or wider."""
    check_choice("op", op, REDUCTIONS)
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
        raise UsageError(
            f"world.all_reduce takes a dense tensor, and this is {shown(tensor)}: world.mean takes numbers"
        )
    if op == "mean" and not tensor.is_floating_point():
        raise UsageError(f"world.all_reduce cannot write a mean into {tensor.dtype}: use world.mean(tensor)")

    def reduced() -> torch.Tensor:
        _alike(channel, "all_reduce", [("", f"{op} of {_kind(tensor)}")], [("", tensor)])
        if tensor.is_floating_point() and op in ("sum", "mean"):
            total = _sum(channel, tensor)
            return total.div_(channel.size) if op == "mean" else total
        rows = [pickle.loads(row) for row in channel.gather_once(pickle.dumps(tensor.detach().cpu()))]
        return REDUCTIONS[op](torch.stack(rows))

    tensor.detach().copy_(channel.together(reduced))
    return tensor
