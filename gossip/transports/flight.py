"""One batch of messages under way: ask whether it has landed, wait for it, and say who is missing when it has not."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from ..errors import PeerDied, PeerLost, PeerTimeout
from ..observe.notice import Notice
from ..observe.slot import STEP
from .pacing import pace

if TYPE_CHECKING:
    from .base import Transport

GRACE = 10.0
"""Seconds for what a rank has under way when its script ends: twice what it waits for that itself."""

Batch = Mapping[int, Sequence[torch.Tensor]]
"""Peer -> tensors, in the order in which both ends name them. Dense, contiguous, and left alone while they fly."""

Own = TypeVar("Own", bound="Flight")


class Flight(ABC):
    """One batch of sends and receives under way.

    It has landed when every receive is filled and no send reads its tensors any more.

    Attributes:
        posted, landed: when; None until it has.
        moved: when a part of it was last seen to go on, where it goes in parts: the next one follows soon.
        expected: before that it hardly lands.
        lull: seconds between two questions are enough before that, also for who waits; 0 where each may move it along.
    """

    lull = 0.0
    counted = False
    """Whether its bytes stand in the statistics already: several may wait for one flight."""

    follow: Callable[[], None] | None = None
    """Called when it has landed, by a transport that notices while nobody asks."""

    def __init__(self, transport: Transport, sends: Batch, receives: Batch, subject: str) -> None:
        self.transport = transport
        self.ranks = transport.ranks
        self.sends = sends
        self.receives = receives
        self.subject = subject
        self.messages_sent = sum(len(tensors) for tensors in sends.values())
        self.messages_received = sum(len(tensors) for tensors in receives.values())
        self.bytes_sent = sum(tensor.nbytes for tensors in sends.values() for tensor in tensors)
        self.bytes_received = sum(tensor.nbytes for tensors in receives.values() for tensor in tensors)
        self.posted = self.moved = self.expected = time.perf_counter()
        self.landed: float | None = None

    @abstractmethod
    def done(self) -> bool:
        """Ask, without waiting, whether the batch has landed. Raises `PeerLost` when it never will."""

    def followed(self) -> bool:
        """Whether what builds on it may begin: it has landed, or whatever begins now comes after it in a stream."""
        return self.done()

    def without_tensors(self: Own) -> Own:
        """The same flight for an observer, who must not keep a model's memory."""
        light = copy.copy(self)
        light.sends, light.receives = dict.fromkeys(self.sends, ()), dict.fromkeys(self.receives, ())
        return light

    def carries(self, leg: Flight) -> None:
        """Count what `leg` moves as its own."""
        self.messages_sent += leg.messages_sent
        self.messages_received += leg.messages_received
        self.bytes_sent += leg.bytes_sent
        self.bytes_received += leg.bytes_received

    @abstractmethod
    def missing(self) -> tuple[list[int], list[int]]:
        """Peers not heard from and peers that have not taken what was sent, as far as is known."""

    def interval(self, waited: float) -> float:
        """Seconds after which to ask again, by whoever has waited for `waited`."""
        now, expected = time.perf_counter(), self.expected  # which another thread may change
        if now >= expected:
            return pace(min(waited, now - max(self.moved, expected)))
        return min(self.lull or pace(min(waited, now - self.moved)), expected - now)

    def pause(self, waited: float, left: float) -> None:
        """Leave the core to others between two questions, `waited` after the first one, and for `left` at most."""
        time.sleep(min(left, self.interval(waited)))

    def cancel(self) -> None:
        """Give up: the process ends, and the peer never came."""

    def over(self) -> bool:
        """Whether a flight that was broken off, by a death, touches its tensors no more."""
        return True

    def arrived(self) -> set[int]:
        """Peers whose part had come whole when that was so."""
        return set(self.receives) if self.landed is not None else set()

    def wait(self, timeout: float | None = None) -> None:
        """Block until the batch has landed; raise `PeerTimeout` after `timeout` seconds (default: the transport's)."""
        if not self.done():
            self._wait(self.transport.timeout if timeout is None else timeout)
        self.note_heard()

    def _wait(self, limit: float) -> None:
        board = self.transport.board
        began = time.monotonic()
        look, notice = GRACE, Notice(lambda: self.long_wait(time.monotonic() - began, limit))
        board.wait(self.subject)
        with self.transport.waiting():
            while not self._ended():
                waited = time.monotonic() - began
                if waited >= limit:
                    raise PeerTimeout(self.overdue(limit))
                if waited >= look:
                    self.check_awaited_run()
                    look = waited + 1
                notice.look()
                self.pause(waited, min(limit, look) - waited)
        board.go_on()

    def long_wait(self, waited: float, limit: float) -> str:
        """Which ranks of this host wait, in which call, and for whom; "" on all of them but the first."""
        board = self.transport.board
        waiting = sorted(board.waiting_alike())
        call = board.call or STEP
        others = {slot.call.decode() for slot in board.mates.values() if slot.waiting}
        if waiting[0] != board.rank or (call == STEP and not others <= {"", STEP}):
            return ""  # another rank says it: the first, or one that waits in a call which these do not make
        return (
            f"{called(waiting)} waited {waited:.0f} s in {self.subject} of {call}: rank {board.rank} "
            f"{self.lacking()}. Every rank has to call {call}; it fails here after {limit:g} s"
        )

    def check_awaited_run(self) -> None:
        """Wait no longer for ranks whose scripts have ended, as far as that can be seen from here.

        Raises:
            PeerLost: one has, so long ago that nothing of it is under way any more.
        """
        board = self.transport.board
        gone = {rank for rank in board.mates if board.left(rank) > GRACE}
        if any(not gone.isdisjoint(ranks) for ranks in self.awaited()):
            what, known = self._lacking()
            raise PeerLost(
                f"rank {self.transport.me} {what} in {self._place}{known}, and it will not: does every rank call "
                f"{board.call or STEP} equally often?"
            )

    def _ended(self) -> bool:
        try:
            return self.done()
        except PeerDied:
            self.transport.board.go_on()  # which it may, without the dead
            raise

    def note_heard(self) -> None:
        """Remember that its peers were alive, for what errors say of them later."""
        heard, ranks, now = self.transport.board.heard, self.ranks, time.monotonic()
        for peer in self.receives:
            heard[ranks[peer]] = (self.subject, now)

    def overdue(self, seconds: float) -> str:
        """The sentence for a deadline that passed: who, whom, in which round, for how long, and what is known of it."""
        call = self.transport.board.call
        question = (
            "is the peer alive, does it call step() as often, and does it run the same topology?"
            if call in ("", STEP)
            else f"does every rank call {call}, in the same order, and is the peer alive?"
        )
        what, known = self._lacking()
        return (
            f"rank {self.transport.me} {what} in {self._place} for {seconds:g} s over {self.transport.name}{known}: "
            f"{question} A longer deadline is gossip.init(timeout=...)"
        )

    @property
    def _place(self) -> str:
        call = self.transport.board.call
        return self.subject if call in ("", STEP) else f"{self.subject} of {call}"

    def awaited(self) -> tuple[list[int], list[int]]:
        """What `missing` says, by ranks as the whole job numbers them."""
        unheard, untaken = self.missing()
        return sorted(self.ranks[peer] for peer in unheard), sorted(self.ranks[peer] for peer in untaken)

    def lacking(self) -> str:
        """Of whom it has not heard, or who has not taken its message, and in brackets what is known of them."""
        return "".join(self._lacking())

    def _lacking(self) -> tuple[str, str]:
        unheard, untaken = self.awaited()
        parts = []
        if unheard:
            parts.append(f"heard nothing from {called(unheard)}")
        if untaken:
            parts.append(f"could not hand its message to {called(untaken)}")
        board = self.transport.board
        peers = list(dict.fromkeys(unheard + untaken))
        waiting = {rank for rank, slot in board.mates.items() if slot.waiting}
        if waiting.issuperset(peers):  # for others, who are the ones to look at
            peers += sorted(board.mates.keys() - waiting)
        return " and ".join(parts) or "could not finish", board.known_of(peers)


def called(ranks: list[int]) -> str:
    """`rank 3` or `ranks 3, 5`, as the whole job numbers them."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else "ranks " + ", ".join(map(str, ranks))
