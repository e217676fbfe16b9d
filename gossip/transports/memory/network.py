"""The network between ranks that are threads of one process, and its faults.

A message is copied when both its send and its receive have been posted. So a tensor that is written while in flight is
a bug that shows here too. Deterministic, unless told to delay, lose or repeat messages.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from ...errors import PeerLost, PeerTimeout

Line = tuple[int, int, int, int]
"""(how often ranks have met without dead ones, number of a channel, source, target)."""


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
