"""Merging on a GPU in one pass: a Triton kernel, for torch's CUDA and ROCm wheels bring Triton along.

What `mixing` does message by message happens here in registers: each message is read once, in the format in which it
travelled, and the values are read and written once. It is arithmetic of a few operations for every 4 bytes, so memory
bandwidth is all that it costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .codecs import BLOCK, Wire

VALUES = 1024
"""Values of one program: 8 for each thread of its 4 warps."""


@triton.jit
def _lerps(out, start, rooms, scales, ratios, n, SCALED: tl.constexpr, READ: tl.constexpr, SIZE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SIZE
    if first + SIZE <= n:  # without a mask, so that each thread moves 16 bytes at once whatever n is
        _lerp(out, start, rooms, scales, ratios, first + tl.arange(0, SIZE), None, SCALED, READ)
    else:
        places = first + tl.arange(0, SIZE)
        _lerp(out, start, rooms, scales, ratios, places, places < n, SCALED, READ)


@triton.jit
def _lerp(out, start, rooms, scales, ratios, places, mask, SCALED: tl.constexpr, READ: tl.constexpr):
    z = tl.load(start + places, mask=mask).to(tl.float32)
    for k in tl.static_range(len(rooms)):
        other = tl.load(rooms[k] + places, mask=mask).to(tl.float32)
        if SCALED:
            other *= tl.load(scales[k] + places // SCALED, mask=mask)
        ratio = tl.load(ratios[k]).to(tl.float32) if READ else ratios[k]
        # z <- z + r·(z' − z)
        z += ratio * (other - z)
    tl.store(out + places, z.to(out.dtype.element_ty), mask=mask)


def lerps_(
    start: torch.Tensor, rooms: Sequence[torch.Tensor], ratios: Sequence[torch.Tensor], wire: Wire, *, out: torch.Tensor
) -> None:
    """out <- start, and then  out <- out + r_k·(z'_k − out)  for each message k.

    Args:
        start, out: of shape (elements,), float32 or narrower; may be the same.
        rooms: the messages, as `wire` writes them.
        ratios: float64 without dimensions, all on the host or all on the device, where the host does not read them.
    """
    read = ratios[0].is_cuda
    messages = [wire.raw(room) for room in rooms]
    scales = tuple(scale for scale, _ in messages if scale is not None)
    with torch.cuda.device(out.device):
        _lerps[(triton.cdiv(out.numel(), VALUES),)](
            out,
            start,
            tuple(numbers for _, numbers in messages),
            scales,
            tuple(ratio if read else ratio.item() for ratio in ratios),
            out.numel(),
            SCALED=BLOCK if scales else 0,
            READ=read,
            SIZE=VALUES,
            num_warps=4,
        )
