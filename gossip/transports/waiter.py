"""Batches of Gloo, which moves data in the background but says so only to who waits: a thread that does."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import torch.distributed as dist

from ..errors import PeerLost
from .flight import Batch, Flight

if TYPE_CHECKING:
    from .distributed import DistributedTransport


class WaitedFlight(Flight):
    """A batch on the CPU: landed when the channel's waiter says so.

    asked: peers that wait for a word that their message has come.
    """

    transport: DistributedTransport

    def __init__(self, transport: DistributedTransport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        self.ended = threading.Event()
        self.failure: Exception | None = None
        self.unheard: set[int] = set(receives)
        self.untaken: set[int] = set(sends)
        self.asked: set[int] = set()

    def done(self) -> bool:
        if not self.ended.is_set():
            return False
        if self.failure is not None:
            what, known = self.lacking()
            raise PeerLost(
                f"rank {self.transport.me} lost a message of {self.subject}: it {what}{known}: torch.distributed says "
                f"{self.failure}"
            ) from self.failure
        return True

    def note(self, kind: str, peer: int) -> None:
        """What it receives of `peer` has come, or what it sends has been taken."""
        if kind != "receive":
            self.untaken.discard(peer)
            return
        self.unheard.discard(peer)
        if peer in self.asked:
            self.transport.say(peer, self.subject)

    def missing(self) -> tuple[list[int], list[int]]:
        # Receives are waited for first: until they are there nothing is known of the sends.
        return sorted(self.unheard), [] if self.unheard else sorted(self.untaken)

    def pause(self, waited: float, left: float) -> None:
        self.ended.wait(left)


class Waiter:
    """Waits for a channel's batches in the order in which they were posted, on a thread that holds no lock."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[tuple[WaitedFlight, list[tuple[str, int, dist.Work]]] | None]
        self._batches = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def add(self, flight: WaitedFlight, works: list[tuple[str, int, dist.Work]]) -> None:
        """Wait for `flight` too; its works are ("receive", "hear" or "send", peer, work), those that come first."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gossip-gloo-waiter", daemon=True)
            self._thread.start()
            atexit.register(self.stop)  # a thread that wakes inside Gloo while the interpreter goes down aborts it
        self._batches.put((flight, works))

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            flight, works = batch
            left = Counter((kind == "receive", peer) for kind, peer, _ in works)
            try:
                for kind, peer, work in works:
                    work.wait()
                    left[kind == "receive", peer] -= 1
                    if not left[kind == "receive", peer]:
                        flight.note(kind, peer)
                flight.landed = time.perf_counter()
            except RuntimeError as error:
                flight.failure = error
            flight.ended.set()
            if flight.follow is not None and not self._stopped:
                flight.follow()

    def stop(self) -> None:
        """End the thread once its batches have landed; one whose peer is gone is left behind after a second."""
        self._stopped = True
        self._batches.put(None)
        if self._thread is not None:
            self._thread.join(timeout=1)
            atexit.unregister(self.stop)
