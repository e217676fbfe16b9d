"""Tensors of a device through pinned memory of the host, in chunks: one is copied while the wire carries another.

A message going out has two buffers: while the wire reads the one, the device fills the other with the next chunk. A
message coming in has two as well: while the wire fills the one, the other is copied to the device. No thread waits for
the device: each copy ends in an event, and whoever asks for the flight asks for the events too.

A message takes its buffers when it is posted, so none waits for what another one holds, and its flight gives them back
when somebody has waited for it. How many there are follows from the program alone: a training loop that posts and lands
alike in every step pins memory in its first ones, and not in a later one that the network made slower.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..messages import Line, Message, Wire

if TYPE_CHECKING:
    from mpi4py import MPI

CHUNK = 8 << 20
"""Bytes of a device's tensor in one message. Both ends cut alike, also where one of them is `direct`."""

LEAST = 1 << 12
"""Bytes of the smallest buffer; others have a power of two, so that messages of about one size share theirs."""

Event = Any
"""What a device calls a point in the order of its work: known to `Memory` alone."""


@dataclass(eq=False)
class Buffer:
    """Pinned memory of the host.

    Attributes:
        memory: its bytes, (n,) uint8.
        array: the same, as MPI takes them.
        copied: the event in which the last copy from or to it ends.
    """

    memory: torch.Tensor
    array: npt.NDArray[np.uint8]
    copied: Event


class Memory(ABC):
    """One device's memory: what was done on it by now, copies that nobody waits for, and buffers for them.

    Used under the engine's lock, by several threads. Nothing here waits for the device but `take`, when it has to make
    a buffer.

    Attributes:
        made: buffers that were made so far.
    """

    def __init__(self) -> None:
        self.made = 0
        self._idle: defaultdict[int, list[Buffer]] = defaultdict(list)

    def adopt(self) -> None:
        """The calling thread belongs to the device from now on, for calls that do not say which one they mean."""

    @abstractmethod
    def mark(self) -> Event:
        """The end of all work that the calling thread has given to the device."""

    @abstractmethod
    def passed(self, event: Event) -> bool:
        """Whether the device has come to `event`."""

    @abstractmethod
    def copy_out(self, span: torch.Tensor, buffer: Buffer, after: Event) -> None:
        """Start copying `span`, (n,) uint8 of the device, into `buffer`, after `after` and earlier copies out."""

    @abstractmethod
    def copy_in(self, buffer: Buffer, span: torch.Tensor, after: Event) -> None:
        """Start copying `buffer` into `span`, after `after` and earlier copies in."""

    @abstractmethod
    def pinned(self, nbytes: int) -> Buffer:
        """A new buffer. Slow."""

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


class Staged(Message):
    """A tensor that travels through buffers, two at the most.

    Attributes:
        ended: all of it has left or come, or nobody touches its memory and its buffers any more.
        moved: when a chunk was last given to MPI or taken from it.
        failure: why MPI does not carry the rest of it; whatever stands behind it on its line fails alike.
    """

    staged = True

    def __init__(self, rank: int, line: Line, tensor: torch.Tensor, memory: Memory, mark: Event) -> None:
        super().__init__(rank, line)
        self.ended = False
        self.moved = 0.0
        self.failure: Exception | None = None
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
        """Hand chunks to MPI, as far as that is possible now; whether it has had all."""

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

    def _keep(self, request: MPI.Request, buffer: Buffer, span: torch.Tensor) -> None:
        self._with_mpi.append((request, buffer, span))
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
        self.moved = time.perf_counter()
        self.requests = [entry[0] for entry in self._with_mpi]
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
            buffer, span = self._copying[0]
            self._keep(
                wire.comm.Isend([buffer.array[: len(span)], wire.byte], self.line.place, self.line.tag), buffer, span
            )
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
            buffer, span = self._idle[-1], self._ahead[0]
            self._keep(
                wire.comm.Irecv([buffer.array[: len(span)], wire.byte], self.line.place, self.line.tag), buffer, span
            )
            self._idle.pop()
            self._ahead.popleft()
        return not self._ahead

    def _go_on(self) -> None:
        while self._copying and self._memory.passed(self._copying[0][0].copied):
            self._idle.append(self._copying.popleft()[0])
        while (carried := self._carried()) is not None:
            buffer, span = carried
            self._memory.copy_in(buffer, span, self._mark)
            self._copying.append((buffer, span))


def chunks(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor's memory, (n,) uint8 each: of an empty one none, and nothing is sent."""
    assert tensor.is_contiguous(), "a transport moves dense memory"
    memory = tensor.detach().reshape(-1).view(torch.uint8)
    return [memory[start : start + CHUNK] for start in range(0, len(memory), CHUNK)]
