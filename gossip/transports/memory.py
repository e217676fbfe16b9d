"""Ranks that are threads of one process, over a `Network`: for tests, simulation, and plain `python` with one rank.

A message is copied when both its send and its receive have been posted. So a tensor that is written while in flight is
a bug that shows here too. Deterministic, unless told to delay, lose or repeat messages.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import PeerDied, PeerLost, PeerTimeout
from .carrier import Carrier, Survivors
from .flight import Backend, Batch, Channel, Flight

Line = tuple[int, int, int, int]  # (how often ranks have met without dead ones, number of a channel, source, target)


@dataclass(eq=False)
class Parcel:
    """One message on its way, or the receive buffer for one."""

    tensors: Sequence[torch.Tensor]
    due: float = 0.0
    landed: bool = False

    def forms(self) -> list[tuple[list[int], torch.dtype]]:
        """The shape and the type of each tensor, which have to be alike at both ends."""
        return [(list(tensor.shape), tensor.dtype) for tensor in self.tensors]


@dataclass
class Network:
    """The network and its faults. Messages of one pair of ranks keep their order; delays reorder different pairs.

    A rank dies when its function raises `Killed`: its messages still arrive, and nothing else is heard of it.

    Attributes:
        delay: (source, target, number) -> seconds that this message stays in flight. Each pair counts from 0.
        lose: (source, target, number) -> whether it never arrives.
        repeat: (source, target, number) -> whether it arrives twice.
        patience: on a network that loses messages, one without an answer for so many seconds counts as lost.
        failure: the error of the rank that failed first.
        dead: the ranks that died.
        revoked: how often the ranks of the latest revoked messages had met.
        votes, verdicts: of the agreements among survivors.
        changed: notified of every change; its lock guards all of it.

    >>> slow = Network(delay=lambda source, target, number: 0.001 * source)
    """

    delay: Callable[[int, int, int], float] | None = None
    lose: Callable[[int, int, int], bool] | None = None
    repeat: Callable[[int, int, int], bool] | None = None
    patience: float = 0.02
    failure: BaseException | None = None
    dead: set[int] = field(default_factory=set)
    revoked: int = -1
    votes: defaultdict[tuple[int, int], dict[int, bool]] = field(default_factory=lambda: defaultdict(dict))
    verdicts: dict[tuple[int, int], tuple[bool, frozenset[int]]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    _sent: defaultdict[Line, deque[Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _room: defaultdict[Line, deque[Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _count: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def send(self, line: Line, tensors: Sequence[torch.Tensor]) -> Parcel:
        """Put a message on its way; the caller holds `changed`."""
        _, _, source, target = line
        count = self._count[source, target]
        self._count[source, target] += 1
        parcel = Parcel(tensors)
        if self.lose is not None and self.lose(source, target, count):
            parcel.landed = True  # it left, and never arrives
            return parcel
        if self.delay is not None:
            parcel.due = time.monotonic() + self.delay(source, target, count)
        self._sent[line].append(parcel)
        if self.repeat is not None and self.repeat(source, target, count):
            self._sent[line].append(Parcel([tensor.clone() for tensor in tensors], parcel.due))
        self.deliver(line)
        return parcel

    def receive(self, line: Line, tensors: Sequence[torch.Tensor]) -> Parcel:
        """Post a receive buffer; the caller holds `changed`."""
        parcel = Parcel(tensors)
        self._room[line].append(parcel)
        self.deliver(line)
        return parcel

    def deliver(self, line: Line) -> None:
        """Deliver the messages that have both ends and are due, in order."""
        sent, room = self._sent[line], self._room[line]
        while line[0] > self.revoked and sent and room and sent[0].due <= time.monotonic():
            parcel, target = sent.popleft(), room.popleft()
            if parcel.forms() != target.forms():
                self.break_off(
                    PeerLost(
                        f"a message from rank {line[2]} to rank {line[3]} has tensors of {parcel.forms()}, where room "
                        f"was made for {target.forms()}: do both post the same?"
                    )
                )
                return
            for here, there in zip(target.tensors, parcel.tensors, strict=True):
                here.copy_(there)
            parcel.landed = target.landed = True
            self.changed.notify_all()
        for queues in (self._sent, self._room):
            if not queues[line]:
                del queues[line]  # channels come and go, and each has lines of its own

    def under_way(self, line: Line, parcel: Parcel) -> bool:
        """Whether `parcel` has its other end, and lands when its delay is over."""
        sent, room = self._sent.get(line, ()), self._room.get(line, ())
        here, there = (sent, room) if parcel in sent else (room, sent)
        return parcel in here and len(there) > here.index(parcel)

    def kill(self, rank: int) -> None:
        """`rank` has died."""
        with self.changed:
            self.dead.add(rank)
            self.changed.notify_all()

    def revoke(self, met: int) -> None:
        """Break off the messages among the ranks that have met `met` times."""
        with self.changed:
            self.revoked = max(self.revoked, met)
            self.changed.notify_all()

    def vote(self, ballot: tuple[int, int], rank: int, voters: Collection[int], done: bool, timeout: float) -> bool:
        """Whether all `voters` voted yes, and none died before; those dead by then are in `verdicts`.

        Raises:
            PeerTimeout: one that is alive did not vote.
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            votes = self.votes[ballot]
            votes[rank] = done
            self.changed.notify_all()
            while ballot not in self.verdicts:
                missing = [voter for voter in voters if voter not in votes and voter not in self.dead]
                if not missing:
                    gone = frozenset(voter for voter in voters if voter in self.dead)
                    yes = all(votes.values()) and len(votes) == len(voters)
                    # A rank that votes has read all earlier verdicts.
                    self.verdicts = {ballot: (yes, gone)}
                    self.votes.clear()
                    self.changed.notify_all()
                elif self.failure is not None:
                    raise PeerLost(f"another rank ended while rank {rank} waited for {missing}: {self.failure}")
                elif not self.changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise PeerTimeout(f"rank {rank} waited {timeout:g} s for ranks {missing} to meet after a death")
            return self.verdicts[ballot][0]

    def break_off(self, failure: BaseException) -> None:
        """Wake every rank with an error: one of them ended by one."""
        with self.changed:
            if self.failure is None:
                self.failure = failure
            self.changed.notify_all()


