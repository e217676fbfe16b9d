"""The process's MPI: what may enter it, and who moves its messages along.

Most MPI libraries move large messages only inside MPI calls, so a message posted before a forward pass would stand
still until somebody asks for it. One thread per process asks, some thousand times a second while something is under way
and not at all otherwise, nor while another thread waits and asks by itself. Every MPI call of the process stands
behind one lock, and none of them blocks: deadlines hold everywhere, and a library without MPI_THREAD_MULTIPLE needs no
more than MPI_THREAD_SERIALIZED.

Under `mpirun --with-ft ulfm` Open MPI tells of a dead process instead of ending the job, and the communicator can be
made anew without it: revoke, agree and shrink of MPI's user-level failure mitigation.
"""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np

from ...errors import PeerDied, PeerLost, PeerTimeout
from ...observe.ending import abort
from ...recovery.survival import Lasting
from ..flight import Flight
from ..pacing import SHORTEST, Habits
from .gpu.routes import Routes
from .parcels import Line, Parcel
from .start import before_finalize, initialise, own_communicator, ranks_of_this_host

if TYPE_CHECKING:
    from mpi4py import MPI

    from .gpu.routes import Route

FAULT_TOLERANT = "OMPI_MCA_mpi_ft_enable"
"""What mpirun --with-ft ulfm sets to 1."""

LAST_WAIT = 5.0
"""Seconds for what is still under way when the interpreter exits: the last round of a run that did not settle."""


