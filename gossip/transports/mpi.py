"""MPI by mpi4py: non-blocking point-to-point on the tensors' own memory.

A large message leaves when its receiver has said that there is room for it. Sent at once, it would share its
receiver's link with those of ranks that are a round ahead, and delay the one that is waited for. MPI libraries ask too,
but the answer then queues behind what the receiver itself has begun to send, over one connection for as long as that
whole message takes. Here the word goes out with the receive, before anything of the same batch is sent. Where all ranks
wait for the same step, messages of different steps hardly meet, and nobody asks.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import PeerDied, PeerLost
from .base import Transport
from .flight import Batch, Flight
from .mpi_engine import Engine, Parcel

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

ASKED, UNASKED = 256, 16
"""Pieces at the most: 17 MB where the receiver waits for them, and 1 MB where it may have to keep what comes early.

None on the same host, where memory is shared: one copy of the whole is faster there than any pieces.
"""

NOTHING = np.empty(0, dtype=np.uint8)
"""What a word says: that it came is all."""


class MpiFlight(Flight):
    """Requests of one batch; receives are posted before sends, so that data finds its place when it arrives."""

    transport: MpiTransport

    def __init__(self, transport: MpiTransport, sends: Batch, receives: Batch, subject: str, *, asking: bool) -> None:
        super().__init__(transport, sends, receives, subject)
        self._failure: Exception | None = None
        self._landing: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        engine, ranks = transport.engine, self.ranks
        most = ASKED if asking else UNASKED
        eager = {peer: 0 if ranks[peer] in engine.near else most for peer in (*receives, *sends)}
        room = [
            (peer, _pieces(self._room(peer, tensor), eager[peer])) for peer in receives for tensor in receives[peer]
        ]
        cargo = [(peer, _pieces(_on_host(tensor), eager[peer])) for peer in sends for tensor in sends[peer]]
        self._requests: list[MPI.Request] = []
        self._receives: list[tuple[int, MPI.Request]] = []
        self._sends: list[tuple[int, Parcel]] = []
        self._held: list[Parcel] = []
        self._died = False
        self._due = dict.fromkeys(receives, 0)  # messages of each
        self._came: set[int] = set()  # requests that ended well, of a flight that was broken off
        try:
            with engine.lock:
                self._post(room, cargo, asking)
        except engine.mpi.Exception as error:
            if not engine.died(error):
                raise PeerLost(f"rank {transport.me} could not post {subject}: MPI says {error}") from error
            # Said by whoever waits for it; what was posted before ends once that is known.
            self._died, self._failure = True, error
        if self._requests or self._held:
            engine.drive(self)

    def _post(
        self, room: list[tuple[int, list[np.ndarray]]], cargo: list[tuple[int, list[np.ndarray]]], asking: bool
    ) -> None:
        engine, tag = self.transport.engine, 2 * self.transport.number
        comm, byte = engine.comm, engine.mpi.BYTE
        place = {peer: engine.places[self.ranks[peer]] for peer in (*self.receives, *self.sends)}
        for peer, pieces in room:
            self._due[peer] += len(pieces)
        for peer, pieces in room:
            for piece in pieces:
                self._requests.append(comm.Irecv([piece, byte], place[peer], tag))
                self._receives.append((peer, self._requests[-1]))
        for peer, pieces in room:
            if asking and len(pieces) > 1:
                self._requests.append(comm.Isend(NOTHING, place[peer], tag + 1))
        for peer, pieces in cargo:
            word = comm.Irecv(NOTHING, place[peer], tag + 1) if asking and len(pieces) > 1 else None
            parcel = Parcel(place[peer], tag, pieces, word)
            self._sends.append((peer, parcel))
            self._held.append(parcel)
        for parcel in self._held:
            engine.send(parcel)

    def _room(self, peer: int, tensor: torch.Tensor) -> torch.Tensor:
        """The memory that MPI fills: the tensor's own, or pinned host memory that is copied to it on landing."""
        if tensor.device.type == "cpu":
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._landing.append((peer, tensor, host))
        return host

    def done(self) -> bool:
        if self.landed is None and self._failure is None:
            with self.transport.engine.lock:
                if self.landed is None and self._failure is None:  # the other thread may have asked meanwhile
                    self._ask()
        if self._failure is not None:
            raise (PeerDied if self._died else PeerLost)(
                f"rank {self.transport.me} lost a message of {self.subject}: MPI says {self._failure}"
            ) from self._failure
        return self.landed is not None

    def _ask(self) -> None:
        engine = self.transport.engine
        # What became of each request is only of interest where a rank may go on without others.
        statuses = [engine.mpi.Status() for _ in self._requests] if engine.parties else None
        try:
            self._let_go()
            if statuses is not None:
                statuses += [engine.mpi.Status() for _ in self._requests[len(statuses) :]]
            if engine.mpi.Request.Testall(self._requests, statuses) and not self._held:
                for _, tensor, host in self._landing:
                    tensor.copy_(host)
                self.landed = time.perf_counter()
                engine.forget(self)
        except (engine.mpi.Exception, RuntimeError) as error:  # kept for the rank's own thread: this may be the other
            errors = [status.Get_error() for status in statuses or ()]
            for request, wrong in zip(self._requests, errors, strict=False):
                if request == engine.mpi.REQUEST_NULL and not wrong:
                    self._came.add(id(request))
            self._died = engine.died(error, errors)
            self._failure = error

    def over(self) -> bool:
        with self.transport.engine.lock:
            left = [request for request in self._every_request() if not self._over(request)]
        return not left

    def _every_request(self) -> list[MPI.Request]:
        words = [parcel.word for _, parcel in self._sends if parcel.word is not None]
        sends = [request for _, parcel in self._sends for request in parcel.requests or ()]
        return [*self._requests, *words, *sends]

    def _over(self, request: MPI.Request) -> bool:
        null = self.transport.engine.mpi.REQUEST_NULL
        if request == null:
            return True
        try:
            if request.Test():
                self._came.add(id(request))
        except self.transport.engine.mpi.Exception:
            return bool(request == null)  # ended in an error, or asked again
        return bool(request == null)

    def arrived(self) -> set[int]:
        if self.landed is not None:
            return set(self.receives)
        come = Counter(peer for peer, request in self._receives if id(request) in self._came)
        arrived = {peer for peer, due in self._due.items() if come[peer] == due}
        for peer, tensor, host in self._landing:
            if peer in arrived:
                tensor.copy_(host)
        return arrived

    def _let_go(self) -> None:
        """Send what has room by now."""
        held = []
        for parcel in self._held:
            if parcel.requests is None:
                self.transport.engine.dispatch(parcel)
            if parcel.requests is None:
                held.append(parcel)
            else:
                self._requests += parcel.requests
        self._held = held

    def pause(self, waited: float, left: float) -> None:
        self.transport.engine.advance(but=self)
        super().pause(waited, left)

    def cancel(self) -> None:
        words = [parcel.word for parcel in self._held if parcel.word is not None]
        with self.transport.engine.lock:
            for request in (*words, *(request for _, request in self._receives)):
                if not request.Test():  # which also tells of one that has landed already
                    request.Cancel()
                    request.Test()

    def missing(self) -> tuple[list[int], list[int]]:
        with self.transport.engine.lock:
            unheard = {peer for peer, request in self._receives if not request.Test()}
            untaken = {
                peer
                for peer, parcel in self._sends
                if parcel.requests is None or not all(request.Test() for request in parcel.requests)
            }
        return sorted(unheard), sorted(untaken)


