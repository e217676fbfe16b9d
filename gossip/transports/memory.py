"""Ranks that are threads of one process: for tests, simulation, and plain `python` with one rank.

A message is copied when both its send and its receive have been posted, as a network that copies nothing on the way
would do it: a tensor that is written while it flies is a bug that shows here too. Deterministic, unless told to delay
or lose messages.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import PeerLost, UsageError
from .base import Batch, Flight, Transport

Path = tuple[object, ...]


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
    _sent: defaultdict[Path, deque[_Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _room: defaultdict[Path, deque[_Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _count: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def send(self, path: Path, source: int, target: int, tensor: torch.Tensor) -> _Parcel:
        """Put a tensor on its way; the caller holds `changed`."""
        number = self._count[source, target]
        self._count[source, target] += 1
        parcel = _Parcel(tensor)
        if self.lose is not None and self.lose(source, target, number):
            parcel.landed = True  # it left; nobody will hear of it
            return parcel
        if self.delay is not None:
            parcel.due = time.monotonic() + self.delay(source, target, number)
        self._sent[path, source, target].append(parcel)
        self.deliver((path, source, target))
        return parcel

    def receive(self, path: Path, source: int, target: int, tensor: torch.Tensor) -> _Parcel:
        """Make room for one; the caller holds `changed`."""
        parcel = _Parcel(tensor)
        self._room[path, source, target].append(parcel)
        self.deliver((path, source, target))
        return parcel

    def deliver(self, pair: Path) -> None:
        """Hand over what has both ends and is due, in order."""
        sent, room = self._sent[pair], self._room[pair]
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
        me = ranks[transport.rank]
        with network.changed:
            self._in = [
                (peer, ranks[peer], network.receive(transport.path, ranks[peer], me, tensor))
                for peer, tensors in receives.items()
                for tensor in tensors
            ]
            self._out = [
                (peer, ranks[peer], network.send(transport.path, me, ranks[peer], tensor))
                for peer, tensors in sends.items()
                for tensor in tensors
            ]

    def done(self) -> bool:
        if self.landed is not None:
            return True
        network, path = self.transport.network, self.transport.path
        me = self.transport.ranks[self.transport.rank]
        with network.changed:
            for _, source, parcel in self._in:
                if not parcel.landed:
                    network.deliver((path, source, me))
            if all(parcel.landed for _, _, parcel in (*self._in, *self._out)):
                self.landed = time.perf_counter()
            elif network.failure is not None:
                raise PeerLost(f"another rank ended while rank {me} was in {self.subject}: {network.failure}")
        return self.landed is not None

    def missing(self) -> tuple[list[int], list[int]]:
        unheard = {peer for peer, _, parcel in self._in if not parcel.landed}
        untaken = {peer for peer, _, parcel in self._out if not parcel.landed}
        return sorted(unheard), sorted(untaken)

    def pause(self, attempt: int, seconds: float) -> None:
        dues = [parcel.due for _, _, parcel in self._in]
        with self.transport.network.changed:
            if self.transport.network.failure is None:
                delayed = self.transport.network.delay is not None
                self.transport.network.changed.wait(min(seconds, 1e-3 if delayed or dues else 0.1))


class MemoryTransport(Transport):
    """Rank `rank` of `size` threads that share `network`."""

    name = "memory"

    def __init__(self, network: Network, rank: int, size: int, timeout: float) -> None:
        self.network = network
        self.rank = rank
        self.size = size
        self.timeout = timeout
        self.ranks: Sequence[int] = range(size)
        self.path: Path = ()
        self._channels = itertools.count()
        self._groups: defaultdict[tuple[int, ...], itertools.count[int]] = defaultdict(itertools.count)

    def post(self, sends: Batch, receives: Batch, subject: str) -> MemoryFlight:
        return MemoryFlight(self, sends, receives, subject)

    def channel(self) -> MemoryTransport:
        other = copy.copy(self)
        other.path = (*self.path, next(self._channels))
        other._channels = itertools.count()
        return other

    def group(self, ranks: Sequence[int]) -> MemoryTransport:
        if self.rank not in ranks:
            raise UsageError(f"rank {self.rank} asked for a group of ranks {list(ranks)}, which it is not one of")
        other = copy.copy(self)
        members = tuple(self.ranks[rank] for rank in ranks)
        other.ranks, other.rank, other.size = members, ranks.index(self.rank), len(members)
        other.path = (*self.path, members, next(self._groups[members]))
        other._channels = itertools.count()
        other._groups = defaultdict(itertools.count)
        return other

    def end_job(self, code: int) -> None:
        self.network.break_off(PeerLost(f"rank {self.rank} ended the job with code {code}"))
