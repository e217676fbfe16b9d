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
from .steps import MOST_GATHERED

REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda rows: rows.sum(0, dtype=rows.dtype),
    "max": lambda rows: rows.amax(0),
    "min": lambda rows: rows.amin(0),
    "product": lambda rows: rows.prod(0, dtype=rows.dtype),
}

RAW = b"\0"
"""The first byte of packed bytes; no other packed object begins with it."""

PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device)

Leaf = tuple[str, Any]  # where it stands, such as "['loss']", and a number or a tensor


def all_gather(channel: Communicator, thing: Any) -> list[Any]:
    """The object of every rank, by rank, on every rank."""
    return list(map(unpacked, channel.gather(packed(thing))))


def packed(thing: Any) -> bytes:
    """An object as bytes, few enough to be gathered."""
    data = encoded(thing)
    if len(data) > MOST_GATHERED:
        raise UsageError(
            f"{shown(thing)} takes {len(data)} bytes, and at most {MOST_GATHERED} are sent to all ranks at once: "
            "reduce it by world.all_reduce, or save it"
        )
    return data


def encoded(thing: Any) -> bytes:
    """An object as bytes, from which `unpacked` makes it without running code of a class."""
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return RAW + bytes(thing)
    file = io.BytesIO()
    torch.save(_plain(thing), file)
    return file.getvalue()


def unpacked(data: bytes) -> Any:
    """The object that was `encoded`; its tensors are on the host."""
    return data[1:] if data.startswith(RAW) else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _plain(thing: Any) -> Any:
    """`thing` of built-in types, its tensors with memory of their own on the host."""
    if isinstance(thing, torch.Tensor):
        return thing.detach().to("cpu", copy=True)
    if isinstance(thing, np.generic):
        return thing.item()
    if isinstance(thing, dict):
        return {_plain(key): _plain(part) for key, part in thing.items()}
    if isinstance(thing, torch.Size) or thing is None or isinstance(thing, PLAIN):
        return thing
    if isinstance(thing, (list, tuple)):
        return [*map(_plain, thing)] if isinstance(thing, list) else tuple(map(_plain, thing))
    raise UsageError(
        f"{shown(thing)} cannot be sent to other ranks as plain data: give numbers, text, bytes, tensors, and lists, "
        "tuples and dictionaries of them"
    )


def mean(channel: Communicator, value: Any) -> Any:
    """Means over ranks, computed in float64; `value` stays as it is."""
    leaves = list(_leaves(value, ""))
    means = channel.together(lambda: _means(channel, leaves))
    return _rebuilt(value, iter(means))


def _means(channel: Communicator, leaves: list[Leaf]) -> list[Any]:
    tensors = [leaf for _, leaf in leaves if isinstance(leaf, torch.Tensor)]
    rows = _alike(channel, "mean", [(place, _kind(leaf)) for place, leaf in leaves], leaves)
    sums = [_sum(channel, tensor).div_(channel.size).to(tensor.device, tensor.dtype) for tensor in tensors]
    summed = iter(sums)
    return [
        next(summed) if isinstance(leaf, torch.Tensor) else _mean([row[number] for row in rows])
        for number, (_, leaf) in enumerate(leaves)
    ]


def _mean(numbers: list[float]) -> float:
    """Their mean, which of equal numbers is that number."""
    return numbers[0] if numbers.count(numbers[0]) == len(numbers) else math.fsum(numbers) / len(numbers)


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
    """The sum over ranks, in float64, in memory of its own."""
    total = tensor.detach().to(channel.home or tensor.device, torch.float64, copy=True).contiguous()
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
    elif isinstance(value, torch.Tensor) and not value.is_complex():
        yield place, value if value.is_floating_point() else value.double()
    elif isinstance(value, numbers.Real):
        yield place, float(value)
    else:
        raise UsageError(
            f"world.mean takes real numbers, tensors, and lists, tuples and dictionaries of them, and "
            f"{place or 'this'} is {'complex' if isinstance(value, (complex, torch.Tensor)) else shown(value)}"
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
    """`tensor`, reduced over all ranks in place. Sums and means of floating-point tensors are in float64."""
    check_choice("op", op, [*REDUCTIONS, "mean"])
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
        raise UsageError(
            f"world.all_reduce takes a dense tensor, and this is {shown(tensor)}: world.mean takes numbers"
        )
    if torch._debug_has_internal_overlap(tensor) == 1:  # torch's "yes"
        raise UsageError("world.all_reduce writes its tensor, and elements of this one share memory: give a copy of it")
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
