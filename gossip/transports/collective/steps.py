"""Collectives, written once as sequences of point-to-point batches.

A collective is a generator: it posts a batch, yields its flight, and goes on when that has landed. `Relay` makes one
flight of it, which a progress thread may advance. One implementation serves every backend, has deadlines everywhere,
and its sum has the same bits on every rank.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from ...errors import PeerDied, PeerLost
from ..flight import Channel, Flight

Steps = Iterator[Flight]


class Relay(Flight):
    """A flight made of flights that depend on one another.

    driven: a landing of one of them starts the next one.
    around: a context for its steps, on whichever thread: a stream of the device that its tensors belong to.
    join: called by the waiter on completion, so that the caller's stream comes after that of the steps.
    """

    driven = False
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    join: Callable[[], object] = nullcontext

    def __init__(self, channel: Channel, steps: Steps, subject: str) -> None:
        super().__init__(channel, {}, {}, subject)
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
            raise kind(f"rank {self.channel.me}: {self.subject} broke off: {self._failure}") from self._failure
        return self.landed is not None

    def wait(self, timeout: float | None = None) -> None:
        try:
            with self.channel.waiting():  # also for the batches that it posts now
                self.driven = False  # the waiter advances it
                super().wait(timeout)
        finally:
            self.join()

    def move(self) -> None:
        """Go on as far as that is possible now; a failure is kept for the waiter."""
        with self._turn:
            self._advance()

    def _advance(self) -> None:
        try:
            while self._failure is None and self.landed is None and (self._leg is None or self._leg.followed()):
                if self._leg is not None:
                    self._leg.wait()  # it has landed
                    self.moved = time.perf_counter()
                with self.around():
                    self._leg = next(self._steps, None)
                if self._leg is None:
                    self.landed = time.perf_counter()
                else:
                    self._leg.follow = self.move if self.driven else None
                    self.carries(self._leg)
        except Exception as error:  # kept for the rank's own thread: this may run in a progress thread
            self._failure = error

    def missing(self) -> tuple[list[int], list[int]]:
        leg = self._leg
        return ([], []) if leg is None else leg.missing()

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
"""Bytes of one rank in a gather at most: each rank allocates as many for every rank as the longest announces."""


def tree_broadcast(channel: Channel, tensors: Sequence[torch.Tensor], source: int) -> Steps:
    """Binomial tree: in step k the 2^k ranks that have the tensors hand them to 2^k others."""
    n, rank, subject = channel.size, channel.rank, f"a broadcast from rank {source}"
    place, reach = (rank - source) % n, 1
    while reach < n:
        if place < reach and place + reach < n:
            yield channel.post({(rank + reach) % n: tensors}, {}, subject)
        elif reach <= place < 2 * reach:
            yield channel.post({}, {(rank - reach) % n: tensors}, subject)
        reach *= 2


def barrier(channel: Channel) -> Steps:
    """Dissemination: after step k each rank has heard, through others, of 2^(k+1) ranks."""
    n, rank = channel.size, channel.rank
    word = [torch.zeros(1, dtype=torch.uint8)]
    rooms = [(1 << step, [torch.zeros(1, dtype=torch.uint8)]) for step in range((n - 1).bit_length())]
    for reach, room in rooms:
        channel.expect({(rank - reach) % n: room})
    for reach, room in rooms:
        yield channel.post({(rank + reach) % n: word}, {(rank - reach) % n: room}, "a barrier")


def gather(channel: Channel, data: bytes) -> list[bytes]:
    """Every rank's bytes on every rank: first the lengths, then the bytes, padded to the longest."""
    length = torch.tensor([[len(data)]], dtype=torch.int64)
    lengths = [int(row.item()) for row in _all_rows(channel, length.view(torch.uint8)).view(torch.int64)]
    longest = max(*lengths, 1)
    if longest > MOST_GATHERED:
        raise PeerLost(
            f"rank {channel.me} heard rank {channel.ranks[lengths.index(longest)]} announce {longest} bytes to a "
            f"gather, which is for small things of at most {MOST_GATHERED}: send tensors instead"
        )
    row = torch.frombuffer(bytearray(bytes(data).ljust(longest, b"\0")), dtype=torch.uint8)
    rows = _all_rows(channel, row.view(1, longest))
    return [rows[rank, : lengths[rank]].numpy().tobytes() for rank in range(channel.size)]


def _all_rows(channel: Channel, row: torch.Tensor) -> torch.Tensor:
    """Bruck's all-gather of one row a rank, in log2(n) steps."""
    n, rank = channel.size, channel.rank
    rows = row.new_zeros(n, row.shape[1])
    rows[0] = row[0]

    def steps() -> Steps:
        have = 1
        while have < n:
            more = min(have, n - have)
            give, take = [rows[:more]], [rows[have : have + more]]
            yield channel.post({(rank - have) % n: give}, {(rank + have) % n: take}, "a gather")
            have += more

    Relay(channel, steps(), "a gather").wait()
    return rows.roll(rank, 0)
