"""One batch over MPI: what of it is with MPI, what waits for its turn, and what is left of it when a rank has died."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from ...errors import GossipError, PeerDied, PeerLost
from ..flight import Batch, Flight
from ..pacing import Kind, lull
from .gpu.staging import Event, Staged
from .parcels import EAGER, Line, Parcel, Plain, pieces

if TYPE_CHECKING:
    from mpi4py import MPI

    from .gpu.routes import Route
    from .transport import MpiTransport

ASKED, UNASKED = 256, 16
"""Pieces at the most: 17 MB where the receiver asks for them, and 1 MB where it may have to keep what comes early.

None on the same host, where memory is shared: one copy of the whole is faster there than any pieces.
"""


class MpiFlight(Flight):
    """One batch.

    Receives are handed over before sends, so that data finds its place when it arrives, and the word that asks for it
    leaves soon. Where nobody asks sends come first, for peers hand over theirs at the same moment.
    """

    transport: MpiTransport

    def __init__(self, transport: MpiTransport, sends: Batch, receives: Batch, subject: str, *, asking: bool) -> None:
        super().__init__(transport, sends, receives, subject)
        # What only comes, or only goes, may have been posted long before anybody answers: there is nothing to learn.
        self._learns = bool(sends and receives)
        self._prompt = True  # MPI has no question of its own to a receiver
        self._failure: Exception | None = None
        self._died = False
        self._receives: list[Parcel] = []
        self._sends: list[Parcel] = []
        self._held: list[Parcel] = []  # not wholly with MPI
        self._aboard: list[Staged] = []  # with buffers
        self._staged: list[Staged] = []  # of these, not ended
        self._coming: list[deque[MPI.Request]] = []  # of each of the others, those that have not ended
        self._going: list[deque[MPI.Request]] = []
        self._came = 0  # of those that come, since the first
        self._first: float | None = None  # when that was seen
        self._asked = self.posted
        self._well: set[int] = set()  # requests that ended well, of a flight that was broken off
        engine = transport.engine
        try:
            with engine.lock:
                self._post(asking)
        except GossipError:  # nothing was posted
            raise
        except (engine.mpi.Exception, RuntimeError) as error:
            # Said by whoever waits for it; what was posted before still has its memory, until that is known.
            self._died, self._failure = engine.died(error), error
        if self._coming or self._going or self._held or self._staged:
            engine.drive(self, awaited=not asking)

    def _post(self, asking: bool) -> None:
        engine, tag, ranks = self.transport.engine, 2 * self.transport.number, self.ranks
        most = ASKED if asking else UNASKED
        eager = {peer: 0 if ranks[peer] in engine.near else most for peer in (*self.receives, *self.sends)}
        marks: dict[Route, Event] = {}
        for inward, batch, parcels in ((True, self.receives, self._receives), (False, self.sends, self._sends)):
            for peer, tensors in batch.items():
                line = Line(inward, engine.places[ranks[peer]], tag)
                for tensor in tensors:
                    route = engine.routes.of(tensor)
                    if route is not None:
                        if route not in marks:
                            marks[route] = route.mark()
                        parcels.append(route.parcel(peer, line, tensor, marks[route]))
                        self._prompt = False
                    else:
                        memory = pieces(tensor, eager[peer])
                        self._prompt &= tensor.nbytes <= EAGER * eager[peer]
                        parcels.append(Plain(peer, line, memory, asking=asking and len(memory) > 1))
        self._held = [*self._receives, *self._sends] if asking else [*self._sends, *self._receives]
        if marks:
            self._aboard = [parcel for parcel in self._held if isinstance(parcel, Staged)]
            self._staged = self._aboard
        for parcel in self._held:
            engine.post(parcel)
        self._collect()

    @property
    def _kind(self) -> Kind:
        near = all(self.ranks[peer] in self.transport.engine.near for peer in self.receives)
        return self.transport.number, near, self.bytes_sent, self.bytes_received

    def _collect(self) -> None:
        """Note what has been handed to MPI, to be asked for, and what has not; and when it will have landed."""
        held = []
        for parcel in self._held:
            if not parcel.posted:
                held.append(parcel)
            elif not parcel.staged:
                (self._coming if parcel.line.inward else self._going).append(deque(parcel.requests))
                if parcel.word is not None:
                    self._going.append(deque([parcel.word]))
        self._held = held
        if self._learns and not (held or self._aboard):
            least = self.transport.engine.habits.least(self._kind)
            self.expected = max(self.expected, self.posted + least)
            self.lull = lull(least, _count(self._coming)) if self._prompt else 0.0

    def _let_go(self) -> None:
        """Hand MPI what it may have by now."""
        for parcel in self._held:
            if not parcel.posted:
                self.transport.engine.dispatch(parcel.line)
        self._collect()

    def done(self) -> bool:
        if self.landed is None and self._failure is None:
            with self.transport.engine.lock:
                if self.landed is None and self._failure is None:  # the other thread may have asked meanwhile
                    self._ask()
        if self._failure is not None:
            own = self.transport.engine.mpi.Exception, InterruptedError
            who = "MPI" if isinstance(self._failure, own) else "the device"
            raise (PeerDied if self._died else PeerLost)(
                f"rank {self.transport.me} lost a message of {self.subject}: {who} says {self._failure}"
            ) from self._failure
        return self.landed is not None

    def _ask(self) -> None:
        engine, now = self.transport.engine, time.perf_counter()
        try:
            if self._staged:
                self._staged = [parcel for parcel in self._staged if not parcel.move()]
                self.moved = max(self.moved, *(parcel.moved for parcel in self._aboard))
            if self._held:
                self._let_go()
            if came := self._end(self._coming):
                self._expect(came, now)
            self._asked = now
            self._end(self._going)
            if not (self._coming or self._going or self._held or self._staged):
                self.landed = time.perf_counter()
                if self._learns:
                    engine.habits.note(self._kind, self.landed - self.posted)
                engine.forget(self)
        except (engine.mpi.Exception, RuntimeError) as error:  # kept for the rank's own thread: this may be the other
            self._well = self._ended_well()
            self._died = engine.died(error)
            self._failure = error

    def _ended_well(self) -> set[int]:
        """Requests that were asked for and are no longer."""
        asked = {*self._receives, *self._sends}.difference(self._held, self._aboard)
        return {id(request) for parcel in asked for request in parcel.requests} - self._under_way()

    def _under_way(self) -> set[int]:
        """Requests that had not ended when they were last asked for."""
        return {id(request) for requests in (*self._coming, *self._going) for request in requests}

    def _expect(self, came: int, now: float) -> None:
        """Foretell the end, now that `came` more have come, which were not there when we asked before."""
        if self._first is None:
            self._first = now
            return
        # What is left takes as long as what has come since the first, but it comes in lumps: the last may be small.
        self._came += came
        self.expected = self._asked + _count(self._coming) * (now - self._first) / self._came / 2

    @staticmethod
    def _end(queues: list[deque[MPI.Request]]) -> int:
        """Drop those that have ended, and say how many. Of each parcel the first that has not is enough to ask for."""
        ended = 0
        for requests in queues:
            while requests and requests[0].Test():
                requests.popleft()
                ended += 1
        queues[:] = [requests for requests in queues if requests]
        return ended

    def note_heard(self) -> None:
        super().note_heard()
        if self._aboard:
            with self.transport.engine.lock:
                self._unload()

    def _unload(self) -> None:
        for parcel in self._aboard:
            parcel.give_back()
        self._aboard = []

    def over(self) -> bool:
        with self.transport.engine.lock:
            self._staged = [parcel for parcel in self._staged if not self._left_alone(parcel)]
            held = [parcel for parcel in self._held if not parcel.posted and self._may_go(parcel)]
            plain = [parcel for parcel in (*self._receives, *self._sends) if not parcel.staged]
            words = [parcel.word for parcel in plain if parcel.word is not None]
            requests = [*words, *(request for parcel in plain for request in parcel.requests)]
            left = [request for request in requests if not self._over(request)]
            if left or held or self._staged:
                return False
            self._unload()
        return True

    def _may_go(self, parcel: Parcel) -> bool:
        """Whether it waits for its turn, which comes unless its line has failed."""
        engine = self.transport.engine
        try:
            engine.dispatch(parcel.line)
        except engine.mpi.Exception:
            return False
        return engine.holds(parcel)

    def _left_alone(self, parcel: Staged) -> bool:
        """Whether neither MPI nor the device touches its memory any more. It goes on where its peer is alive."""
        engine = self.transport.engine
        if parcel.failure is None and not (parcel.posted or engine.holds(parcel)):
            parcel.failure = self._failure  # posting broke off before it
        if parcel.failure is None:
            try:
                if not parcel.posted:
                    engine.dispatch(parcel.line)
                return parcel.move()
            except engine.mpi.Exception as error:
                parcel.failure = error
        return all(self._over(request) for request in parcel.requests) and parcel.let_go()

    def _over(self, request: MPI.Request) -> bool:
        null = self.transport.engine.mpi.REQUEST_NULL
        if request == null:
            return True
        try:
            if request.Test():
                self._well.add(id(request))
        except self.transport.engine.mpi.Exception:
            return bool(request == null)  # ended in an error, or asked again
        return bool(request == null)

    def arrived(self) -> set[int]:
        if self.landed is not None:
            return set(self.receives)
        return set(self.receives) - {parcel.peer for parcel in self._receives if not self._whole(parcel)}

    def _whole(self, parcel: Parcel) -> bool:
        if isinstance(parcel, Staged):
            return parcel.ended and parcel.failure is None
        return parcel.posted and all(id(request) in self._well for request in parcel.requests)

    def pause(self, waited: float, left: float) -> None:
        engine = self.transport.engine
        engine.advance(but=self)
        time.sleep(min(left, self.interval(waited), engine.interval()))

    def cancel(self) -> None:
        words = [parcel.word for parcel in self._held if parcel.word is not None and not parcel.line.inward]
        with self.transport.engine.lock:
            for request in (*words, *(request for parcel in self._receives for request in parcel.requests)):
                if not request.Test():  # which also tells of one that has landed already
                    request.Cancel()
                    request.Test()
            if self._failure is None and self.landed is None:
                self._failure = InterruptedError("it was finalised before the message had landed")

    def missing(self) -> tuple[list[int], list[int]]:
        with self.transport.engine.lock:
            left = self._under_way()
            unheard, untaken = (
                {parcel.peer for parcel in parcels if not self._through(parcel, left)}
                for parcels in (self._receives, self._sends)
            )
        return sorted(unheard), sorted(untaken)

    @staticmethod
    def _through(parcel: Parcel, left: set[int]) -> bool:
        if isinstance(parcel, Staged):
            return parcel.ended
        return parcel.posted and not any(id(request) in left for request in parcel.requests)


def _count(queues: list[deque[MPI.Request]]) -> int:
    return sum(map(len, queues))
