"""Checks of arguments. Each error names the argument, the value that was given, and the value that is expected."""

from __future__ import annotations

import math
import numbers
import operator
import sys
import threading
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch

from .errors import UsageError


def shown(value: Any) -> str:
    """`value` as an error sentence shows it: numbers and text as they are written, any other object by its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (bool, numbers.Number, str)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}…"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def check_flag(name: str, value: Any) -> None:
    """Check that `value` is True or False; a text such as "no" would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise UsageError(f"{name} is {shown(value)}, but it is True or False")


def check_choice(name: str, value: Any, choices: Collection[str | None]) -> None:
    """Check that `value` is one of `choices`."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        *some, last = map(repr, choices)
        raise UsageError(f"{name} is {shown(value)}; there are {', '.join(some)} and {last}")


def whole(value: Any, sentence: str, least: int = 0) -> int:
    """`value` as an int of at least `least`. NumPy's integers are accepted, True and False are not."""
    value = _single(value)
    try:
        number = operator.index(value)
    except (TypeError, ValueError):
        number = least - 1
    if isinstance(value, (bool, torch.Tensor)) or number < least:
        raise UsageError(sentence.format(shown(value)))
    return number


def real(value: Any, sentence: str) -> float:
    """`value` as a finite float. NumPy's numbers are accepted, True and False are not."""
    value = _single(value)
    if isinstance(value, numbers.Real) and value is not True and value is not False and math.isfinite(value):
        return float(value)
    raise UsageError(sentence.format(shown(value)))


def deadline(value: Any, name: str = "timeout") -> float:
    """`value` as a number of seconds for which a thread can wait."""
    sentence = name + " is {}, but a deadline is a positive number of seconds"
    seconds = real(value, sentence)
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise UsageError(f"{sentence.format(seconds)}, at most {threading.TIMEOUT_MAX:g}")
    return seconds


def _single(value: Any) -> Any:
    """The number in a zero-dimensional tensor or array; any other value unchanged."""
    return value.item() if isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0 else value


def ranks_of(value: Any, size: int) -> list[int]:
    """`value` as a list of existing ranks, each named once."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0:
        raise UsageError(f"group takes a list of ranks, such as [0, 1], and this is {shown(value)}")
    number = f"a rank is a whole number from 0 to {size - 1}, and this is {{}}"
    ranks = [whole(rank, number, least=-sys.maxsize) for rank in value]
    if len(set(ranks)) != len(ranks) or any(not 0 <= rank < size for rank in ranks):
        raise UsageError(f"a group of ranks {ranks} in a world of {size}: name some of 0..{size - 1}, each once")
    return ranks


def check_bytes(data: Any) -> None:
    """Check that `data` is bytes."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(
            f"gather takes bytes, and this is {shown(data)}: convert it by b'%d' % number, by text.encode() or by "
            "json.dumps(thing).encode()"
        )


def check_tensors(act: str, tensors: Any, flat: bool) -> None:
    """Check that the collective `act` can change `tensors` in place."""
    if not isinstance(tensors, (list, tuple)):
        raise UsageError(
            f"{act} takes a list of tensors, which it changes in place, and this is {shown(tensors)}"
            + (f": give {act}([tensor])" if isinstance(tensors, torch.Tensor) else "")
        )
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            raise UsageError(f"{act} takes a list of tensors, and number {number} of it is {shown(tensor)}")
        if tensor.layout is not torch.strided or (flat and tensor.dim() != 1):
            raise UsageError(
                f"{act} takes dense tensors{' of one dimension' if flat else ''}, and number {number} has layout "
                f"{tensor.layout} and shape {tuple(tensor.shape)}: give tensor.view(-1), or a copy of that kind"
            )
        if tensor.requires_grad:
            raise UsageError(
                f"{act} changes its tensors in place, and number {number} requires a gradient: give tensor.detach()"
            )
