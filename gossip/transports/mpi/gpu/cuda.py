"""Memory and streams of a CUDA or ROCm device, which torch calls by one name.

A thread begins with device 0, and what it asks of CUDA is asked of that: so each call here says which one is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from .staging import Buffer, Event, Memory


class CudaMemory(Memory):
    """Copies on two streams of its own, one each way, before other work of the device. Any thread may call."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._out = torch.cuda.Stream(device, priority=-1)
        self._in = torch.cuda.Stream(device, priority=-1)

    def mark(self) -> Event:
        stream = torch.cuda.current_stream(self._device)
        with torch.cuda.device(self._device):
            event = torch.cuda.Event()
            event.record(stream)
        return event

    def adopt(self) -> None:
        torch.cuda.set_device(self._device)
        self._in.query()  # where threads begin with it already, only a call to it makes it theirs

    def passed(self, event: Event) -> bool:
        with torch.cuda.device(self._device):
            return bool(event.query())

    def copy_out(self, span: torch.Tensor, buffer: Buffer, after: Event) -> None:
        self._copy(self._out, span, buffer.memory[: len(span)], buffer, after)

    def copy_in(self, buffer: Buffer, span: torch.Tensor, after: Event) -> None:
        self._copy(self._in, buffer.memory[: len(span)], span, buffer, after)

    def _copy(
        self, stream: torch.cuda.Stream, source: torch.Tensor, target: torch.Tensor, buffer: Buffer, after: Event
    ) -> None:
        with torch.cuda.device(self._device), torch.cuda.stream(stream), torch.no_grad():
            stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            buffer.copied.record(stream)

    def pinned(self, nbytes: int) -> Buffer:
        with torch.cuda.device(self._device):
            memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            return Buffer(memory, memory.numpy(), torch.cuda.Event())


class Aside:
    """A stream beside those of the program, for what follows from messages while the program computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)

    def follow(self) -> None:
        """What comes next on it comes after all that the caller has given to the device so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    @contextmanager
    def around(self) -> Iterator[None]:
        """What is done inside, on whichever thread, is done on it."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What the caller gives to the device from now on comes after all that is on it."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


@cache
def aside(device: torch.device) -> Aside:
    """The one of `device`."""
    return Aside(device)
