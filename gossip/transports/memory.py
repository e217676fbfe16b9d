"""Ranks that are threads of one process: for tests, simulation, and plain `python` with one rank.

A message is copied when both its send and its receive have been posted, as a network that copies nothing on the way
would do it: a tensor that is written while it flies is a bug that shows here too. Deterministic, unless told to delay
or lose messages.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..errors import PeerLost
from .base import Batch, Flight, Numbers, Transport

Line = tuple[int, int, int]
"""Number of a channel, source, target."""


@dataclass
class _Parcel:
    """One tensor on its way, or the room for one."""

    tensor: torch.Tensor
    due: float = 0.0
    landed: bool = False


@dataclass
class Network:
    """What connects the ranks, and what can go wrong on it.

    `delay(source, target, number)` is the seconds that message `number` from `source` to `target` stays under way,
    `lose(source, target, number)` says whether it never arrives. Both count the messages of the pair from 0. Order
    between one pair of ranks is kept, as MPI keeps it; different delays reorder what comes from different ranks.

    >>> slow = Network(delay=lambda source, target, number: 0.001 * source)
    """

    delay: Callable[[int, int, int], float] | None = None
    lose: Callable[[int, int, int], bool] | None = None
    failure: BaseException | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    _sent: defaultdict[Line, deque[_Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _room: defaultdict[Line, deque[_Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _count: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def send(self, number: int, source: int, target: int, tensor: torch.Tensor) -> _Parcel:
        """Put a tensor on its way; the caller holds `changed`."""
        count = self._count[source, target]
        self._count[source, target] += 1
        parcel = _Parcel(tensor)
        if self.lose is not None and self.lose(source, target, count):
            parcel.landed = True  # it left; nobody will hear of it
            return parcel
        if self.delay is not None:
            parcel.due = time.monotonic() + self.delay(source, target, count)
        self._sent[number, source, target].append(parcel)
        self.deliver((number, source, target))
        return parcel

    def receive(self, number: int, source: int, target: int, tensor: torch.Tensor) -> _Parcel:
        """Make room for one; the caller holds `changed`."""
        parcel = _Parcel(tensor)
        self._room[number, source, target].append(parcel)
        self.deliver((number, source, target))
        return parcel

    def deliver(self, line: Line) -> None:
        """Hand over what has both ends and is due, in order."""
        sent, room = self._sent[line], self._room[line]
        while sent and room and sent[0].due <= time.monotonic():
            parcel, target = sent.popleft(), room.popleft()
            if parcel.tensor.shape != target.tensor.shape or parcel.tensor.dtype != target.tensor.dtype:
                self.break_off(PeerLost("a message arrived in a shape that its receiver did not expect"))
                return
            target.tensor.copy_(parcel.tensor)
            parcel.landed = target.landed = True
            self.changed.notify_all()

    def break_off(self, failure: BaseException) -> None:
        """Wake every rank with an error: one of them ended by one."""
        with self.changed:
            if self.failure is None:
                self.failure = failure
            self.changed.notify_all()


class MemoryFlight(Flight):
    """Done when every parcel of the batch has been handed over."""

    transport: MemoryTransport

    def __init__(self, transport: MemoryTransport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        ranks, network = transport.ranks, transport.network
        me = transport.me
        with network.changed:
            self._in = [
                (peer, ranks[peer], network.receive(transport.number, ranks[peer], me, tensor))
                for peer, tensors in receives.items()
                for tensor in tensors
            ]
            self._out = [
                (peer, ranks[peer], network.send(transport.number, me, ranks[peer], tensor))
                for peer, tensors in sends.items()
                for tensor in tensors
            ]

    def done(self) -> bool:
        if self.landed is not None:
            return True
        network, number = self.transport.network, self.transport.number
        me = self.transport.me
        with network.changed:
            for _, source, parcel in self._in:
                if not parcel.landed:
                    network.deliver((number, source, me))
            for _, target, parcel in self._out:
                if not parcel.landed:
                    network.deliver((number, me, target))
            if all(parcel.landed for _, _, parcel in (*self._in, *self._out)):
                self.landed = time.perf_counter()
            elif network.failure is not None:
                raise PeerLost(f"another rank ended while rank {me} was in {self.subject}: {network.failure}")
        return self.landed is not None

    def missing(self) -> tuple[list[int], list[int]]:
        unheard = {peer for peer, _, parcel in self._in if not parcel.landed}
        untaken = {peer for peer, _, parcel in self._out if not parcel.landed}
        return sorted(unheard), sorted(untaken)

    def pause(self, waited: float, left: float) -> None:
        network = self.transport.network
        with network.changed:
            if network.failure is None:
                # Nobody announces that a delay is over; and what landed between the question and this wait did so
                # without being heard.
                network.changed.wait(min(left, 1e-3))


class MemoryTransport(Transport):
    """Rank `rank` of `size` threads that share `network`."""

    name = "memory"

    def __init__(self, network: Network, rank: int, size: int, timeout: float) -> None:
        super().__init__(rank, size, timeout, Numbers())
        self.network = network

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> MemoryFlight:
        return MemoryFlight(self, sends, receives, subject)

    def end_job(self, code: int) -> None:
        self.network.break_off(PeerLost(f"rank {self.me} ended the job with code {code}"))
