"""The process's MPI: one communicator, one lock, the queues of messages, and the progress thread.

Most MPI libraries move large messages only inside MPI calls. A message posted before a forward pass would stand still
until some thread polls for it. One progress thread per process polls, some thousand times a second while something is
under way. It rests otherwise, and while another thread waits and polls by itself. Every MPI call of the process stands
behind one lock, and none of them blocks. So deadlines hold everywhere, and MPI_THREAD_SERIALIZED is enough.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...errors import PeerDied, PeerLost
from ..flight import SHORTEST, Flight
from .gpu.routes import Route, Routes
from .messages import Line, Message
from .start import all_come, initialise, ranks_of_this_host

if TYPE_CHECKING:
    from mpi4py import MPI

LAST_WAIT = 5.0
"""Seconds for messages in flight when the interpreter exits: the last round of a run that did not settle."""


class Engine:
    """The process's MPI; there is one."""

    def __init__(self, timeout: float, outlives: bool) -> None:
        self.outlives = outlives  # MPI tells of a dead process instead of ending the job
        self.mpi = initialise(timeout)
        self.byte = self.mpi.BYTE
        self.lock = threading.Lock()
        self.comm: MPI.Intracomm  # apart from other users of MPI in this process
        self.comm, request = self.mpi.COMM_WORLD.Idup()
        all_come(self.mpi, request, timeout)
        self.rank = self.comm.rank
        self.timeout = timeout
        self.places = {rank: rank for rank in range(self.comm.size)}  # rank of the job -> rank of `comm`; of the living
        self.near = ranks_of_this_host(self.mpi, self.comm, timeout)  # this rank is among them
        self.routes: Routes | None = None  # how tensors of devices travel; None before the first of them
        self.over: Callable[[Flight], bool] = lambda flight: True  # a broken-off flight touches its tensors no more
        self.queues: defaultdict[Line, deque[Message]] = defaultdict(deque)  # no queue is empty
        self._in_flight: set[Flight] = set()
        self._waiting = 0
        self._work = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        # MPI-4.1, section 11.2.4: MPI_Finalize, also the program's own, first frees the attributes of MPI_COMM_SELF.
        self.mpi.COMM_SELF.Set_attr(self.mpi.Comm.Create_keyval(delete_fn=lambda *_: self.stop()), None)
        atexit.register(self.stop)  # before mpi4py finalises MPI

    def died(self, error: Exception) -> bool:
        """Whether MPI says that a process has ended, or that the communicator was revoked for it."""
        if not (self.outlives and isinstance(error, self.mpi.Exception)):
            return False
        ends = self.mpi.ERR_PROC_FAILED, self.mpi.ERR_PROC_FAILED_PENDING, self.mpi.ERR_REVOKED
        return error.Get_error_class() in ends

    # -- messages that wait for their turn; the caller holds the lock --------------------------------------------------

    def post(self, message: Message) -> None:
        """Put `message` behind what waits on the same line."""
        if message.line not in self.queues and message.post(self):
            message.posted = True
        else:  # the first of a queue has been polled, and is for the thread that moves it along
            self.queues[message.line].append(message)

    def dispatch(self, line: Line) -> None:
        """Post what is possible of `line`, in order."""
        queue = self.queues[line]
        while queue and queue[0].post(self):
            queue.popleft().posted = True
        if not queue:
            del self.queues[line]  # channels come and go, and each has lines of its own

    # -- who moves flights along ---------------------------------------------------------------------------------------

    def drive(self, flight: Flight, *, awaited: bool = False) -> None:
        """Move `flight` along in the background until it has landed; `awaited`: the caller waits for it at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gossip-mpi-progress", daemon=True)
            self._thread.start()
        self._in_flight.add(flight)
        if not (awaited or self._waiting):  # in this order: a thread that stops waiting reads `_in_flight` after that
            self._work.set()

    def forget(self, flight: Flight) -> None:
        """Move `flight` along no more."""
        self._in_flight.discard(flight)

    def _run(self) -> None:
        adopted: Route | None = None
        while not self._stopped:
            if not self._in_flight or self._waiting:
                self._work.clear()
                if not self._stopped and (not self._in_flight or self._waiting):  # still, after the line above
                    self._work.wait()
                continue
            time.sleep(max(self.interval(), 2e-4))
            if self.routes is not None and (route := self.routes.latest) is not None and route is not adopted:
                route.memory.adopt()  # for what MPI itself asks of the device
                adopted = route
            if not self._waiting:
                self.advance()

    def interval(self) -> float:
        """The poll interval for everything under way."""
        return min((flight.interval(math.inf) for flight in list(self._in_flight)), default=SHORTEST)

    def advance(self, but: Flight | None = None) -> bool:
        """Poll everything under way once, `but` for what the caller polls itself; whether something is left."""
        for flight in list(self._in_flight):
            if flight is but:
                continue
            try:
                has_settled = flight.done()
            except PeerDied:
                has_settled = self.over(flight)
            except PeerLost:
                has_settled = True  # the flight keeps its error for the rank's own thread
            if has_settled:
                self._in_flight.discard(flight)
        return bool(self._in_flight)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The calling thread polls everything meanwhile, and the progress thread rests: one that polls is enough."""
        with self.lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self.lock:
                self._waiting -= 1
            self._in_flight -= {flight for flight in list(self._in_flight) if flight.landed is not None}
            if self._in_flight and not self._waiting:
                self._work.set()

    def stop(self) -> None:
        """End the thread and everything under way: MPI must not write into memory that the interpreter frees."""
        self._stopped = True
        self._work.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        deadline = time.monotonic() + LAST_WAIT
        while self.advance() and time.monotonic() < deadline:  # a relay that goes on adds its next leg
            time.sleep(2e-4)
        for flight in list(self._in_flight):
            flight.cancel()
