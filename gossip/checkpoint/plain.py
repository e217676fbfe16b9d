"""Plain values, which load without running code: tensors, numbers, text, and lists and dictionaries of them."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch

from ..errors import UsageError

_SCALARS: tuple[type[Any], ...] = (bool, int, float, str, bytes)  # a bool is an int as well
Memo = dict[tuple[Any, ...], torch.Tensor]


def plain(value: Any, where: str, memo: Memo | None = None) -> Any:
    """`value` as tensors on the host and built-in types.

    A tensor over a part of a storage, as a parameter in its bucket, is copied, for torch would write the whole storage.
    Tensors over the same memory stay one tensor.
    """
    memo = {} if memo is None else memo
    if value is None or isinstance(value, torch.dtype | torch.device | torch.Size):
        return value
    if isinstance(value, torch.Tensor):
        return _tensor(value, where, memo)
    if isinstance(value, np.generic):
        return _refuse(value, where) if isinstance(value, np.void) else plain(value.item(), where, memo)
    for kind in _SCALARS:
        if isinstance(value, kind):
            return kind(value)
    if type(value) in (list, tuple):
        return type(value)(plain(part, f"{where}[{number}]", memo) for number, part in enumerate(value))
    if type(value) in (dict, OrderedDict, Counter):
        copy = type(value)()
        for key, part in value.items():
            copy[plain(key, f"a key of {where}")] = plain(part, f"{where}[{key!r}]", memo)
        if hasattr(value, "_metadata"):  # the versions of a model's modules
            copy._metadata = plain(value._metadata, f"{where}._metadata", memo)
        return copy
    return _refuse(value, where)


def _tensor(value: torch.Tensor, where: str, memo: Memo) -> torch.Tensor:
    value = value.detach()
    if type(value) is not torch.Tensor or value.layout is not torch.strided or value.is_meta:
        _refuse(value, where)
    memory = value.untyped_storage()
    if not value.is_cuda and memory.nbytes() == value.nbytes:
        return value
    key = (memory.data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype, value.device)
    if key not in memo:
        memo[key] = value.to("cpu", copy=True)
    return memo[key]


def _refuse(value: Any, where: str) -> Any:
    raise UsageError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be loaded again without "
        "running code: save numbers, text, plain tensors, and lists, tuples and dictionaries of them, or give an "
        "object with state_dict()"
    )


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of the random generators of Python, NumPy, and torch on the host and on the GPU, as plain values."""
    version, words, following = random.getstate()
    kind, key, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": [version, torch.tensor(words), following],
        "numpy": [kind, torch.from_numpy(np.asarray(key).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the random generators to these states."""
    version, words, following = states["python"]
    random.setstate((version, tuple(words.tolist()), following))
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
