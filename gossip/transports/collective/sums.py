"""The exact sum: a reduce-scatter, then an all-gather. Around a ring for few ranks, in fewer rounds for many.

`post_in_parts` is for messages that the ranks of a node carry together.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch

from ..flight import Batch, Channel, Flight
from .steps import Relay, Steps

RING = 16  # ranks up to which the exact sum goes around a ring

LANE = 1 << 20
"""Blocks of at least so many bytes go around in two halves; with smaller ones that costs more than it hides."""

SEGMENT = 1 << 26  # bytes that are summed at once on more ranks; this bounds the memory of receive buffers

PIECE, PIECES, AHEAD = 1 << 17, 8, 2
"""The least bytes of a piece, the most pieces of a part, and how many of them are under way at once."""

Part = tuple[int, slice]  # (number of a tensor, slice of it)


def exact_sum(channel: Channel, tensors: Sequence[torch.Tensor]) -> Steps:
    """The sum over all ranks, in place; 2(n-1)/n of the bytes leave each rank, the least there is.

    Each element is summed in one order, by one rank, and copied to the others: all ranks end with the same bits. On a
    ring every link carries one message at a time, which suits few ranks; many would spend its 2(n-1) rounds waiting.
    """
    if channel.size > RING:
        return circulant_sum(channel, tensors)
    return ring_sum(channel, tensors, _lanes(channel, tensors))


def reduce_scatter(channel: Channel, tensors: Sequence[torch.Tensor]) -> Steps:
    """The first half of `exact_sum`: in place, each rank has the sum of its `own_parts`; the rest has no meaning."""
    if channel.size > RING:
        return itertools.chain.from_iterable(circulant_scatter(channel, segment) for segment in _cut(tensors))
    ring = Ring(channel, tensors, _lanes(channel, tensors))
    return ring.around(ring.scatter())


def all_gather(channel: Channel, tensors: Sequence[torch.Tensor]) -> Steps:
    """The second half of `exact_sum`: every rank's `own_parts` go to all others, in place."""
    if channel.size > RING:
        return itertools.chain.from_iterable(circulant_gather(channel, segment) for segment in _cut(tensors))
    ring = Ring(channel, tensors, _lanes(channel, tensors))
    return ring.around(ring.gather(channel.rank + 1, "an exact sum"))