class Killed(BaseException):
    """Ends the rank that raises it, as kill -9 ends a process: the others are not told."""


class MemoryBackend(Backend, Survivors):
    """Rank `rank` of `size` threads that share `network`, and how the survivors of a death go on."""

    name = "memory"

    def __init__(self, network: Network, rank: int, size: int, timeout: float) -> None:
        self.network = network
        self.rank = rank
        self.carrier = Carrier(size, survivors=self)
        self.patience = math.inf if network.lose is None else network.patience
        self.met = 0  # how often it has met the survivors after a death; they may have met more often
        self._timeout = timeout
        self._living = frozenset(range(size))
        self._ballots = 0

    def post(self, channel: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool) -> Flight:
        return MemoryFlight(self, channel, sends, receives, subject)

    def end_job(self, code: int) -> None:
        self.network.break_off(PeerLost(f"rank {self.rank} ended the job with code {code}"))

    def revoke(self) -> None:
        self.network.revoke(self.met)

    def agree(self, done: bool) -> bool:
        self._ballots += 1
        return self.network.vote((self.met, self._ballots), self.rank, self._living, done, self._timeout)

    def shrink(self) -> set[int]:
        self.network.vote((self.met, 0), self.rank, self._living, True, self._timeout)
        _, gone = self.network.verdicts[self.met, 0]
        self.met += 1
        self._ballots = 0
        self._living -= gone
        return set(gone)


class MemoryFlight(Flight):
    """Done when every parcel of the batch has been handed over."""

    def __init__(self, backend: MemoryBackend, channel: Channel, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(channel, sends, receives, subject)
        self._network, self._met = network, met = backend.network, backend.met
        number, me, ranks = channel.number, channel.me, self.ranks
        coming = [((met, number, ranks[peer], me), tensors) for peer, tensors in receives.items() if tensors]
        going = [((met, number, me, ranks[peer]), tensors) for peer, tensors in sends.items() if tensors]
        with network.changed:
            self._in = [(line, network.receive(line, tensors)) for line, tensors in coming]
            self._out = [(line, network.send(line, tensors)) for line, tensors in going]

    def done(self) -> bool:
        if self.landed is not None:
            return True
        network, me = self._network, self.channel.me
        with network.changed:
            for line, parcel in (*self._in, *self._out):
                if not parcel.landed:
                    network.deliver(line)
            left = [(line, parcel) for line, parcel in (*self._in, *self._out) if not parcel.landed]
            if not left:
                self.landed = time.perf_counter()
                return True
            if network.failure is not None:
                raise PeerLost(f"another rank ended while rank {me} was in {self.subject}: {network.failure}")
            if self._met <= network.revoked:
                raise PeerDied(f"{self.subject} of rank {me} was broken off: another rank has died")
            for line, parcel in left:
                [peer] = {*line[2:]} - {me} or {me}
                if peer in network.dead and not network.under_way(line, parcel):
                    raise PeerDied(f"rank {peer} died while rank {me} was in {self.subject}")
        return False

    def missing(self) -> tuple[list[int], list[int]]:
        unheard = sorted({line[2] for line, parcel in self._in if not parcel.landed})
        return unheard, sorted({line[3] for line, parcel in self._out if not parcel.landed})

    def arrived(self) -> set[int]:
        unheard, _ = self.missing()
        return {peer for peer in self.receives if self.ranks[peer] not in unheard}

    def pause(self, waited: float, left: float) -> None:
        with self._network.changed:
            if self._network.failure is None:
                # No rank announces that a delay is over, and a landing between the poll and this wait wakes nobody.
                self._network.changed.wait(min(left, 1e-3))
