"""The exact sum, in its two halves: reduce-scatter, after which each rank has the sum of its own parts, and all-gather.

Around a ring for few ranks, in fewer rounds for many.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from .base import Transport
from .collectives import Steps, by_turns

RING = 16
"""Ranks up to which the exact sum goes around a ring."""

LANE = 1 << 16
"""Bytes of a block from which on it goes around in two halves."""

SEGMENT = 1 << 26
"""Bytes that are summed at once on more ranks, which bounds the memory that this takes beside the tensors."""

Part = tuple[int, slice]
"""The number of a tensor, and where in it."""


def exact_sum(transport: Transport, tensors: Sequence[torch.Tensor]) -> Steps:
    """The sum over all ranks, in place; 2(n-1)/n of the bytes leave each rank, the least there is.

    Each element is summed in one order, by one rank, and copied to the others: all ranks end with the same bits. On a
    ring every link carries one message at a time, which suits few ranks; many would spend its 2(n-1) rounds waiting.
    """
    if transport.size > RING:
        return circulant_sum(transport, tensors)
    return _in_lanes(transport, tensors, partial(ring_sum, transport, tensors))


def reduce_scatter(transport: Transport, tensors: Sequence[torch.Tensor]) -> Steps:
    """The first half of `exact_sum`: in place, each rank has the sum of its `own_parts`, and the rest is of no use."""
    if transport.size <= RING:
        yield from _in_lanes(transport, tensors, partial(ring_scatter, transport, tensors))
        return
    for segment in _segments(tensors):
        yield from circulant_scatter(transport, _cut(tensors, segment))


def all_gather(transport: Transport, tensors: Sequence[torch.Tensor]) -> Steps:
    """The second half of `exact_sum`: every rank's `own_parts` go to all others, in place."""
    if transport.size <= RING:
        yield from _in_lanes(transport, tensors, partial(_ring_back, transport, tensors))
        return
    for segment in _segments(tensors):
        yield from circulant_gather(transport, _cut(tensors, segment))


