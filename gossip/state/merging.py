"""The lerp behind merging a message, keeping a rounding error, and an update's 1/w.

        z <- z + r·(z' − z)

with r a ratio of weights. On a GPU with Triton the kernel in `kernels` passes once over z, for any number of messages
and any codec. Elsewhere each message is one pass, piece by piece where it is decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch

from .codecs import PLAIN, Codec

log = logging.getLogger("gossip")

NARROW = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that the kernel computes in float32; torch's own operations compute float64."""


def mix_(
    z: torch.Tensor, buffers: Sequence[torch.Tensor], ratios: Sequence[torch.Tensor], codec: Codec = PLAIN
) -> None:
    """z <- z + r_k·(z'_k − z) for each message k in turn; r_k are float64, and on a GPU never read by the host.

    >>> z = torch.tensor([0.0, 2.0])
    >>> mix_(z, [torch.tensor([1.0, 2.0])], [torch.tensor(0.25, dtype=torch.float64)])
    >>> z
    tensor([0.2500, 2.0000])
    """
    if _in_one_pass(z):
        from .kernels import lerps_

        lerps_(z, buffers, ratios, codec, out=z)
    elif codec is PLAIN:
        for buffer, ratio in zip(buffers, ratios, strict=True):
            _lerp_(z, buffer, ratio, out=z)
    else:
        for pieces in zip(*(codec.pieces(z, buffer) for buffer in buffers), strict=True):
            for (part, decoded), ratio in zip(pieces, ratios, strict=True):
                _lerp_(part, decoded, ratio, out=part)


def scale_change_(before: torch.Tensor, values: torch.Tensor, ratio: torch.Tensor) -> None:
    """values <- before + r·(values − before): the lerp that goes beyond its end where r > 1."""
    if _in_one_pass(values):
        from .kernels import lerps_

        lerps_(before, [values], [ratio], PLAIN, out=values)
    else:
        _lerp_(before, values, ratio, out=values)


def scalar(number: torch.Tensor) -> torch.Tensor | float:
    """A number for torch's scalar operations: a Python float on the host, the tensor itself on a GPU."""
    return number if number.is_cuda else number.item()


def _in_one_pass(values: torch.Tensor) -> bool:
    return values.is_cuda and values.dtype in NARROW and values.numel() > 0 and _kernel_runs(values.device)


@cache
def _kernel_runs(device: torch.device) -> bool:
    """Whether Triton is installed and compiles for this GPU: tried before anything is changed."""
    if find_spec("triton") is None:
        return False
    from .kernels import lerps_

    try:
        one = torch.ones(1, device=device)
        lerps_(one, [one], [torch.ones((), dtype=torch.float64)], PLAIN, out=one)
    except Exception as error:  # a compiler may raise anything; torch's own operations do the same
        log.warning(
            "Triton cannot compile for %s, so messages are merged by torch's own operations, in more passes over "
            "memory: %s",
            device,
            str(error).strip().partition("\n")[0],
        )
        return False
    return True


def _lerp_(start: torch.Tensor, end: torch.Tensor, ratio: torch.Tensor, *, out: torch.Tensor) -> None:
    """out <- start + ratio·(end − start) in one pass; `ratio` is float64 and never rounded to 16 bits."""
    if start.dtype != end.dtype:
        both = torch.promote_types(start.dtype, end.dtype)
        z = start.to(both)
        _lerp_(z, end.to(both), ratio, out=z)
        out.copy_(z)
    elif not ratio.is_cuda:
        torch.lerp(start, end, ratio.item(), out=out)
    elif start.dtype in (torch.float32, torch.float64):
        torch.lerp(start, end, ratio.to(start.dtype), out=out)
    else:  # reading the ratio would stop the host, and 16 bits of it would lose mass
        out.copy_(torch.lerp(start.float(), end.float(), ratio.float()))


def wide(values: torch.Tensor) -> torch.Tensor:
    """`values` themselves, or a float32 copy of 16-bit ones, so that sums are accurate."""
    return values.to(values.dtype if values.dtype.itemsize >= 4 else torch.float32)


def wide_copy(values: torch.Tensor) -> torch.Tensor:
    """A copy of `values`, in float32 if they are 16-bit."""
    return values.to(values.dtype if values.dtype.itemsize >= 4 else torch.float32, copy=True)
