"""What ranks do together, written once, as relays of point-to-point batches.

A collective is a generator: it posts a batch, yields its flight, and goes on when that has landed. `Relay` makes one
flight of it, which a transport may advance in the background. One implementation serves every transport, has
deadlines everywhere, and its sum has the same bits on every rank.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

from ..errors import PeerDied, PeerLost
from .flight import Flight

if TYPE_CHECKING:
    from .base import Transport

Steps = Iterator[Flight]


class Relay(Flight):
    """A flight made of flights that depend on one another.

    driven: each of them, when it has landed, has the next one follow.
    around: what its steps run in, on whichever thread: a stream of the device that its tensors belong to.
    join: what who has waited for it does before anything else, so that what was done in there has been done.
    """

    driven = False
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    join: Callable[[], object] = nullcontext

    def __init__(self, transport: Transport, steps: Steps, subject: str) -> None:
        super().__init__(transport, {}, {}, subject)
        self._steps = steps
        self._leg: Flight | None = None
        self._turn = threading.Lock()
        self._failure: BaseException | None = None

    def done(self) -> bool:
        if self.landed is None and self._turn.acquire(blocking=False):
            try:
                self._advance()
            finally:
                self._turn.release()
        if self._failure is not None:
            kind = PeerDied if isinstance(self._failure, PeerDied) else PeerLost
            raise kind(f"rank {self.transport.me}: {self.subject} broke off: {self._failure}") from self._failure
        return self.landed is not None

    def wait(self, timeout: float | None = None) -> None:
        try:
            with self.transport.waiting():  # for what it posts now too
                super().wait(timeout)
        finally:
            self.join()

    def _wait(self, limit: float) -> None:
        self.driven = False  # who waits moves it along
        super()._wait(limit)

    def move(self) -> None:
        """Go on as far as that is possible now; what fails is for whoever asks."""
        with self._turn:
            self._advance()

    def _advance(self) -> None:
        try:
            while self._failure is None and self.landed is None and (self._leg is None or self._leg.followed()):
                if self._leg is not None:
                    self._leg.note_heard()
                    self.moved = time.perf_counter()
                with self.around():
                    self._leg = next(self._steps, None)
                if self._leg is None:
                    self.landed = time.perf_counter()
                else:
                    self._leg.follow = self.move if self.driven else None
                    self.carries(self._leg)
        except Exception as error:  # kept for the rank's own thread: this may run in a transport's
            self._failure = error

    def missing(self) -> tuple[list[int], list[int]]:
        leg = self._leg
        return ([], []) if leg is None else leg.missing()

    def awaited(self) -> tuple[list[int], list[int]]:
        leg = self._leg  # whose peers may be numbered otherwise than ours
        return ([], []) if leg is None else leg.awaited()

    def interval(self, waited: float) -> float:
        leg = self._leg
        return super().interval(waited) if leg is None or leg.landed is not None else leg.interval(waited)

    def pause(self, waited: float, left: float) -> None:
        leg = self._leg  # another thread may go on to the next one, or end, meanwhile
        if leg is None or leg.landed is not None:
            super().pause(waited, left)
        else:
            leg.pause(waited, left)


MOST_GATHERED = 1 << 26
"""Bytes of one rank in a gather: each rank makes room for as many as the longest announces, of all."""


def tree_broadcast(transport: Transport, tensors: Sequence[torch.Tensor], source: int) -> Steps:
    """Binomial tree: in step k the 2^k ranks that have the tensors hand them to 2^k others."""
    n = transport.size
    place = (transport.rank - source) % n
    reach = 1
    while reach < n:
        subject = f"a broadcast from rank {source}"
        if place < reach and place + reach < n:
            yield transport.post({(place + reach + source) % n: tensors}, {}, subject)
        elif reach <= place < 2 * reach:
            yield transport.post({}, {(place - reach + source) % n: tensors}, subject)
        reach *= 2


def barrier(transport: Transport) -> Steps:
    """Dissemination: after step k each rank has heard, through others, of 2^(k+1) ranks."""
    n, rank = transport.size, transport.rank
    word = [torch.zeros(1, dtype=torch.uint8)]
    rooms = [(1 << step, [torch.zeros(1, dtype=torch.uint8)]) for step in range((n - 1).bit_length())]
    for reach, room in rooms:
        transport.expect({(rank - reach) % n: room})
    for reach, room in rooms:
        yield transport.post({(rank + reach) % n: word}, {(rank - reach) % n: room}, "a barrier")


def gather(transport: Transport, data: bytes) -> list[bytes]:
    """Every rank's bytes on every rank: first the lengths, then the bytes, padded to the longest."""
    length = torch.tensor([[len(data)]], dtype=torch.int64)
    lengths = [int(row.item()) for row in _all_rows(transport, length.view(torch.uint8)).view(torch.int64)]
    longest = max(*lengths, 1)
    if longest > MOST_GATHERED:
        raise PeerLost(
            f"rank {transport.me} heard rank {transport.ranks[lengths.index(longest)]} announce {longest} bytes to a "
            f"gather, which is for small things of {MOST_GATHERED} at the most: send tensors instead"
        )
    row = torch.zeros(1, longest, dtype=torch.uint8)
    if data:
        row[0, : len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    rows = _all_rows(transport, row)
    return [rows[rank, : lengths[rank]].numpy().tobytes() for rank in range(transport.size)]


def _all_rows(transport: Transport, row: torch.Tensor) -> torch.Tensor:
    """Bruck's all-gather of one row a rank, in log2(n) steps."""
    n, rank = transport.size, transport.rank
    rows = row.new_zeros(n, row.shape[1])
    rows[0] = row[0]

    def steps() -> Steps:
        have = 1
        while have < n:
            more = min(have, n - have)
            yield transport.post(
                {(rank - have) % n: [rows[:more]]}, {(rank + have) % n: [rows[have : have + more]]}, "a gather"
            )
            have += more

    Relay(transport, steps(), "a gather").wait()
    return rows.roll(rank, 0)
