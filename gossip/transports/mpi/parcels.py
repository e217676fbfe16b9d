"""One tensor's messages over MPI, to a peer or from one, and how they wait until it is their turn.

MPI matches messages of one line in the order in which they are handed to it. So what cannot be handed over yet, for it
waits for a word of its receiver, for a device or for a buffer, holds up what was posted behind it on its line, and
nothing else.
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

PIECE = 1 << 30
"""Bytes in one MPI message at the most: the counts of most libraries are 32-bit, and buckets may be larger."""

EAGER = 65_280
"""A message of so many bytes leaves over TCP without MPI's own question to its receiver, by Open MPI's defaults.

That question is answered through the receiver's own sends, behind all that they have in its queues, some megabytes. So
a tensor ends in a few such pieces, which keep the line busy while the question about the rest, posted before them, is
answered. A tensor of one piece leaves at once.
"""

FEW = 16
"""Pieces that are handed over in the post, or of more so many receives and no sends. The rest is for whoever moves
messages along while the step goes on."""

NOTHING = np.empty(0, dtype=np.uint8)
"""What a word says: that it came is all."""


class Line(NamedTuple):
    """What MPI keeps in order: whether the messages come in, the peer as the communicator calls it, and the tag."""

    inward: bool
    place: int
    tag: int


class Wire(Protocol):
    """What hands messages to MPI: the engine."""

    def isend(self, memory: object, line: Line) -> MPI.Request:
        """Start sending `memory`."""

    def irecv(self, memory: object, line: Line) -> MPI.Request:
        """Let `memory` be filled."""


class Parcel(ABC):
    """One tensor on its way. Every call is made under the engine's lock.

    Attributes:
        peer: as the flight's transport numbers it.
        line: whose order its messages keep.
        posted: all of its messages have been handed to MPI.
        requests: of those that have been, as far as anybody has still to ask for them.
        word: the request of the word that there is room, on its way to the sender; None where nobody asks.
        staged: between its messages it has to be moved along.
    """

    staged = False

    def __init__(self, peer: int, line: Line) -> None:
        self.peer = peer
        self.line = line
        self.posted = False
        self.requests: list[MPI.Request] = []
        self.word: MPI.Request | None = None

    @abstractmethod
    def post(self, wire: Wire) -> bool:
        """First of its line now: hand over what can be, and say whether that was all."""


def at_once() -> bool:
    """When there is nothing to wait for."""
    return True


class Plain(Parcel):
    """Leaves as it lies in memory, or arrives where it will lie, once `ready` says that it may.

    `asking`: it leaves when a word has come that there is room, which the other end sends.
    """

    def __init__(
        self, peer: int, line: Line, pieces: Sequence[object], ready: Callable[[], bool] = at_once, asking: bool = False
    ) -> None:
        super().__init__(peer, line)
        self._pieces, self._ready, self._asking = pieces, ready, asking

    def post(self, wire: Wire) -> bool:
        return self._receive(wire) if self.line.inward else self._send(wire)

    def _send(self, wire: Wire) -> bool:
        if self._asking and self.word is None:
            self.word = wire.irecv(NOTHING, Line(True, self.line.place, self.line.tag + 1))
            if len(self._pieces) > FEW:
                return False
        if not (self._ready() and (self.word is None or self.word.Test())):
            return False
        for piece in self._pieces[len(self.requests) :]:
            self.requests.append(wire.isend(piece, self.line))
        return True

    def _receive(self, wire: Wire) -> bool:
        if not self._ready():
            return False
        asks_now = self._asking and self.word is None
        for piece in self._pieces[len(self.requests) : FEW if asks_now else None]:
            self.requests.append(wire.irecv(piece, self.line))
        if asks_now:
            self.word = wire.isend(NOTHING, Line(False, self.line.place, self.line.tag + 1))
        return len(self.requests) == len(self._pieces)


def pieces(tensor: torch.Tensor, most: int) -> list[npt.NDArray[np.uint8]]:
    """The tensor's memory as MPI takes it, whatever its dtype and size; up to `most` pieces at its end are eager.

    These are as large as one another, so that what comes next can be foretold.
    """
    assert tensor.is_contiguous(), "a transport moves dense memory"
    memory = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    rest = max(0, memory.size - EAGER * most)
    count = -(-(memory.size - rest) // EAGER)
    starts = [*range(0, rest, PIECE), *(rest + n * (memory.size - rest) // count for n in range(count))] or [0]
    return [memory[start:stop] for start, stop in itertools.pairwise([*starts, memory.size])]
