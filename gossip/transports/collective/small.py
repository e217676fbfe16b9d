"""Collectives of small things of a script: means of numbers and tensors, reductions, and objects of every rank."""

from __future__ import annotations

import io
import json
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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

RAW = b"\0"
"""The first byte of packed bytes; no other packed object begins with it."""

Leaf = tuple[str, Any]  # where it stands, such as "['loss']", and a number or a tensor


def all_gather(channel: Communicator, thing: Any) -> list[Any]:
    """The object of every rank, by rank, on every rank."""
    return list(map(unpacked, channel.gather(packed(thing))))


def packed(thing: Any) -> bytes:
    """An object as bytes, from which `unpacked` makes it without running code of a class."""
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return RAW + bytes(thing)
    thing = thing.item() if isinstance(thing, np.generic) else thing
    file = io.BytesIO()
    try:
        torch.save(thing, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # whatever the object raises
        raise UsageError(
            f"{shown(thing)} cannot be sent to other ranks as plain data: give numbers, text, bytes, tensors, and "
            "lists, tuples and dictionaries of them"
        ) from error
    return file.getvalue()


def unpacked(data: bytes) -> Any:
    """The object that was `packed`."""
    return data[1:] if data.startswith(RAW) else torch.load(io.BytesIO(data), weights_only=True)


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
    said = json.dumps([kinds, [None if isinstance(leaf, torch.Tensor) else leaf for leaf in own]])
    told = [json.loads(row) for row in channel.gather_once(said.encode())]
    first = told[0][0]
    for rank, (theirs, _) in enumerate(told):
        if theirs != first:
            differ = [(here, there) for here, there in zip(first, theirs, strict=False) if here != there]
            here, there = map(_told, differ[0]) if differ else (f"{len(first)} things", f"{len(theirs)} things")
            raise UsageError(
                f"world.{call}(...) got {here} from rank 0 and {there} from rank {rank}: every rank gives the same "
                "keys in the same order, of the same shapes and dtypes",
                speaks=channel.rank == 0,
            )
    return [row for _, row in told]


def _told(kind: list[str]) -> str:
    return " ".join(filter(None, kind))


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
        rows = map(unpacked, channel.gather_once(packed(tensor.detach().cpu())))
        return REDUCTIONS[op](torch.stack(list(rows)))

    tensor.detach().copy_(channel.together(reduced))
    return tensor
