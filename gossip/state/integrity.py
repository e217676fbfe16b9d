"""Optional looks at what is sent and at what arrives, so that corruption ends with the rank that it began on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch

from ..errors import GossipError
from .buckets.bucket import Bucket


def refuse_non_finite(
    rank: int, step: int, buckets: Sequence[Bucket], values: Sequence[torch.Tensor], what: str
) -> None:
    """One pass over `values`, laid out as `buckets` are; on a GPU the host waits for it.

    Raises:
        GossipError: naming the first parameter with a NaN or an infinity.
    """
    for bucket, flat in zip(buckets, values, strict=True):
        # A sum is finite only where all of its terms are; that finite terms may overflow is looked at below.
        if math.isfinite(float(flat.sum())):
            continue
        for slot in bucket.slots:
            part = flat[slot.start : slot.stop]
            wrong = (~torch.isfinite(part)).nonzero()
            if len(wrong):
                raise GossipError(
                    f"rank {rank} would send {what} {slot.name} in step {step} with {len(wrong)} of {part.numel()} "
                    f"values not finite, the first of them {float(part[wrong[0]])}; nothing was sent. Look at this "
                    "rank's data and loss, lower the learning rate, or clip gradients"
                )


def checksum(tensors: Sequence[torch.Tensor]) -> int:
    """CRC-32 of the tensors' bytes, one after another."""
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
