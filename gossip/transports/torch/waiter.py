"""Batches of Gloo, which moves data in the background but says so only to a thread that waits.

A batch is waited for in parts. A part has one peer that it receives from and one that it sends to, so that no message
waits for another peer's. Of several batches between the same peers one is waited for after the other.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from ...errors import PeerLost
from ..flight import Batch, Flight

if TYPE_CHECKING:
    from .transport import DistributedTransport

LAST_WAIT = 5.0
"""Seconds for messages in flight when the script ends, as over MPI. A thread whose peer sends later is left behind."""

LINGER = 10.0
"""Seconds for which a thread without work stays, for the next step may come so late."""


class Message(NamedTuple):
    """All that goes to one peer in a batch, or comes from one.

    Attributes:
        inward: it comes.
        peer: as the flight's transport numbers it.
        works: of its tensors, and of the word that it has come, where its sender waits for that.
        word: the tag of that word; None where none is said.
    """

    inward: bool
    peer: int
    works: Sequence[dist.Work]
    word: int | None


class Part(NamedTuple):
    """What one thread waits for: a message that comes and one that goes, in this order, or one of the two."""

    inward: Message | None
    outward: Message | None


class WaitedFlight(Flight):
    """A batch on the CPU: landed when the threads that wait for its parts say so.

    Attributes:
        ended: set when it has landed or failed.
        failure: what went wrong while one of its messages was waited for.
    """

    transport: DistributedTransport

    def __init__(self, transport: DistributedTransport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        self.failure: Exception | None = None
        self._failed: Message | None = None
        self._unheard: set[int] = set(receives)
        self._untaken: set[int] = set(sends)
        self._behind: dict[int, int] = {}  # out-peer -> in-peer whose message is waited for before
        self.ended = threading.Event()
        self._turn = threading.Lock()
        self._left = 0

    def wait_for(self, parts: Sequence[Part]) -> None:
        """Have threads wait for `parts`, which are all of it."""
        self._left = len(parts)
        if not parts:
            self._land()
        self._behind = {part.outward.peer: part.inward.peer for part in parts if part.inward and part.outward}
        for part in parts:
            peers = tuple(None if message is None else message.peer for message in part)
            self.transport.waiters.add((self.transport.number, *peers), self, part)

    def _land(self) -> None:
        self.landed = time.perf_counter()
        self.ended.set()

    def come_through(self, message: Message) -> None:
        """All of `message` has come, or has been taken."""
        (self._unheard if message.inward else self._untaken).discard(message.peer)
        if message.inward and message.word is not None:
            self.transport.say(message.word, message.peer, self.subject)

    def part_landed(self) -> bool:
        """One part has; whether it was the last one."""
        with self._turn:
            self._left -= 1
            if self._left:
                return False
            self._land()
            return True

    def broke_off(self, message: Message, failure: Exception) -> bool:
        """Something went wrong with `message`; whether it is the first one."""
        with self._turn:
            if self._failed is not None:
                return False
            self._failed, self.failure = message, failure
            self.ended.set()
            return True

    def done(self) -> bool:
        if not self.ended.is_set():
            return False
        if self.failure is not None:
            raise PeerLost(
                f"rank {self.transport.me} lost a message of {self.subject}: it {self.lacking()}: torch.distributed "
                f"says {self.failure}"
            ) from self.failure
        return True

    def missing(self) -> tuple[list[int], list[int]]:
        if self._failed is not None:
            return ([self._failed.peer], []) if self._failed.inward else ([], [self._failed.peer])
        unheard = set(self._unheard)
        # Nothing is known of a send while the same thread waits for the receive before it.
        return sorted(unheard), sorted(peer for peer in set(self._untaken) if self._behind.get(peer) not in unheard)

    def pause(self, waited: float, left: float) -> None:
        self.ended.wait(left)


class Waiters:
    """Threads that wait, one for each line that has parts in flight.

    A line is what one channel exchanges with the same peers, in order. When all parts of its line have landed, a thread
    takes the next line; when none comes for `LINGER` seconds, it ends. So threads belong to no channel.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[tuple[WaitedFlight, Part]]] = {}  # those that a thread waits for, or will
        self._next: queue.SimpleQueue[Hashable | None] = queue.SimpleQueue()
        self._idle = 0  # threads that no line has been handed to
        self._threads: set[threading.Thread] = set()
        self._turn = threading.Lock()
        self._registered = self._stopped = False

    def add(self, line: Hashable, flight: WaitedFlight, part: Part) -> None:
        """Wait for a part of `flight`, behind all that was added to the same line."""
        with self._turn:
            if self._stopped:
                return  # a thread that was posting: the process ends, and nobody waits for it
            if line in self._lines:
                self._lines[line].append((flight, part))
                return
            self._lines[line] = deque([(flight, part)])
            self._next.put(line)
            if self._idle:
                self._idle -= 1
            else:
                self._start()

    def _start(self) -> None:
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
        if _has_landed(flight, part) and flight.follow is not None and not self._stopped:
            flight.follow()
        return True


def _has_landed(flight: WaitedFlight, part: Part) -> bool:
    """Whether `flight` has landed or failed, once `part` has: blocks until then."""
    for message in part:
        if message is None:
            continue
        try:
            for work in message.works:
                work.wait()
            flight.come_through(message)
        except Exception as error:  # for whoever waits for the flight
            return flight.broke_off(message, error)
    return flight.part_landed()
