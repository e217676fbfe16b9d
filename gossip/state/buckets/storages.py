"""Storages over a part of a flat tensor: what pickle, torch.save and torch.multiprocessing see of a parameter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from ...errors import levels_to_the_user


def placed(flat: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """The memory of a contiguous `flat` in another shape, with a storage of its own, which keeps that memory alive.

    pickle, torch.save, copy.deepcopy and safetensors handle whole storages, so that each parameter needs one: a view
    of the bucket would bring all other parameters along. Memory that other processes may see stays in one storage, by
    which they are handed it.

    >>> flat = torch.zeros(8)
    >>> part = placed(flat[2:4], (1, 2), (2, 1)).fill_(1)
    >>> flat.tolist(), part.untyped_storage().nbytes()
    ([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 8)
    """
    if flat.device.type in ("cpu", "cuda") and not is_shared(flat):
        # Bytes, since older versions of torch cannot hand on every dtype. Nothing is copied, and no stream waits.
        flat = from_dlpack(to_dlpack(flat.view(torch.uint8))).view(flat.dtype)
    return flat.as_strided(shape, stride)


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether it lies in memory of a host that other processes may see."""
    return tensor.device.type == "cpu" and tensor.is_shared()


@torch.no_grad()
def take_back_(parameter: torch.Tensor, flat: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether `parameter`, which lived in `flat`, was moved into shared memory alone; it lives in `flat` again then.

    A flight reads `flat` all the while, so nothing that it needs was freed.
    """
    is_moved = is_shared(parameter) and not is_shared(flat)
    if not is_moved or (parameter.dtype, parameter.shape, parameter.stride()) != (flat.dtype, shape, stride):
        return False
    warnings.warn(
        "parameters moved into shared memory after GossipOptimizer was made, by share_memory() or since another "
        "process was handed them. They are back in their buckets with the same values, and the other process keeps "
        "those of this moment. For memory that stays shared call model.share_memory() before the optimizer is made",
        stacklevel=levels_to_the_user(),
    )
    parameter.data = placed(flat, shape, stride).copy_(parameter)
    return True


def is_alone(parameter: torch.Tensor, home: torch.Tensor) -> bool:
    """Whether `parameter` has memory of its own, and could live in `home`: after `.to()` to elsewhere and back."""
    kinds = [(each.dtype, each.device, each.shape, each.stride()) for each in (parameter, home)]
    return kinds[0] == kinds[1] and parameter.untyped_storage().nbytes() == home.nbytes and not is_shared(parameter)


@torch.no_grad()
def bring_home_(parameter: torch.Tensor, home: torch.Tensor) -> None:
    """Let `parameter` live in `home`, with its values; if they differ from those there, they were written by hand."""
    values, parameter.data = parameter.data, home
    if not torch.equal(parameter, values):
        parameter.copy_(values)
