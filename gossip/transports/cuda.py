"""Memory of a CUDA or ROCm device, which torch calls by one name."""

from __future__ import annotations

import torch

from .staging import Buffer, Event, Memory


class CudaMemory(Memory):
    """Copies on two streams of its own, one each way, before other work of the device. Any thread may call.

    A thread begins with device 0, and what it asks of CUDA is asked of that: so each call says which one is meant.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._out = torch.cuda.Stream(device, priority=-1)
        self._in = torch.cuda.Stream(device, priority=-1)

    def mark(self) -> Event:
        stream = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(stream):
            event = torch.cuda.Event()
            event.record(stream)
        return event

    def passed(self, event: Event) -> bool:
        with torch.cuda.device(self._device):
            return bool(event.query())

    def copy_out(self, span: torch.Tensor, buffer: Buffer, after: Event) -> None:
        self._copy(self._out, span, buffer.memory[: len(span)], buffer, after)

    def copy_in(self, buffer: Buffer, span: torch.Tensor, after: Event) -> None:
        self._copy(self._in, buffer.memory[: len(span)], span, buffer, after)

    @staticmethod
    def _copy(
        stream: torch.cuda.Stream, source: torch.Tensor, target: torch.Tensor, buffer: Buffer, after: Event
    ) -> None:
        with torch.cuda.stream(stream), torch.no_grad():
            stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            buffer.copied.record(stream)

    def pinned(self, nbytes: int) -> Buffer:
        with torch.cuda.device(self._device):
            memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            return Buffer(memory, memory.numpy(), torch.cuda.Event())
