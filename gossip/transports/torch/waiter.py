"""Batches of Gloo, which moves data in the background but reports completion only to a thread that waits.

A batch is waited for in parts. A part has one peer that it receives from and one that it sends to, so that no message
waits for another peer's. Of several batches between the same peers one is waited for after the other.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch.distributed as dist

from ...errors import PeerLost
from ..deadlines import lacking
from ..flight import Batch, Channel, Flight

LAST_WAIT = 5.0
"""Seconds for messages in flight when the script ends, as over MPI. A thread whose peer sends later is left behind."""

LINGER = 10.0  # seconds for which a thread without work stays, for the next step may come so late


class Message(NamedTuple):
    """All tensors that go to one peer in a batch, or come from one."""

    inward: bool
    rank: int  # of the peer, as the job numbers it
    works: Sequence[dist.Work]  # of its tensors, and of the acknowledgement that its sender waits for
    answer: Callable[[], None] | None = None  # sends the acknowledgement once it has arrived


class Part(NamedTuple):
    """The messages that one thread waits for: one that comes and one that goes, in this order, or one of the two."""

    inward: Message | None
    outward: Message | None


class WaitedFlight(Flight):
    """A batch on the CPU: landed when the threads that wait for its parts say so."""

    def __init__(self, channel: Channel, sends: Batch, receives: Batch, subject: str, parts: Sequence[Part]) -> None:
        super().__init__(channel, sends, receives, subject)
        self.ended = threading.Event()  # landed or failed
        self.failure: Exception | None = None  # of one of its messages:
        self._failed: Message | None = None
        self._unheard = {part.inward.rank for part in parts if part.inward}
        self._untaken = {part.outward.rank for part in parts if part.outward}
        # Receiver of a message -> sender of the message that the same thread waits for before.
        self._behind = {part.outward.rank: part.inward.rank for part in parts if part.inward and part.outward}
        self._turn = threading.Lock()
        self._left = len(parts)
        if not parts:
            self._land()

    def _land(self) -> None:
        self.landed = time.perf_counter()
        self.ended.set()

    def wait_for(self, part: Part) -> bool:
        """Block until `part` has landed; whether this ends the flight. Called by one thread for each part."""
        for message in filter(None, part):
            try:
                for work in message.works:
                    work.wait()
            except Exception as error:  # for the rank's own thread
                with self._turn:
                    is_first = self._failed is None
                    if is_first:
                        self._failed, self.failure = message, error
                        self.ended.set()
                    return is_first
            (self._unheard if message.inward else self._untaken).discard(message.rank)
            if message.answer is not None:
                message.answer()
        with self._turn:
            self._left -= 1
            if not self._left:
                self._land()
            return not self._left

    def done(self) -> bool:
        if not self.ended.is_set():
            return False
        if self.failure is not None:
            raise PeerLost(
                f"rank {self.channel.me} lost a message of {self.subject}: it {lacking(self)}: torch.distributed says "
                f"{self.failure}"
            ) from self.failure
        return True

    def missing(self) -> tuple[list[int], list[int]]:
        if self._failed is not None:
            return ([self._failed.rank], []) if self._failed.inward else ([], [self._failed.rank])
        unheard = set(self._unheard)
        # Nothing is known of a send while the same thread waits for the receive before it.
        return sorted(unheard), sorted(rank for rank in set(self._untaken) if self._behind.get(rank) not in unheard)

    def pause(self, waited: float, left: float) -> None:
        self.ended.wait(left)


class Waiters:
    """Threads that wait, one for each line that has parts in flight.

    A line is the parts of one channel between the same peers, in order. When all of them have landed, a thread takes
    the next line; when none comes for `LINGER` seconds, it ends. So threads belong to no channel.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[tuple[WaitedFlight, Part]]] = {}  # lines that a thread waits for, or will
        self._next: queue.SimpleQueue[Hashable | None] = queue.SimpleQueue()
        self._idle = 0  # threads that no line has been handed to
        self._threads: set[threading.Thread] = set()
        self._turn = threading.Lock()
        self._registered = self._stopped = False

    def add(self, flight: WaitedFlight, part: Part) -> None:
        """Wait for a part of `flight`, behind all that was added to the same line."""
        line = (flight.channel.number, *(None if message is None else message.rank for message in part))
        with self._turn:
            if self._stopped:
                return  # another thread was posting: the process ends, and the flight is not waited for
            if line in self._lines:
                self._lines[line].append((flight, part))
                return
            self._lines[line] = deque([(flight, part)])
            self._next.put(line)
            if self._idle:
                self._idle -= 1
                return
            if not self._registered:
                self._registered = True
                atexit.register(self.stop)  # a thread that wakes inside Gloo while the interpreter goes down aborts it
            thread = threading.Thread(target=self._run, name="gossip-gloo-waiter", daemon=True)
            self._threads.add(thread)
            thread.start()

    def stop(self) -> None:
        """End all threads once what they wait for has landed."""
        atexit.unregister(self.stop)
        deadline = time.monotonic() + LAST_WAIT
        with self._turn:
            self._stopped = True
            threads = list(self._threads)
            for _ in threads:
                self._next.put(None)
        for thread in threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (line := self._take_line()) is not None:
            while self._wait_for_first(line):
                pass

    def _take_line(self) -> Hashable | None:
        """The next line, or None where the thread is to end."""
        with suppress(queue.Empty):
            return self._next.get(timeout=LINGER)
        with self._turn:
            with suppress(queue.Empty):
                return self._next.get_nowait()  # it came meanwhile
            self._idle -= 1
            self._threads.discard(threading.current_thread())
        return None

    def _wait_for_first(self, line: Hashable) -> bool:
        """Wait for the first part of `line`; False where there is none. Afterwards nothing here holds its flight."""
        with self._turn:
            if not self._lines[line]:
                del self._lines[line]
                self._idle += 1
                return False
            flight, part = self._lines[line].popleft()
        if flight.wait_for(part) and flight.follow is not None and not self._stopped:
            flight.follow()
        return True
