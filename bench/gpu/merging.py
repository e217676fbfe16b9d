"""The merge of messages beside the bandwidth of the GPU's memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gossip.state import merging as mixing
from gossip.state.codecs import CODECS, Codec

ROUNDS = 40
CASES: tuple[tuple[str | None, int], ...] = ((None, 1), (None, 2), ("bfloat16", 1), ("int8", 1))
"""Codec, and messages merged at once."""


def bandwidths(elements: int, device: torch.device) -> dict[str, Any]:
    """Bytes a second: of a copy, and of each merge into `elements` float32 values, bytes read and written counted.

    A message is read once, and the values are read and written once; `torch` is the same without the kernel.
    """
    generator = torch.Generator(device).manual_seed(0)
    z, other = (torch.randn(elements, device=device, generator=generator) for _ in range(2))
    found: dict[str, Any] = {"elements": elements, "merges": []}
    found["copy"] = 2 * z.nbytes / seconds(lambda: other.copy_(z))
    # More messages than a second-level cache holds, so that none of them is read from there.
    for name, messages in CASES:
        wire = CODECS[name]
        rooms = [wire.buffer(z) for _ in range(messages)]
        for room in rooms:
            wire.encode(torch.randn(elements, device=device, generator=generator), room)
        moved = 2 * z.nbytes + sum(room.nbytes for room in rooms)
        ratios = [torch.full((), 0.5, dtype=torch.float64, device=device) for _ in rooms]
        ours = moved / seconds(partial(mixing.mix_, z, rooms, ratios, wire))
        without = moved / seconds(partial(_plainly, z, rooms, ratios, wire))
        found["merges"].append(
            {
                "wire": name or "float32",
                "messages": messages,
                "bytes": moved,
                "rate": ours,
                "of_copy": ours / found["copy"],
                "torch": without / found["copy"],
            }
        )
    return found


def _plainly(z: torch.Tensor, rooms: list[torch.Tensor], ratios: list[torch.Tensor], wire: Codec) -> None:
    for room, ratio in zip(rooms, ratios, strict=True):
        torch.lerp(z, wire.values(room), ratio.float(), out=z)


def seconds(act: Callable[[], object]) -> float:
    """The median time on the GPU."""
    for _ in range(5):
        act()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(ROUNDS)]
    for began, ended in marks:
        began.record()
        act()
        ended.record()
    torch.cuda.synchronize()
    return float(torch.tensor([began.elapsed_time(ended) for began, ended in marks]).median()) / 1e3
