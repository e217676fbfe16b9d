"""Tensors of a device as they lie there, where MPI reads and writes that memory itself.

MPI knows nothing of streams. So a batch is handed to it once the device has come to the point at which the batch was
posted: what is sent has been written by then, and what is received into is read no more.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from ..messages import Line, Message, PlainReceive, PlainSend
from .staging import Event, Memory, chunks


class Span(NamedTuple):
    """Bytes of a device as MPI takes them. torch's own tensors of some dtypes, such as bfloat16, cannot be taken so."""

    address: int
    nbytes: int

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"data": (self.address, False), "shape": (self.nbytes,), "typestr": "|u1", "version": 3}


class Direct:
    """How tensors of one device travel where MPI carries its memory."""

    name = "direct"

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def mark(self) -> Event:
        """What a batch that is posted now has to come after."""
        return self.memory.mark()

    def message(self, rank: int, line: Line, tensor: torch.Tensor, mark: Event) -> Message:
        """The tensor on its way out, or to come in, as `line` says."""
        plain = PlainReceive if line.inward else PlainSend
        return plain(rank, line, spans(tensor), ready=partial(self.memory.passed, mark))


def spans(tensor: torch.Tensor) -> list[Span]:
    """The tensor's memory, cut as `staging` cuts it, so that the other end may be either."""
    return [Span(chunk.data_ptr(), len(chunk)) for chunk in chunks(tensor)]
