"""What ranks do together, written once, as relays of point-to-point batches.

A collective is a generator: it posts a batch, yields its flight, and goes on when that has landed. `Relay` makes one
flight of it, which a transport may advance in the background. One implementation serves every transport, has
deadlines everywhere, and its sum has the same bits on every rank.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import torch

from ..errors import PeerLost
from .base import Flight, Transport

Steps = Iterator[Flight]


class Relay(Flight):
    """A flight made of flights that depend on one another."""

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
            raise PeerLost(f"rank {self.transport.me}: {self.subject} broke off: {self._failure}") from self._failure
        return self.landed is not None

    def _advance(self) -> None:
        try:
            while self.landed is None and (self._leg is None or self._leg.done()):
                self._leg = next(self._steps, None)
                if self._leg is None:
                    self.landed = time.perf_counter()
                else:
                    self.messages_sent += self._leg.messages_sent
                    self.messages_received += self._leg.messages_received
                    self.bytes_sent += self._leg.bytes_sent
                    self.bytes_received += self._leg.bytes_received
        except Exception as error:  # kept for the rank's own thread: this may run in a transport's
            self._failure = error

    def missing(self) -> tuple[list[int], list[int]]:
        return self._leg.missing() if self._leg is not None else ([], [])

    def pause(self, attempt: int, seconds: float) -> None:
        if self._leg is not None:
            self._leg.pause(attempt, seconds)


def ring_sum(transport: Transport, tensors: Sequence[torch.Tensor]) -> Steps:
    """Reduce-scatter, then all-gather, around the ring: 2(n-1)/n of the bytes leave each rank, the least there is.

    Each element is summed in one order, by one rank, and copied to the others: all ranks end with the same bits.
    """
    n, rank = transport.size, transport.rank
    if n == 1:
        return
    right, left = (rank + 1) % n, (rank - 1) % n
    chunks = [torch.tensor_split(tensor, n) for tensor in tensors]
    scratch = [parts[0].new_empty(parts[0].shape) for parts in chunks]  # the first chunk is never the smaller one
    for hop in range(n - 1):
        give, take = (rank - hop) % n, (rank - hop - 1) % n
        arriving = [room[: len(parts[take])] for room, parts in zip(scratch, chunks, strict=True)]
        yield transport.post(
            {right: _filled(parts[give] for parts in chunks)}, {left: _filled(arriving)}, f"hop {hop} of an exact sum"
        )
        for parts, addend in zip(chunks, arriving, strict=True):
            parts[take].add_(addend)
    for hop in range(n - 1):
        give, take = (rank + 1 - hop) % n, (rank - hop) % n
        yield transport.post(
            {right: _filled(parts[give] for parts in chunks)},
            {left: _filled(parts[take] for parts in chunks)},
            f"hop {n - 1 + hop} of an exact sum",
        )


def _filled(tensors: Iterator[torch.Tensor] | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Those with anything in them: both ends know the sizes, so nothing is sent for the others."""
    return [tensor for tensor in tensors if tensor.numel()]


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
    reach = 1
    while reach < n:
        sent, heard = torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
        yield transport.post({(rank + reach) % n: [sent]}, {(rank - reach) % n: [heard]}, "a barrier")
        reach *= 2


def gather(transport: Transport, data: bytes) -> list[bytes]:
    """Every rank's bytes on every rank: first the lengths, then the bytes, padded to the longest."""
    length = torch.tensor([[len(data)]], dtype=torch.int64)
    lengths = [int(row.item()) for row in _all_rows(transport, length.view(torch.uint8)).view(torch.int64)]
    longest = max(*lengths, 1)
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
