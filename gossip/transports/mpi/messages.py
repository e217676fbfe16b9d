"""The messages of one tensor over MPI, to a peer or from one, and how they wait for their turn.

MPI matches the messages of one line in the order in which it gets them. A message may have to wait: for its receiver to
be ready, for a device, or for a buffer. Then it holds up what was posted behind it on its line, and nothing else.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from mpi4py import MPI

PIECE = 1 << 30  # bytes in one MPI message at most: the counts of most libraries are 32-bit, and buckets may be larger

EAGER = 65_280
"""Bytes up to which Open MPI sends a message over TCP eagerly, by its defaults: without asking the receiver first.

The answer to that question queues behind all that the receiver itself is sending, some megabytes. So a tensor ends in a
few eager pieces. They keep the line busy while the question about the rest, posted before them, is answered. A tensor
of one piece leaves at once.
"""

FEW = 16
"""Post at most this many pieces inline, and of more pieces this many receives and no sends. The progress thread, or
the next wait, posts the rest."""

NOTHING = np.empty(0, dtype=np.uint8)  # the content of a clear-to-send word


class Line(NamedTuple):
    """The unit of MPI's order: whether messages come in, the peer's rank in the communicator, and the tag."""

    inward: bool
    place: int
    tag: int


class Wire(Protocol):
    """The engine, as messages see it."""

    comm: MPI.Intracomm
    byte: MPI.Datatype


class Message(ABC):
    """One tensor on its way. Every call is made under the engine's lock."""

    staged = False  # it travels through buffers, and has to be moved along

    def __init__(self, rank: int, line: Line) -> None:
        self.rank, self.line = rank, line  # the job's rank of the peer, and the line whose order it keeps
        self.posted = False  # all of its pieces have been posted to MPI
        self.requests: list[MPI.Request] = []  # of the pieces posted so far, those that have to be tested
        self.word: MPI.Request | None = None  # of the clear-to-send word, where there is one

    @abstractmethod
    def post(self, wire: Wire) -> bool:
        """First of its line now: post as much as possible, and say whether that was all."""


class Plain(Message):
    """Memory that MPI reads or writes itself.

    `asking`: the receiver first sends a clear-to-send word. `ready`: the device has come to the post.
    """

    def __init__(
        self,
        rank: int,
        line: Line,
        pieces: Sequence[object],
        asking: bool = False,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(rank, line)
        self._pieces, self._asking, self._is_ready = pieces, asking, ready


class PlainSend(Plain):
    """Leaves when the word has come, if one is expected."""

    def post(self, wire: Wire) -> bool:
        _, place, tag = self.line
        if self._asking and self.word is None:
            self.word = wire.comm.Irecv([NOTHING, wire.byte], place, tag + 1)
            if len(self._pieces) > FEW:
                return False
        if not (self._is_ready() and (self.word is None or self.word.Test())):
            return False
        for piece in self._pieces[len(self.requests) :]:
            self.requests.append(wire.comm.Isend([piece, wire.byte], place, tag))
        return True


class PlainReceive(Plain):
    """Posts its receives, the first of them before the word that asks for the message."""

    def post(self, wire: Wire) -> bool:
        _, place, tag = self.line
        if not self._is_ready():
            return False
        asks_now = self._asking and self.word is None
        for piece in self._pieces[len(self.requests) : FEW if asks_now else None]:
            self.requests.append(wire.comm.Irecv([piece, wire.byte], place, tag))
        if asks_now:
            self.word = wire.comm.Isend([NOTHING, wire.byte], place, tag + 1)
        return len(self.requests) == len(self._pieces)


def pieces(tensor: torch.Tensor, most: int) -> list[npt.NDArray[np.uint8]]:
    """The tensor's memory as MPI takes it, whatever its dtype and size; up to `most` pieces at its end are eager.

    Eager pieces are of one size, so that the arrival of the next one can be predicted.
    """
    assert tensor.is_contiguous(), "a transport moves dense memory"
    memory = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    rest = max(0, memory.size - EAGER * most)
    count = -(-(memory.size - rest) // EAGER)
    starts = [*range(0, rest, PIECE), *(rest + n * (memory.size - rest) // count for n in range(count))] or [0]
    return [memory[start:stop] for start, stop in itertools.pairwise([*starts, memory.size])]