class Engine(Lasting):
    """The process's MPI: one communicator of our own, one lock, and the thread that moves messages along.

    Attributes:
        places: what the communicator calls each rank of the job that is left.
        near: ranks of the job on this host, spoken to through shared memory; this one is among them.
        routes: how tensors of devices travel.
        habits: how long batches take.
    """

    _shared: Engine | None = None

    @classmethod
    def shared(cls, timeout: float) -> Engine:
        """MPI is one per process, and so is this."""
        if cls._shared is None:
            cls._shared = cls(timeout)
        return cls._shared

    def __init__(self, timeout: float) -> None:
        self.outlives = os.environ.get(FAULT_TOLERANT) == "1"
        if self.outlives:
            # MPI_Finalize otherwise ends in a barrier, which a dead process may keep from ending.
            os.environ.setdefault("OMPI_MCA_async_mpi_finalize", "1")
        self.mpi = initialise(timeout)
        self._byte = self.mpi.BYTE
        self.lock = threading.Lock()
        self.comm = own_communicator(self.mpi, timeout)
        super().__init__(self.comm.size)
        self.rank = self.comm.rank
        self.timeout = timeout
        self.places = {rank: rank for rank in range(self.size)}
        self.near = ranks_of_this_host(self.mpi, self.comm, timeout)
        self.routes = Routes(self.mpi, self.comm)
        self.habits = Habits()
        self._queues: defaultdict[Line, deque[Parcel]] = defaultdict(deque)
        self._aloft: set[Flight] = set()
        self._waiting = 0
        self._work = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        before_finalize(self.mpi, self._rest)
        atexit.register(self.stop)  # before mpi4py finalises MPI

    def died(self, error: Exception) -> bool:
        """Whether MPI says that a process has ended, or that the communicator was revoked for it."""
        if not (self.outlives and isinstance(error, self.mpi.Exception)):
            return False
        ends = self.mpi.ERR_PROC_FAILED, self.mpi.ERR_PROC_FAILED_PENDING, self.mpi.ERR_REVOKED
        return error.Get_error_class() in ends

    def revoke(self) -> None:
        with self.lock:
            if not self.comm.Is_revoked():
                self.comm.Revoke()
        # Now each flight ends, in an error or because it had arrived. None may be left to be moved along by the other
        # thread, onto the communicator that takes this one's place, or to be written into.
        deadline = time.monotonic() + self.timeout
        while self._aloft:
            self.advance()
            if time.monotonic() > deadline:
                raise PeerTimeout(
                    f"rank {self.rank} could not break off its messages in {self.timeout:g} s after a death"
                )
            time.sleep(1e-4)

    def agree(self, done: bool) -> bool:
        flag = np.array([done], dtype=np.int32)
        deadline = time.monotonic() + self.timeout
        try:
            with self.lock:
                request = self.comm.Iagree(flag)
            while not self._tested(request):
                if time.monotonic() > deadline:
                    raise PeerTimeout(
                        f"rank {self.rank} waited {self.timeout:g} s for the {self.size} ranks to agree after one of "
                        "them died: does every rank still call step()?"
                    )
                time.sleep(1e-4)
        except self.mpi.Exception:  # on all ranks alike: one of them died and did not answer
            return False
        return bool(flag[0])

    def _tested(self, request: MPI.Request) -> bool:
        with self.lock:
            return bool(request.Test())

    def shrink(self) -> set[int]:
        # Ishrink of Open MPI 5.0 fails when a process has died; but everybody is here, so this does not block for long.
        with self.lock, self._at_most(self.timeout, 1, "the others to meet without the dead"):
            new = cast("MPI.Intracomm", self.comm.Shrink())
            before, after = self.comm.Get_group(), new.Get_group()
            kept = self.mpi.Group.Translate_ranks(after, range(after.size), before)
            ranks = {place: rank for rank, place in self.places.items()}
            gone = set(self.places) - {ranks[place] for place in kept}
            self.places = {ranks[place]: number for number, place in enumerate(kept)}
            new.Set_errhandler(self.mpi.ERRORS_RETURN)
            self.comm = new
            self._queues.clear()
        return gone

    def isend(self, memory: object, line: Line) -> MPI.Request:
        """Start sending `memory`; the caller holds the lock."""
        return self.comm.Isend([memory, self._byte], line.place, line.tag)

    def irecv(self, memory: object, line: Line) -> MPI.Request:
        """Let `memory` be filled; the caller holds the lock."""
        return self.comm.Irecv([memory, self._byte], line.place, line.tag)

    def post(self, parcel: Parcel) -> None:
        """Put `parcel` behind what waits on the same line; the caller holds the lock."""
        queue = self._queues[parcel.line]
        queue.append(parcel)
        if len(queue) > 1:
            return  # what is first has been asked, and is for whoever moves it along
        try:
            self.dispatch(parcel.line)
        except Exception:
            del self._queues[parcel.line]  # nobody moves it along
            raise

    def dispatch(self, line: Line) -> None:
        """Hand MPI what it may have of `line`, in order; the caller holds the lock."""
        queue = self._queues[line]
        while queue and queue[0].post(self):
            queue.popleft().posted = True
        if not queue:
            del self._queues[line]  # channels come and go, and each has lines of its own

    def holds(self, parcel: Parcel) -> bool:
        """Whether `parcel` waits on its line; the caller holds the lock."""
        return parcel in self._queues.get(parcel.line, ())

    def drive(self, flight: Flight, *, awaited: bool = False) -> None:
        """Move `flight` along in the background until it has landed; by who waits for it where that is at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gossip-mpi-progress", daemon=True)
            self._thread.start()
        self._aloft.add(flight)
        if not (awaited or self._waiting):  # in this order: who stops waiting looks at what is aloft after that
            self._work.set()

    def forget(self, flight: Flight) -> None:
        """`flight` has landed."""
        self._aloft.discard(flight)

    def _run(self) -> None:
        mine: Route | None = None
        while not self._stopped:
            if not self._aloft or self._waiting:
                self._work.clear()
                if not self._stopped and (not self._aloft or self._waiting):  # still, after the line above
                    self._work.wait()
                continue
            time.sleep(max(self.interval(), 2e-4))
            if (route := self.routes.latest) is not None and route is not mine:
                route.memory.adopt()  # for what MPI itself asks of the device
                mine = route
            if not self._waiting:
                self.advance()

    def interval(self) -> float:
        """Seconds after which to ask again for what is under way."""
        return min((flight.interval(math.inf) for flight in list(self._aloft)), default=SHORTEST)

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
            self._aloft -= {flight for flight in list(self._aloft) if flight.landed is not None}
            if self._aloft and not self._waiting:
                self._work.set()

    @staticmethod
    def _settled(flight: Flight) -> bool:
        try:
            return flight.done()
        except PeerDied:
            return flight.over()
        except PeerLost:
            return True  # the flight keeps its error for the rank's own thread

    def stop(self) -> None:
        """End the thread, and everything under way: MPI must not write into memory that the interpreter frees."""
        self._rest()
        if self.outlives and not self.mpi.Is_finalized():
            self._finalize()

    def _rest(self) -> None:
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

    def _finalize(self) -> None:
        """MPI_Finalize, which may wait for a dead process for ever: then this one ends without, its work being done."""
        with self._at_most(LAST_WAIT, 0):
            self.mpi.Finalize()

    @contextmanager
    def _at_most(self, seconds: float, code: int, whom: str = "") -> Iterator[None]:
        """Around a call of MPI that blocks: the process ends with `code` when it takes longer."""
        ended = threading.Event()

        def end() -> None:
            if not ended.wait(seconds):
                abort(code, whom and f"rank {self.rank} waited {seconds:g} s for {whom}", alone=True)

        threading.Thread(target=end, name="gossip-mpi-end", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
