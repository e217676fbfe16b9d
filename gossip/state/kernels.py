"""Merging on a GPU in one pass: a Triton kernel. torch's CUDA and ROCm wheels bring Triton along.

The kernel reads each message once, encoded, and reads and writes the values once. A few operations for every 4 bytes
cost memory bandwidth alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from .codecs import BLOCK, Codec

VALUES = 1024
"""Values of one program: 8 for each thread of its 4 warps."""


@triton.jit
def _lerps(out, start, buffers, scales, ratios, n, SCALED: tl.constexpr, READ: tl.constexpr, SIZE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SIZE
    if first + SIZE <= n:  # without a mask, so that each thread moves 16 bytes at once whatever n is
        _lerp(out, start, buffers, scales, ratios, first + tl.arange(0, SIZE), None, SCALED, READ)
    else:
        places = first + tl.arange(0, SIZE)
        _lerp(out, start, buffers, scales, ratios, places, places < n, SCALED, READ)


@triton.jit
def _lerp(out, start, buffers, scales, ratios, places, mask, SCALED: tl.constexpr, READ: tl.constexpr):
    z = tl.load(start + places, mask=mask).to(tl.float32)
    for k in tl.static_range(len(buffers)):
        other = tl.load(buffers[k] + places, mask=mask).to(tl.float32)
        if SCALED:
            other *= tl.load(scales[k] + places // SCALED, mask=mask)
        ratio = tl.load(ratios[k]).to(tl.float32) if READ else ratios[k]
        # z <- z + r·(z' − z)
        z += ratio * (other - z)
    tl.store(out + places, z.to(out.dtype.element_ty), mask=mask)


def lerps_(
    start: torch.Tensor,
    buffers: Sequence[torch.Tensor],
    ratios: Sequence[torch.Tensor],
    codec: Codec,
    *,
    out: torch.Tensor,
) -> None:
    """out <- start, and then  out <- out + r_k·(z'_k − out)  for each message k; `out` and `start` may be the same.

    The ratios are float64, all on the host or all on the device, where the host does not read them.
    """
    read = ratios[0].is_cuda
    messages = [codec.raw(buffer) for buffer in buffers]
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