class MpiTransport(Transport):
    """Some ranks of the communicator, told apart from other groups and channels by the tag of their messages."""

    name = "mpi"

    def __init__(self, timeout: float) -> None:
        self.engine = Engine.shared(timeout)
        super().__init__(self.engine.rank, self.engine.size, timeout, self.engine)
        with self.engine.lock:  # MPI promises tags up to 32,767; a number takes two, the other for words
            self.most_numbers = int(self.engine.comm.Get_attr(self.engine.mpi.TAG_UB) or 32767) // 2

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> MpiFlight:
        return MpiFlight(self, sends, receives, subject, asking=not together)

    def waiting(self) -> AbstractContextManager[object]:
        return self.engine.waiting()

    def drive(self, flight: Flight) -> Flight:
        self.engine.drive(flight)
        return flight

    def end_job(self, code: int) -> None:
        self.engine.mpi.COMM_WORLD.Abort(code)


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or its copy in pinned memory: an MPI that reads device memory is not taken for granted."""
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor)  # blocks until the values are there: MPI knows nothing of streams
    return host


def _pieces(tensor: torch.Tensor, most: int) -> list[np.ndarray]:
    """The tensor's memory as MPI takes it, whatever its dtype and size; `most` pieces at its end are eager."""
    assert tensor.is_contiguous(), "a transport moves dense memory"
    memory = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    rest = max(0, memory.size - EAGER * most)
    starts = [*range(0, rest, PIECE), *range(rest, memory.size, EAGER)] or [0]
    return [memory[start:stop] for start, stop in itertools.pairwise([*starts, memory.size])]