def own_parts(channel: Channel, tensors: Sequence[torch.Tensor]) -> list[Part]:
    """The parts that this rank has the sum of between the halves: one or more of each tensor, perhaps empty."""
    n, most, mine = channel.size, SEGMENT, channel.rank
    if n <= RING:  # which cuts nothing, and whose blocks end at the right neighbour
        most, mine = sum(tensor.nbytes for tensor in tensors) + 1, (channel.rank + 1) % n
    parts = []
    for number, where in itertools.chain.from_iterable(_segments(tensors, most)):
        length = where.stop - where.start
        parts.append((number, slice(where.start + mine * length // n, where.start + (mine + 1) * length // n)))
    return parts


def _lanes(channel: Channel, tensors: Sequence[torch.Tensor]) -> int:
    """Into how many parts each block is cut: one half of a large block is added while the other travels."""
    nbytes = sum(tensor.nbytes for tensor in tensors) // channel.size
    return 1 if nbytes < LANE else min(2, channel.lanes)


class Hop(NamedTuple):
    """Tensors that go to the right, receive buffers for those from the left, and tensors to add these to, if any."""

    give: Sequence[torch.Tensor]
    take: Sequence[torch.Tensor]
    subject: str
    to: Sequence[torch.Tensor] = ()


def ring_sum(channel: Channel, tensors: Sequence[torch.Tensor], lanes: int = 1) -> Steps:
    """Reduce-scatter and all-gather around a ring; the last blocks of one half and the first of the other overlap."""
    ring = Ring(channel, tensors, lanes)
    return ring.around(itertools.chain(ring.scatter(), ring.gather(channel.rank + 1, "an exact sum")))


class Ring:
    """Ranks that each send to the one on their right, n blocks of tensors, and hops that move one block each.

    A block is cut into `lanes` parts, and as many parts are under way at once.
    """

    def __init__(self, channel: Channel, tensors: Sequence[torch.Tensor], lanes: int = 1) -> None:
        self._channel, self._lanes, n = channel, lanes, channel.size
        # Each part is received, then given.
        self._part = cache(lambda block, lane: blocks(blocks(tensors, block, 1, n), lane, 1, lanes))

    def scatter(self) -> Iterator[Hop]:
        """After these hops rank r has the sum of block r+1."""
        n, rank = self._channel.size, self._channel.rank
        for hop, lane in itertools.product(range(n - 1), range(self._lanes)):
            mine = self._part(rank - hop - 1, lane)
            arriving = [torch.empty_like(part) for part in mine]
            yield Hop(self._part(rank - hop, lane), arriving, f"hop {hop} of an exact sum", mine)

    def gather(self, own: int, subject: str) -> Iterator[Hop]:
        """From one block a rank, `own` here and `own` + 1 at the right neighbour, to all blocks on all ranks."""
        for hop, lane in itertools.product(range(self._channel.size - 1), range(self._lanes)):
            yield Hop(self._part(own - hop, lane), self._part(own - hop - 1, lane), f"hop {hop} around, {subject}")

    def around(self, hops: Iterator[Hop], *, together: bool = True) -> Steps:
        """Post hop after hop, each once the tensors that it sends have arrived."""
        channel = self._channel
        right, left = (channel.rank + 1) % channel.size, (channel.rank - 1) % channel.size
        under_way: deque[tuple[Flight, Hop]] = deque()
        for hop in hops:
            channel.expect({left: hop.take})
            if len(under_way) == self._lanes:
                yield from _landed(under_way)
            flight = channel.post({right: hop.give}, {left: hop.take}, hop.subject, together=together)
            under_way.append((flight, hop))
            if len(under_way) == self._lanes and not channel.expects:  # then the next buffer is not needed yet
                yield from _landed(under_way)
        while under_way:
            yield from _landed(under_way)


def _landed(under_way: deque[tuple[Flight, Hop]]) -> Steps:
    """Wait for the oldest hop, and add."""
    flight, hop = under_way.popleft()
    yield flight
    if hop.to:
        _add_(hop.to, hop.take)


def _add_(parts: Sequence[torch.Tensor], addends: Sequence[torch.Tensor]) -> None:
    for part, addend in zip(parts, addends, strict=True):
        part.add_(addend)


def circulant_sum(channel: Channel, tensors: Sequence[torch.Tensor]) -> Steps:
    """Reduce-scatter, then all-gather, segment by segment: 2⌈log₂ n⌉ rounds for any n, the least there is.

    Of n blocks, rank r ends the first half with the sum of block r. While it holds s > 1 partial sums, those of blocks
    r, r+1, …, r+s-1, it sends the upper half to the rank that keeps them, and adds as many from the rank on the other
    side. The second half sends the sums back the same way. Receive buffers take half a segment.

    Source: Träff, Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms, 2024, arXiv 2410.14234.
    """
    for segment in _cut(tensors):
        yield from circulant_scatter(channel, segment)
        yield from circulant_gather(channel, segment)


def circulant_scatter(channel: Channel, segment: Sequence[torch.Tensor]) -> Steps:
    """Of n blocks, rank r ends with the sum of block r."""
    n, rank = channel.size, channel.rank
    for skip, count in _rounds(n):
        mine = blocks(segment, rank, count, n)
        arriving = [torch.empty_like(part) for part in mine]
        give = blocks(segment, rank + skip, count, n)
        yield channel.post({(rank + skip) % n: give}, {(rank - skip) % n: arriving}, "an exact sum")
        _add_(mine, arriving)


def circulant_gather(channel: Channel, segment: Sequence[torch.Tensor]) -> Steps:
    """Block r of rank r goes to all others, in reverse order."""
    n, rank = channel.size, channel.rank
    for skip, count in reversed(_rounds(n)):
        give, take = blocks(segment, rank, count, n), blocks(segment, rank + skip, count, n)
        yield channel.post({(rank - skip) % n: give}, {(rank + skip) % n: take}, "an exact sum")


def _rounds(n: int) -> list[tuple[int, int]]:
    """(distance to the receiver, how many blocks) in each round of the first half."""
    held, rounds = n, []
    while held > 1:
        held, before = -(-held // 2), held
        rounds.append((held, before - held))
    return rounds


def _cut(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    for segment in _segments(tensors, SEGMENT):
        yield [tensors[number][where] for number, where in segment]


def _segments(tensors: Sequence[torch.Tensor], most: int) -> Iterator[list[Part]]:
    """All of the tensors, in lists of parts that together have at most `most` bytes."""
    segment: list[Part] = []
    room = most
    for number, tensor in enumerate(tensors):
        start, size = 0, tensor.element_size()
        while (len(tensor) - start) * size > room:
            stop = start + room // size
            yield [*segment, (number, slice(start, stop))]
            start, segment, room = stop, [], most
        segment.append((number, slice(start, len(tensor))))
        room -= (len(tensor) - start) * size
    yield segment


def blocks(tensors: Sequence[torch.Tensor], first: int, count: int, n: int) -> list[torch.Tensor]:
    """Blocks first, first+1, …, modulo n, of each one-dimensional tensor; nothing is sent for those that are empty."""
    first %= n
    runs = [(first, min(first + count, n)), (0, first + count - n)]
    parts = []
    for tensor in tensors:
        length = tensor.numel()
        for start, stop in ((start * length // n, stop * length // n) for start, stop in runs):
            if start < stop:
                parts.append(tensor[start:stop])
    return parts


# -- messages that the ranks of a node carry together: one part each, then an all-gather inside ------------------------


def post_in_parts(
    across: Channel, node: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool = False
) -> Flight:
    """Start one batch, as `across.post` does, of messages that are the same on every rank of `node`.

    Where m ranks share a host and hold the same values, each of them has the same message for another host. So rank r
    of the node sends only the r-th of m parts to its counterpart there, and the counterparts exchange their parts. The
    message crosses the link between the hosts once and not m times, over every network card that the ranks have. A
    large part is cut into pieces: while one is exchanged inside the node, the next travels between the nodes.

    Every rank of the node makes this call, at the same rank of `across`; messages are of one size. A batch has to land
    before the next one is posted on the channel.
    """
    relay = Relay(across, _legs(across, node, sends, receives, subject, together), subject)
    relay.sends, relay.receives = sends, receives
    flight = across.drive(relay)  # before its first half, so that it starts the second one by itself
    flight.done()  # posts the first half
    return flight


def _legs(across: Channel, node: Channel, sends: Batch, receives: Batch, subject: str, together: bool) -> Steps:
    messages = (*sends.values(), *receives.values())
    count = 1 if across.lanes == 1 else max((_pieces(tensors, node.size) for tensors in messages), default=1)
    travelling: deque[tuple[Flight, list[torch.Tensor]]] = deque()
    for piece in range(count + AHEAD - 1):
        if piece < count:
            out, into = (_blocks(batch, piece, count) for batch in (sends, receives))
            own_out, own_into = (_blocks(batch, node.rank, node.size) for batch in (out, into))
            flight = across.post(own_out, own_into, subject, together=together)
            travelling.append((flight, [tensor for tensors in into.values() for tensor in tensors]))
        if piece >= AHEAD - 1:
            flight, tensors = travelling.popleft()
            yield flight
            # One piece after the other, in this order: pieces land in another order on each rank of the node.
            ring = Ring(node, tensors)
            yield from ring.around(ring.gather(node.rank, f"{subject}, inside the node"), together=together)


def _blocks(batch: Batch, number: int, n: int) -> Batch:
    return {peer: blocks(tensors, number, 1, n) for peer, tensors in batch.items()}


def _pieces(message: Sequence[torch.Tensor], ranks: int) -> int:
    """Into how many pieces each of `ranks` parts of a message is cut; the same at both ends and on every rank."""
    nbytes = sum(tensor.nbytes for tensor in message) // ranks if ranks > 1 else 0
    return min(max(nbytes // PIECE, 1), PIECES)
