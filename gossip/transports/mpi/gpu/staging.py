"""Tensors of a device through pinned memory of the host, in chunks: one is copied while MPI moves another.

A message going out has two buffers: while MPI reads one, the device fills the other with the next chunk. A message
coming in has two as well: while MPI fills one, the other is copied to the device. No thread waits for the device: each
copy ends in an event, and a poll of the flight polls its events too.

A message takes its buffers when it is posted, so none waits for those of another. Its flight gives them back when it
has been waited for. So their number follows from the program alone: a training loop pins memory in its first
steps, and not in a later one that the network made slower.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..messages import Line, Message, Wire
from .cuda import Buffer, Event, Memory

if TYPE_CHECKING:
    from mpi4py import MPI

CHUNK = 8 << 20  # bytes of a device's tensor in one message


class Staged(Message):
    """A tensor that travels through at most two buffers."""

    staged = True

    def __init__(self, rank: int, line: Line, tensor: torch.Tensor, memory: Memory, mark: Event) -> None:
        super().__init__(rank, line)
        self.ended = False  # all of it has left or come, or nothing touches its memory and its buffers any more
        self.moved = 0.0  # when a chunk was last given to MPI or taken from it
        self.failure: Exception | None = None  # for which MPI carries no more of it, nor of those behind it on its line
        self._memory, self._mark = memory, mark
        self._ahead = deque(chunks(tensor))
        self._idle = memory.take(min(2, len(self._ahead)), min(CHUNK, tensor.nbytes)) if self._ahead else []
        self._with_mpi: deque[tuple[MPI.Request, Buffer, torch.Tensor]] = deque()
        self._copying: deque[tuple[Buffer, torch.Tensor]] = deque()

    def post(self, wire: Wire) -> bool:
        if self.failure is not None:
            raise self.failure
        return self._hand_over(wire)

    def move(self) -> bool:
        """Go on from one stage to the next, as far as that is possible now; whether it has ended."""
        self._go_on()
        if self.posted and not (self._with_mpi or self._copying):
            self._end()
        return self.ended

    def let_go(self) -> bool:
        """Failed, and with nothing left at MPI: whether the device has left its buffers too, which ends it."""
        assert self.failure is not None, "it could go on"
        if not self.ended and all(self._memory.passed(buffer.copied) for buffer, _ in self._copying):
            self._end()
        return self.ended

    @abstractmethod
    def _hand_over(self, wire: Wire) -> bool:
        """Post chunks as far as that is possible now; whether those were all."""

    @abstractmethod
    def _go_on(self) -> None:
        """Take chunks from MPI and from the device, and start the copies that this makes room for."""

    def give_back(self) -> None:
        """Ended: part with the buffers."""
        assert self.ended, "somebody may write into them"
        for buffer in self._idle:
            self._memory.give_back(buffer)
        self._idle.clear()

    def _end(self) -> None:
        self._idle += [*(entry[1] for entry in self._with_mpi), *(entry[0] for entry in self._copying)]
        for stage in (self._with_mpi, self._copying, self._ahead):
            stage.clear()
        self.requests = []
        self.ended = True

    def _start(self, start: Callable[..., MPI.Request], wire: Wire, buffer: Buffer, span: torch.Tensor) -> None:
        """Have MPI `start`, which is its Isend or Irecv, with a chunk."""
        request = start([buffer.array[: len(span)], wire.byte], self.line.place, self.line.tag)
        self._with_mpi.append((request, buffer, span))
        self._note()

    def _note(self) -> None:
        self.moved = time.perf_counter()
        self.requests = [entry[0] for entry in self._with_mpi]

    def _carried(self) -> tuple[Buffer, torch.Tensor] | None:
        """The oldest chunk that MPI has, where it is through with it."""
        try:
            if not (self._with_mpi and self._with_mpi[0][0].Test()):
                return None
        except Exception as error:
            self.failure = error  # asked again, a request that ended in an error seems to have ended well
            raise
        _, buffer, span = self._with_mpi.popleft()
        self._note()
        return buffer, span


class StagedSend(Staged):
    """Device, copy, buffer, wire. The first copies begin at once, whatever is ahead of it on its line."""

    def __init__(self, rank: int, line: Line, tensor: torch.Tensor, memory: Memory, mark: Event) -> None:
        super().__init__(rank, line, tensor, memory, mark)
        self._fill()

    def _fill(self) -> None:
        while self._idle and self._ahead:
            buffer, span = self._idle.pop(), self._ahead.popleft()
            self._memory.copy_out(span, buffer, self._mark)
            self._copying.append((buffer, span))

    def _hand_over(self, wire: Wire) -> bool:
        while self._copying and self._memory.passed(self._copying[0][0].copied):
            self._start(wire.comm.Isend, wire, *self._copying[0])
            self._copying.popleft()
        return not (self._copying or self._ahead)

    def _go_on(self) -> None:
        while (carried := self._carried()) is not None:
            self._idle.append(carried[0])
        self._fill()


class StagedReceive(Staged):
    """Wire, buffer, copy, device."""

    def _hand_over(self, wire: Wire) -> bool:
        while self._idle and self._ahead:
            self._start(wire.comm.Irecv, wire, self._idle[-1], self._ahead[0])
            self._idle.pop()
            self._ahead.popleft()
        return not self._ahead

    def _go_on(self) -> None:
        while self._copying and self._memory.passed(self._copying[0][0].copied):
            self._idle.append(self._copying.popleft()[0])
        while (carried := self._carried()) is not None:
            self._memory.copy_in(*carried, self._mark)
            self._copying.append(carried)


def chunks(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor's memory, (n,) uint8 each: of an empty one none, and nothing is sent."""
    assert tensor.is_contiguous(), "a transport moves dense memory"
    memory = tensor.detach().reshape(-1).view(torch.uint8)
    return [memory[start : start + CHUNK] for start in range(0, len(memory), CHUNK)]
