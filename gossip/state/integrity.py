"""Optional checks of values that are sent and received, so that corruption ends with the rank that it began on."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..errors import GossipError
from .buckets.bucket import Bucket


class Integrity(NamedTuple):
    """Which checks were asked for.

    Attributes:
        finite: values are checked before they are sent.
        checksum: every message of gossip carries a CRC-32 of its values.
    """

    finite: bool = False
    checksum: bool = False

    @staticmethod
    def check_finite(
        rank: int, step: int, buckets: Sequence[Bucket], values: Sequence[torch.Tensor], kind: str
    ) -> None:
        """Pass once over `values`, laid out as `buckets` are; on a GPU the host waits for the result.

        Raises:
            GossipError: naming the first parameter with a NaN or an infinity.
        """
        for bucket, flat in zip(buckets, values, strict=True):
            # The sum of finite terms may overflow, so a sum that is not finite is looked at term by term.
            if math.isfinite(float(flat.sum())):
                continue
            for slot in bucket.slots:
                part = flat[slot.start : slot.stop]
                wrong = (~torch.isfinite(part)).nonzero()
                if len(wrong):
                    raise GossipError(
                        f"rank {rank} would send {kind} {slot.name} in step {step} with {len(wrong)} of "
                        f"{part.numel()} values not finite, the first of them {float(part[wrong[0]])}; nothing was "
                        "sent. Look at this rank's data and loss, lower the learning rate, or clip gradients"
                    )


def crc32(tensors: Sequence[torch.Tensor]) -> int:
    """CRC-32 of the tensors' bytes, one after another."""
    crc = 0
    for tensor in tensors:
        crc = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
