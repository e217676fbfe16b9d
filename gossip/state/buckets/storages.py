"""Storages over a part of a flat tensor: what pickle, torch.save and torch.multiprocessing see of a parameter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from ...errors import levels_to_the_user


def placed(flat: torch.Tensor, shape: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """The memory of a contiguous `flat` in another shape, with a storage of its own wherever that is possible.

    Memory that other processes may see belongs to one storage, by which they are handed it.
    """
    if is_shared(flat):
        return flat.as_strided(shape, stride, flat.storage_offset())
    return own(flat).as_strided(shape, stride)


def own(flat: torch.Tensor) -> torch.Tensor:
    """The memory of a flat, contiguous tensor as a tensor with a storage of its own, which keeps that memory alive.

    pickle, torch.save, copy.deepcopy and safetensors handle whole storages, so that each parameter needs one: a view
    of the bucket would bring all other parameters along.

    >>> flat = torch.zeros(8)
    >>> part = own(flat[2:4]).fill_(1)
    >>> flat.tolist(), part.untyped_storage().nbytes()
    ([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 8)
    """
    if flat.device.type not in ("cpu", "cuda"):
        return flat
    # Bytes, since older versions of torch cannot hand on every dtype. Nothing is copied, and no stream waits.
    return from_dlpack(to_dlpack(flat.view(torch.uint8))).view(flat.dtype)


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether it lies in memory of a host that other processes may see."""
    return tensor.device.type == "cpu" and tensor.is_shared()


@torch.no_grad()
def take_back_(parameter: torch.Tensor, home: torch.Tensor) -> bool:
    """Whether `parameter`, which lived in `home`, was moved into shared memory alone; it lives in `home` again then.

    A flight reads `home` all the while, so nothing that it needs was freed.
    """
    kinds = [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in (parameter, home)]
    if not is_shared(parameter) or is_shared(home) or kinds[0] != kinds[1]:
        return False
    warnings.warn(
        "parameters moved into shared memory after GossipOptimizer was made, by share_memory() or since another "
        "process was handed them. They are back in their buckets with the same values, and the other process keeps "
        "those of this moment. For memory that stays shared call model.share_memory() before the optimizer is made",
        stacklevel=levels_to_the_user(),
    )
    home.copy_(parameter)
    parameter.data = home
    return True
