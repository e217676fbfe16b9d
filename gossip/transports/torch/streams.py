"""Batches on a GPU: in stream order, watched by the age of events, and cut where tensors are large.

NCCL works in the order of a stream. An event on a stream of ours marks the landing of a batch, and no host waits for
it. A thread watches the age of these events, since nothing else would notice a peer that never answers.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch

from ...observe.ending import abort
from .. import deadlines
from ..flight import Batch, Channel, Flight

Operation = tuple[str, int, torch.Tensor]  # ("send" or "receive", peer, tensor)

MOST_BYTES = 1 << 27
"""Bytes to one peer in one batch of NCCL. Larger messages take several batches, so that they do not hold up a sum or
another averager's round, which wait for the same links."""


class StreamedFlight(Flight):
    """A batch on a GPU: landed when the stream has passed an event. Waiting orders streams and blocks no host."""

    def __init__(self, channel: Channel, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(channel, sends, receives, subject)
        self.event = torch.cuda.Event()

    def done(self) -> bool:
        if self.landed is None and self.event.query():
            self.landed = time.perf_counter()
        return self.landed is not None

    def followed(self) -> bool:
        torch.cuda.current_stream().wait_event(self.event)
        return True

    def wait(self, timeout: float | None = None) -> None:
        torch.cuda.current_stream().wait_event(self.event)

    def missing(self) -> tuple[list[int], list[int]]:
        return sorted(self.ranks[peer] for peer in self.receives), sorted(self.ranks[peer] for peer in self.sends)


def batches(operations: Sequence[Operation], most: int = MOST_BYTES) -> list[list[Operation]]:
    """`operations` cut into batches of at most `most` bytes to each peer and from it.

    Both ends of a pair cut alike, whatever other peers they have: the cuts depend only on the sizes of the tensors that
    go to one peer, in their order.
    """
    cut: list[list[Operation]] = []
    filled: dict[tuple[str, int], tuple[int, int]] = {}  # with each peer: the number of the batch, and bytes in it
    for kind, peer, tensor in operations:
        number, held = filled.get((kind, peer), (0, 0))
        flat = tensor.view(-1)
        while len(flat):
            room = (most - held) // flat.element_size()
            if not room:
                number, held = number + 1, 0
                continue
            piece, flat = flat[:room], flat[room:]
            held += piece.nbytes
            cut.extend([] for _ in range(number + 1 - len(cut)))
            cut[number].append((kind, peer, piece))
        filled[kind, peer] = number, held
    return cut


class Watchdog:
    """Ends the process when a batch on a GPU is older than the deadline, which no waiting host would notice."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in_flight: deque[tuple[Flight, float]] = deque()
        self._logged: Flight | None = None  # the last one whose long wait was logged
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def add(self, flight: StreamedFlight, timeout: float) -> None:
        """Watch `flight` too; it has `timeout` seconds. Its tensors are not held."""
        self._in_flight.append((flight.without_tensors(), timeout))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gossip-nccl-watchdog", daemon=True)
            self._thread.start()
            atexit.register(self.stop)  # CUDA goes down with the interpreter

    def _run(self) -> None:
        torch.cuda.set_device(self._device)  # a thread begins with the first, and would take memory there
        while not self._stopped.wait(0.5):
            said = self._wrong()
            if said is not None:
                abort(1, said, self._in_flight[0][0].channel.board)

    def _wrong(self) -> str | None:
        """The sentence to print before the process ends; None while all is well."""
        try:
            while self._in_flight and self._in_flight[0][0].done():
                self._in_flight.popleft()[0].note_heard()
        except RuntimeError as error:  # the deadlines would not be watched any more
            flight = self._in_flight[0][0]
            return (
                f"rank {flight.channel.me} cannot ask its GPU for {flight.subject}: CUDA says {error}. If a CUDA "
                "graph is being captured, do that with capture_error_mode='thread_local'"
            )
        if self._in_flight:
            flight, timeout = self._in_flight[0]
            age = time.perf_counter() - flight.posted
            if age > timeout:
                return deadlines.overdue(flight, timeout)
            if age > deadlines.NOTICE and self._logged is not flight:
                self._logged = flight
                if said := deadlines.long_wait(flight, age, timeout):
                    deadlines.log.warning(said)
        return None

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=1)
            atexit.unregister(self.stop)