def own_parts(transport: Transport, tensors: Sequence[torch.Tensor]) -> list[Part]:
    """What this rank holds between the halves: at least one part of each tensor, some perhaps empty."""
    n, rank = transport.size, transport.rank
    if n <= RING:
        segments, mine = [[(number, slice(0, len(tensor))) for number, tensor in enumerate(tensors)]], (rank + 1) % n
    else:
        segments, mine = list(_segments(tensors)), rank
    parts = []
    for number, where in itertools.chain.from_iterable(segments):
        length = where.stop - where.start
        parts.append((number, slice(where.start + mine * length // n, where.start + (mine + 1) * length // n)))
    return parts


def _in_lanes(transport: Transport, tensors: Sequence[torch.Tensor], around: Callable[[int, int], Steps]) -> Steps:
    """`around(lane, lanes)` for each lane, by turns: of large blocks one half is added while the other travels."""
    nbytes = sum(tensor.nbytes for tensor in tensors) // transport.size
    lanes = 1 if transport.streams or nbytes < LANE else 2
    return by_turns([around(lane, lanes) for lane in range(lanes)])


def ring_sum(transport: Transport, tensors: Sequence[torch.Tensor], lane: int = 0, lanes: int = 1) -> Steps:
    """Reduce-scatter, then all-gather, around the ring, in 2(n-1) rounds; of each block part `lane` of `lanes`."""
    yield from ring_scatter(transport, tensors, lane, lanes)
    yield from _ring_back(transport, tensors, lane, lanes)


def ring_scatter(transport: Transport, tensors: Sequence[torch.Tensor], lane: int = 0, lanes: int = 1) -> Steps:
    """Of n blocks, rank r ends with the sum of block r+1."""
    n, rank = transport.size, transport.rank
    right, left = (rank + 1) % n, (rank - 1) % n
    for hop in range(n - 1):
        give, mine = (blocks(blocks(tensors, rank - hop - back, 1, n), lane, 1, lanes) for back in (0, 1))
        arriving = [torch.empty_like(part) for part in mine]
        yield transport.post({right: give}, {left: arriving}, f"hop {hop} of an exact sum", together=True)
        for part, addend in zip(mine, arriving, strict=True):
            part.add_(addend)


def _ring_back(transport: Transport, tensors: Sequence[torch.Tensor], lane: int, lanes: int) -> Steps:
    return ring_gather(transport, tensors, transport.rank + 1, "an exact sum", lane, lanes, together=True)


def ring_gather(
    transport: Transport,
    tensors: Sequence[torch.Tensor],
    own: int,
    subject: str,
    lane: int = 0,
    lanes: int = 1,
    *,
    together: bool = False,
) -> Steps:
    """Of the n blocks of each tensor this rank has block `own`, the one on its right block `own` + 1: all get all."""
    n, rank = transport.size, transport.rank
    right, left = (rank + 1) % n, (rank - 1) % n
    for hop in range(n - 1):
        give, take = (blocks(blocks(tensors, own - hop - back, 1, n), lane, 1, lanes) for back in (0, 1))
        yield transport.post({right: give}, {left: take}, f"hop {hop} around, {subject}", together=together)


def circulant_sum(transport: Transport, tensors: Sequence[torch.Tensor]) -> Steps:
    """Reduce-scatter, then all-gather, segment by segment: 2⌈log₂ n⌉ rounds for any n, the least there is.

    Of n blocks, rank r ends the first half with the sum of block r: while it holds s > 1 partial sums, those of blocks
    r, r+1, …, r+s-1, it gives the upper half to the rank that keeps them and takes in as many from the rank on the
    other side. The second half goes the same way back with the sums. Takes as much memory as half a segment.

    Source: Träff, Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms, 2024, arXiv 2410.14234.
    """
    for segment in _segments(tensors):
        yield from circulant_scatter(transport, _cut(tensors, segment))
        yield from circulant_gather(transport, _cut(tensors, segment))


def circulant_scatter(transport: Transport, segment: Sequence[torch.Tensor]) -> Steps:
    """Of n blocks, rank r ends with the sum of block r."""
    n, rank = transport.size, transport.rank
    for skip, count in _rounds(n):
        mine = blocks(segment, rank, count, n)
        arriving = [torch.empty_like(part) for part in mine]
        give = blocks(segment, rank + skip, count, n)
        yield transport.post({(rank + skip) % n: give}, {(rank - skip) % n: arriving}, "an exact sum")
        for part, addend in zip(mine, arriving, strict=True):
            part.add_(addend)


def circulant_gather(transport: Transport, segment: Sequence[torch.Tensor]) -> Steps:
    """Block r of rank r goes to all others, the way back."""
    n, rank = transport.size, transport.rank
    for skip, count in reversed(_rounds(n)):
        give, take = blocks(segment, rank, count, n), blocks(segment, rank + skip, count, n)
        yield transport.post({(rank - skip) % n: give}, {(rank + skip) % n: take}, "an exact sum")


def _rounds(n: int) -> list[tuple[int, int]]:
    """(to which rank from here, how many blocks) in each round of the first half."""
    held, rounds = n, []
    while held > 1:
        held, before = -(-held // 2), held
        rounds.append((held, before - held))
    return rounds


def _segments(tensors: Sequence[torch.Tensor]) -> Iterator[list[Part]]:
    """All of the tensors, in lists of parts that together have at most `SEGMENT` bytes."""
    segment: list[Part] = []
    room = SEGMENT
    for number, tensor in enumerate(tensors):
        start, size = 0, tensor.element_size()
        while (len(tensor) - start) * size > room:
            most = room // size
            yield [*segment, (number, slice(start, start + most))]
            start, segment, room = start + most, [], SEGMENT
        segment.append((number, slice(start, len(tensor))))
        room -= (len(tensor) - start) * size
    yield segment


def _cut(tensors: Sequence[torch.Tensor], segment: Sequence[Part]) -> list[torch.Tensor]:
    return [tensors[number][where] for number, where in segment]


def blocks(tensors: Sequence[torch.Tensor], first: int, count: int, n: int) -> list[torch.Tensor]:
    """Blocks first, first+1, …, modulo n, of each tensor; nothing is sent for those that are empty."""
    first %= n
    runs = [(first, min(first + count, n)), (0, max(0, first + count - n))]
    parts = [tensor[start * len(tensor) // n : stop * len(tensor) // n] for tensor in tensors for start, stop in runs]
    return [part for part in parts if part.numel()]
