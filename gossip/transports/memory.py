"""Ranks that are threads of one process: for tests, simulation, and plain `python` with one rank.

A message is copied when both its send and its receive have been posted, as a network that copies nothing on the way
would do it: a tensor that is written while it flies is a bug that shows here too. Deterministic, unless told to delay,
lose or repeat messages.
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
from .base import Transport
from .flight import Batch, Flight
from .survival import Lasting

Line = tuple[int, int, int, int]
"""How often ranks have met without dead ones, number of a channel, source, target."""


@dataclass(eq=False)
class _Parcel:
    """One message on its way, or the room for one."""

    tensors: Sequence[torch.Tensor]
    due: float = 0.0
    landed: bool = False

    def forms(self) -> list[tuple[list[int], torch.dtype]]:
        """The shape and the type of each tensor, of which there has to be the same room."""
        return [(list(tensor.shape), tensor.dtype) for tensor in self.tensors]


@dataclass
class Network:
    """What connects the ranks, and what can go wrong on it.

    `delay(source, target, number)` is the seconds that message `number` from `source` to `target` stays under way,
    `lose(source, target, number)` says whether it never arrives, `repeat(source, target, number)` whether it does so
    twice. All count the messages of the pair from 0. Order between one pair of ranks is kept, as MPI keeps it;
    different delays reorder what comes from different ranks. On a network that loses messages, one without an answer
    for `patience` seconds counts as lost to those that ask for answers.

    A rank dies when its function raises `Killed`: what it has sent still arrives, and nothing else is heard of it.

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
    _sent: defaultdict[Line, deque[_Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _room: defaultdict[Line, deque[_Parcel]] = field(default_factory=lambda: defaultdict(deque))
    _count: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def send(self, line: Line, tensors: Sequence[torch.Tensor]) -> _Parcel:
        """Put a message on its way; the caller holds `changed`."""
        _, _, source, target = line
        count = self._count[source, target]
        self._count[source, target] += 1
        parcel = _Parcel(tensors)
        if self.lose is not None and self.lose(source, target, count):
            parcel.landed = True  # it left; nobody will hear of it
            return parcel
        if self.delay is not None:
            parcel.due = time.monotonic() + self.delay(source, target, count)
        self._sent[line].append(parcel)
        if self.repeat is not None and self.repeat(source, target, count):
            self._sent[line].append(_Parcel([tensor.clone() for tensor in tensors], parcel.due))
        self.deliver(line)
        return parcel

    def receive(self, line: Line, tensors: Sequence[torch.Tensor]) -> _Parcel:
        """Make room for one; the caller holds `changed`."""
        parcel = _Parcel(tensors)
        self._room[line].append(parcel)
        self.deliver(line)
        return parcel

    def deliver(self, line: Line) -> None:
        """Hand over what has both ends and is due, in order."""
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

    def under_way(self, line: Line, parcel: _Parcel) -> bool:
        """Whether `parcel` has its other end, and lands when its delay is over."""
        sent, room = self._sent[line], self._room[line]
        here, there = (sent, room) if parcel in sent else (room, sent)
        return parcel in here and len(there) > here.index(parcel)

    def kill(self, rank: int) -> None:
        """`rank` has died."""
        with self.changed:
            self.dead.add(rank)
            self.changed.notify_all()

    def revoke(self, met: int) -> None:
        """Break off what is in flight among the ranks that have met `met` times."""
        with self.changed:
            self.revoked = max(self.revoked, met)
            self.changed.notify_all()

    def vote(self, ballot: tuple[int, int], rank: int, voters: Collection[int], done: bool, timeout: float) -> bool:
        """Whether all `voters` voted yes, and none died before; who is dead by then is in `verdicts`.

        Raises:
            PeerTimeout: one of those that are alive did not vote.
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
                    self.verdicts[ballot] = yes, gone
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
    """Ends the rank that raises it, as kill -9 ends a process: the others get no word of it but its silence."""


class MemoryCarrier(Lasting):
    """The network as one rank sees it, which may have met the others less often than they met."""

    outlives = True

    def __init__(self, network: Network, me: int, size: int, timeout: float) -> None:
        super().__init__(size)
        self.network = network
        self.me = me
        self.timeout = timeout
        self.met = 0
        self._living = frozenset(range(size))
        self._ballots = 0

    def revoke(self) -> None:
        self.network.revoke(self.met)

    def agree(self, done: bool) -> bool:
        self._ballots += 1
        return self.network.vote((self.met, self._ballots), self.me, self._living, done, self.timeout)

    def shrink(self) -> set[int]:
        self.network.vote((self.met, 0), self.me, self._living, True, self.timeout)
        _, gone = self.network.verdicts[self.met, 0]
        self.met += 1
        self._ballots = 0
        self._living -= gone
        return set(gone)


class MemoryFlight(Flight):
    """Done when every parcel of the batch has been handed over."""

    transport: MemoryTransport

    def __init__(self, transport: MemoryTransport, sends: Batch, receives: Batch, subject: str) -> None:
        super().__init__(transport, sends, receives, subject)
        network, me, met = transport.network, transport.me, transport.carrier.met
        self._met = met
        with network.changed:
            self._in = [
                (peer, line, network.receive(line, tensors))
                for peer, tensors in receives.items()
                if tensors
                for line in [(met, transport.number, self.ranks[peer], me)]
            ]
            self._out = [
                (peer, line, network.send(line, tensors))
                for peer, tensors in sends.items()
                if tensors
                for line in [(met, transport.number, me, self.ranks[peer])]
            ]

    def done(self) -> bool:
        if self.landed is not None:
            return True
        network, me = self.transport.network, self.transport.me
        with network.changed:
            waiting = [(peer, line, parcel) for peer, line, parcel in (*self._in, *self._out) if not parcel.landed]
            for _, line, parcel in waiting:
                if not parcel.landed:
                    network.deliver(line)
            waiting = [each for each in waiting if not each[2].landed]
            if not waiting:
                self.landed = time.perf_counter()
            elif network.failure is not None:
                raise PeerLost(f"another rank ended while rank {me} was in {self.subject}: {network.failure}")
            elif self._met <= network.revoked:
                raise PeerDied(f"{self.subject} of rank {me} was broken off: another rank has died")
            else:
                self._mourn(waiting)
        return self.landed is not None

    def _mourn(self, waiting: Sequence[tuple[int, Line, _Parcel]]) -> None:
        """Raise when a peer is dead that has nothing under way to here any more."""
        network = self.transport.network
        for peer, line, parcel in waiting:
            if self.ranks[peer] in network.dead and not network.under_way(line, parcel):
                raise PeerDied(f"rank {self.ranks[peer]} died while rank {self.transport.me} was in {self.subject}")

    def arrived(self) -> set[int]:
        return set(self.receives) - {peer for peer, _, parcel in self._in if not parcel.landed}

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
    carrier: MemoryCarrier

    def __init__(self, network: Network, rank: int, size: int, timeout: float) -> None:
        super().__init__(rank, size, timeout, MemoryCarrier(network, rank, size, timeout))
        self.network = network
        self.patience = math.inf if network.lose is None else network.patience

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> MemoryFlight:
        self.refuse_closed(subject)
        return MemoryFlight(self, sends, receives, subject)

    def end_job(self, code: int) -> None:
        self.network.break_off(PeerLost(f"rank {self.me} ended the job with code {code}"))
