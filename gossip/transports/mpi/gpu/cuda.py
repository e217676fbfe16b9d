"""Memory and streams of a CUDA or ROCm device, which torch calls by one name.

A thread begins with device 0, and its calls to CUDA are about that device: so each call here names the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

LEAST = 1 << 12
"""Bytes of the smallest buffer; others have a power of two, so that messages of about one size share theirs."""

Event = Any  # a point in the order of the device's work


@dataclass(eq=False)
class Buffer:
    """Pinned memory of the host."""

    memory: torch.Tensor  # (n,) uint8
    array: npt.NDArray[np.uint8]  # the same, as MPI takes it
    copied: Event  # the end of the last copy from or to it


class Memory:
    """One device's memory: events, copies on two streams of its own, one each way, and buffers for them.

    Used under the engine's lock, by several threads. Only `take` waits for the device, when it has to make a buffer.
    """

    def __init__(self, device: torch.device) -> None:
        self.made = 0  # buffers, so far
        self._idle: defaultdict[int, list[Buffer]] = defaultdict(list)
        self._device = device
        self._out = torch.cuda.Stream(device, priority=-1)
        self._in = torch.cuda.Stream(device, priority=-1)

    def mark(self) -> Event:
        """The end of all work that the calling thread has given to the device."""
        with torch.cuda.device(self._device):
            return torch.cuda.current_stream(self._device).record_event()

    def adopt(self) -> None:
        """Bind the calling thread to the device, for calls that name none."""
        torch.cuda.set_device(self._device)
        self._in.query()  # where threads begin with it already, only a call to it makes it theirs

    def passed(self, event: Event) -> bool:
        """Whether the device has come to `event`."""
        with torch.cuda.device(self._device):
            return bool(event.query())

    def copy_out(self, span: torch.Tensor, buffer: Buffer, after: Event) -> None:
        """Start copying `span`, (n,) uint8 of the device, into `buffer`, after `after` and earlier copies out."""
        self._copy(self._out, span, buffer.memory[: len(span)], buffer, after)

    def copy_in(self, buffer: Buffer, span: torch.Tensor, after: Event) -> None:
        """Start copying `buffer` into `span`, after `after` and earlier copies in."""
        self._copy(self._in, buffer.memory[: len(span)], span, buffer, after)

    def _copy(
        self, stream: torch.cuda.Stream, source: torch.Tensor, target: torch.Tensor, buffer: Buffer, after: Event
    ) -> None:
        with on(stream, self._device), torch.no_grad():
            stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            buffer.copied.record(stream)

    def pinned(self, nbytes: int) -> Buffer:
        """A new buffer. Slow."""
        with torch.cuda.device(self._device):
            memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            return Buffer(memory, memory.numpy(), torch.cuda.Event())

    def take(self, count: int, nbytes: int) -> list[Buffer]:
        """`count` buffers of at least `nbytes`."""
        size = max(LEAST, 1 << (nbytes - 1).bit_length())
        idle = self._idle[size]
        while len(idle) < count:
            idle.append(self.pinned(size))
            self.made += 1
        return [idle.pop() for _ in range(count)]

    def give_back(self, buffer: Buffer) -> None:
        """Nothing reads or writes it any more."""
        self._idle[len(buffer.memory)].append(buffer)


@cache
def aside(device: torch.device) -> torch.cuda.Stream:
    """A stream beside those of the program, for the steps of a collective while the program computes."""
    return torch.cuda.Stream(device, priority=-1)


@contextmanager
def on(stream: torch.cuda.Stream, device: torch.device) -> Iterator[None]:
    """Work that is given to the device inside, by whichever thread, is done on `stream`."""
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield
