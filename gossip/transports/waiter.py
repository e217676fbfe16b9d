"""Batches of Gloo, which moves data in the background but says so only to who waits: a thread that does."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from typing import TYPE_CHECKING

import torch.distributed as dist

from ..errors import PeerLost
from .flight import Batch, Flight

if TYPE_CHECKING:
    from .base import Transport


class WaitedFlight(Flight):
    """A batch on the CPU: landed when the channel's waiter says so."""

    def __init__(self, transport: Transport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        self.ended = threading.Event()
        self.failure: Exception | None = None
        self.unheard: set[int] = set(receives)
        self.untaken: set[int] = set(sends)

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
        """Wait for `flight` too; each of its works is ("send" or "receive", peer, work)."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gossip-gloo-waiter", daemon=True)
            self._thread.start()
            atexit.register(self.stop)  # a thread that wakes inside Gloo while the interpreter goes down aborts it
        self._batches.put((flight, works))

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            flight, works = batch
            left = {kind: {peer: 0 for _, peer, _ in works} for kind in ("send", "receive")}
            for kind, peer, _ in works:
                left[kind][peer] += 1
            try:
                for kind, peer, work in works:
                    work.wait()
                    left[kind][peer] -= 1
                    if not left[kind][peer]:
                        (flight.untaken if kind == "send" else flight.unheard).discard(peer)
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
