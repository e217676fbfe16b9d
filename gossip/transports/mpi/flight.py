"""One batch over MPI: which of its messages MPI has, which wait for their turn, and when to poll for them.

Each poll costs a core some 50 µs, most of it for waking up, which ranks that share cores take from one another. So a
flight is polled soon after the post and after a part of it has moved, then ever more rarely. Once the quickest recent
batch of its kind would have landed, it is polled fast again. Before that a few polls do, if it moves without them.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from ...errors import PeerDied, PeerLost
from ..flight import LONGEST, SHORTEST, Batch, Channel, Flight, pace
from .engine import Engine
from .gpu.staging import Staged
from .messages import Message

if TYPE_CHECKING:
    from mpi4py import MPI

REMEMBERED = 8  # batches of a kind whose times are remembered: the next one takes at least the shortest of them
KINDS = 256  # kinds that are remembered, the latest ones: messages such as those of a gather have any size
PROBES = 8  # polls before a batch is expected, at least: it may have become quicker

Kind = tuple[int, bool, int, int]
"""The number of the channel, whether all comes from this host, and the bytes that are sent and received."""


class Habits:
    """How long batches of each kind take."""

    def __init__(self) -> None:
        self._took: dict[Kind, deque[float]] = {}

    def note(self, kind: Kind, seconds: float) -> None:
        """One has taken `seconds`."""
        took = self._took.pop(kind, None) or deque(maxlen=REMEMBERED)
        took.append(seconds)
        self._took[kind] = took  # behind all others
        if len(self._took) > KINDS:
            del self._took[next(iter(self._took))]

    def least(self, kind: Kind) -> float:
        """Seconds that the quickest of the last few has taken; 0 where there was none."""
        return min(self._took.get(kind, ()), default=0.0)


class MpiFlight(Flight):
    """One batch."""

    def __init__(
        self, engine: Engine, habits: Habits, channel: Channel, sends: Batch, receives: Batch, subject: str
    ) -> None:
        super().__init__(channel, sends, receives, subject)
        self.engine, self._habits = engine, habits
        self.prompt = True  # MPI sends all of it without asking a receiver first
        self.expected = self.posted  # it hardly lands before that
        self.lull = 0.0  # the poll interval until then; 0 where each poll may move it along
        self.incoming: list[Message] = []
        self.outgoing: list[Message] = []
        self.held: list[Message] = []  # of both, those that MPI does not have wholly
        self.buffered: list[Staged] = []  # those that have buffers, which it keeps until it was waited for
        self.staged: list[Staged] = []  # of these, those that have not ended
        self.ended: set[int] = set()  # ids of requests that ended well, of a flight that was broken off
        self.failure: Exception | None = None  # the error that broke it off, kept for the rank's own thread
        self._died = False
        near = all(self.ranks[peer] in engine.near for peer in receives)
        self._kind = channel.number, near, self.bytes_sent, self.bytes_received
        # A batch of receives or sends alone may be posted long before the peer answers: its time teaches nothing.
        self._learns = bool(sends and receives)
        self._coming: list[deque[MPI.Request]] = []  # of each posted message, the requests that have not ended
        self._going: list[deque[MPI.Request]] = []
        self._came = 0  # receives that ended, since the first
        self._first: float | None = None  # when the first was seen
        self._asked = self.posted  # the last poll

    def is_under_way(self) -> bool:
        """Whether anything of it has to be polled."""
        return bool(self._coming or self._going or self.held or self.staged)

    def fail(self, error: Exception) -> None:
        """Keep `error` for the waiter. Posted messages keep their memory until it is known that nothing touches it."""
        self._died, self.failure = self.engine.died(error), error

    def collect(self) -> None:
        """Note the requests of messages that are posted now, and predict the landing once all are."""
        held = []
        for message in self.held:
            if not message.posted:
                held.append(message)
            elif not message.staged:
                (self._coming if message.line.inward else self._going).append(deque(message.requests))
                if message.word is not None:
                    self._going.append(deque([message.word]))
        self.held = held
        if self._learns and not (held or self.buffered):
            least = self._habits.least(self._kind)
            self.expected = max(self.expected, self.posted + least)
            each = least / max(_count(self._coming), PROBES)  # a poll for each message
            self.lull = min(max(each, SHORTEST), LONGEST) if self.prompt else 0.0

    def done(self) -> bool:
        if self.landed is None and self.failure is None:
            with self.engine.lock:
                if self.landed is None and self.failure is None:  # the other thread may have polled meanwhile
                    self._poll()
        if self.failure is not None:
            own = self.engine.mpi.Exception, InterruptedError
            speaker = "MPI" if isinstance(self.failure, own) else "the device"
            raise (PeerDied if self._died else PeerLost)(
                f"rank {self.channel.me} lost a message of {self.subject}: {speaker} says {self.failure}"
            ) from self.failure
        return self.landed is not None

    def _poll(self) -> None:
        now = time.perf_counter()
        try:
            if self.staged:
                self.staged = [message for message in self.staged if not message.move()]
                self.moved = max(self.moved, *(message.moved for message in self.buffered))
            if self.held:
                for message in self.held:
                    if not message.posted:
                        self.engine.dispatch(message.line)
                self.collect()
            came = _drop_ended(self._coming)
            if came and self._first is None:
                self._first = now
            elif came and self._first is not None:
                # The rest takes as long as the receives since the first, but they come in lumps: the last may be small.
                self._came += came
                self.expected = self._asked + _count(self._coming) * (now - self._first) / self._came / 2
            self._asked = now
            _drop_ended(self._going)
            if not self.is_under_way():
                self.landed = time.perf_counter()
                if self._learns:
                    self._habits.note(self._kind, self.landed - self.posted)
                self.engine.forget(self)
        except (self.engine.mpi.Exception, RuntimeError) as error:  # this may be the progress thread
            asked = {*self.incoming, *self.outgoing}.difference(self.held, self.buffered)
            self.ended = {id(request) for message in asked for request in message.requests} - self._under_way()
            self.fail(error)

    def _under_way(self) -> set[int]:
        """Requests that had not ended at the last poll."""
        return {id(request) for requests in (*self._coming, *self._going) for request in requests}

    def interval(self, waited: float) -> float:
        now, expected = time.perf_counter(), self.expected  # which another thread may change
        if now >= expected:
            return pace(min(waited, now - max(self.moved, expected)))
        return min(self.lull or pace(min(waited, now - self.moved)), expected - now)

    def pause(self, waited: float, left: float) -> None:
        self.engine.advance(but=self)
        time.sleep(min(left, self.interval(waited), self.engine.interval()))

    def wait(self, timeout: float | None = None) -> None:
        super().wait(timeout)
        if self.buffered:
            with self.engine.lock:
                self.give_back()

    def give_back(self) -> None:
        """Part with the buffers; the caller holds the lock."""
        for message in self.buffered:
            message.give_back()
        self.buffered = []

    def missing(self) -> tuple[list[int], list[int]]:
        with self.engine.lock:
            left = self._under_way()
            unheard, untaken = (
                sorted({message.rank for message in messages if not _is_through(message, left)})
                for messages in (self.incoming, self.outgoing)
            )
        return unheard, untaken

    def arrived(self) -> set[int]:
        if self.landed is not None:
            return set(self.receives)
        lacking = {message.rank for message in self.incoming if not self._is_whole(message)}
        return {peer for peer in self.receives if self.ranks[peer] not in lacking}

    def _is_whole(self, message: Message) -> bool:
        if isinstance(message, Staged):
            return message.ended and message.failure is None
        return message.posted and all(id(request) in self.ended for request in message.requests)

    def cancel(self) -> None:
        words = [message.word for message in self.held if message.word is not None and not message.line.inward]
        with self.engine.lock:
            for request in (*words, *(request for message in self.incoming for request in message.requests)):
                if not request.Test():  # which also tells of one that has ended already
                    request.Cancel()
                    request.Test()
            if self.failure is None and self.landed is None:
                self.failure = InterruptedError("it was finalised before the message had landed")


def _drop_ended(queues: list[deque[MPI.Request]]) -> int:
    """Drop requests that have ended, and count them. Of each message only the first that has not is tested."""
    ended = 0
    for requests in queues:
        while requests and requests[0].Test():
            requests.popleft()
            ended += 1
    queues[:] = filter(None, queues)
    return ended


def _is_through(message: Message, left: set[int]) -> bool:
    if isinstance(message, Staged):
        return message.ended
    return message.posted and not any(id(request) in left for request in message.requests)


def _count(queues: list[deque[MPI.Request]]) -> int:
    return sum(map(len, queues))
