"""Batches of Gloo, which moves data in the background but says so only to who waits: threads that do.

A batch is waited for in parts, each on a thread of its own, where one message must not wait for another that comes with
it: a word is to be said as soon as a message has come. Of several batches under way, one is waited for after the other.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch.distributed as dist

from ..errors import PeerLost
from .flight import Batch, Flight

if TYPE_CHECKING:
    from .distributed import DistributedTransport

LAST_WAIT = 1.0
"""Seconds for what is still under way when threads are stopped; one whose peer is gone is left behind then."""


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


class WaitedFlight(Flight):
    """A batch on the CPU: landed when those who wait for its parts say so.

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
        self.ended = threading.Event()
        self._turn = threading.Lock()
        self._left = 0

    def in_parts(self, count: int) -> None:
        """It has landed when so many parts have."""
        self._left = count
        if not count:
            self._land()

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
        # Receives are waited for first: until they are there nothing is known of the sends.
        return sorted(self._unheard), [] if self._unheard else sorted(self._untaken)

    def pause(self, waited: float, left: float) -> None:
        self.ended.wait(left)


class Waiters:
    """Threads that wait, by what each of them waits for."""

    def __init__(self) -> None:
        self._waiters: dict[Hashable, Waiter] = {}
        self._turn = threading.Lock()
        self._stopped = False

    def add(self, key: Hashable, flight: WaitedFlight, part: Sequence[Message]) -> None:
        """Wait for a part of `flight`, behind all that was given the same key; for its messages in this order."""
        with self._turn:
            if self._stopped:
                return  # a thread that was posting: the process ends, and nobody waits for it
            if not self._waiters:
                atexit.register(self.stop)  # a thread that wakes inside Gloo while the interpreter goes down aborts it
            if key not in self._waiters:
                self._waiters[key] = Waiter()
            self._waiters[key].parts.put((flight, part))

    def stop(self) -> None:
        """End all threads once their batches have landed."""
        atexit.unregister(self.stop)
        deadline = time.monotonic() + LAST_WAIT
        with self._turn:
            self._stopped = True
            for waiter in self._waiters.values():
                waiter.stopped = True
                waiter.parts.put(None)
        for waiter in self._waiters.values():
            waiter.thread.join(timeout=max(0.0, deadline - time.monotonic()))


class Waiter:
    """Waits for one part after another, on a thread that holds no lock."""

    def __init__(self) -> None:
        self.parts: queue.SimpleQueue[tuple[WaitedFlight, Sequence[Message]] | None] = queue.SimpleQueue()
        self.stopped = False
        self.thread = threading.Thread(target=self._run, name="gossip-gloo-waiter", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (next_one := self.parts.get()) is not None:
            flight, part = next_one
            if self._wait(flight, part) and flight.follow is not None and not self.stopped:
                flight.follow()

    @staticmethod
    def _wait(flight: WaitedFlight, part: Sequence[Message]) -> bool:
        """Until `part` has landed or failed; whether `flight` has by that."""
        for message in part:
            try:
                for work in message.works:
                    work.wait()
                flight.come_through(message)
            except Exception as error:  # for whoever waits for the flight
                return flight.broke_off(message, error)
        return flight.part_landed()
