"""The buckets cut into sections, in the order in which a forward pass needs them: what one message carries.

A section may have spans of several buckets, and a large parameter may lie in several sections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ..codecs import BLOCK
from .bucket import Bucket

LEAST = 1 << 17
"""Bytes of a section at least: smaller messages take as long."""


class Span(NamedTuple):
    """The elements from `start` up to `stop` of one bucket."""

    bucket: int
    start: int
    stop: int

    def meets(self, bucket: int, start: int, stop: int) -> bool:
        """Whether it has elements of these."""
        return self.bucket == bucket and self.start < stop and start < self.stop


class Sections(NamedTuple):
    """All sections, and by the number of each parameter the last section that has a part of it, -1 if it is empty.

    Parameters are numbered bucket after bucket, in the order of the slots.
    """

    spans: list[list[Span]]
    last: list[int]

    def parameters(self, section: int, buckets: Sequence[Bucket]) -> list[int]:
        """The numbers of the parameters that have a part in `section`."""
        spans = self.spans[section]
        slots = ((number, slot) for number, bucket in enumerate(buckets) for slot in bucket.slots)
        return [
            place
            for place, (number, slot) in enumerate(slots)
            if any(span.meets(number, slot.start, slot.stop) for span in spans)
        ]


def cut(buckets: Sequence[Bucket], order: Sequence[int], count: int) -> Sections:
    """At most `count` sections: a small first one, then equal ones, all of whole blocks of 256 elements.

    The bits of a merge do not depend on where a bucket is cut, and a block shares one scale in 8 bits.

    Args:
        order: the numbers of the parameters in the order in which they are read; those that lack come last.

    >>> import torch
    >>> from gossip.state.buckets.bucket import names, pack
    >>> layers = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 256))
    >>> sgd = torch.optim.SGD(layers.parameters())
    >>> sections = cut(pack(sgd.param_groups, names(sgd, layers)), [2, 3], 3)
    >>> [sum(span.stop - span.start for span in spans) for spans in sections.spans]
    [32768, 52736, 46080]
    >>> sections.last
    [2, 2, 1, 1]
    """
    slots = [(number, slot) for number, bucket in enumerate(buckets) for slot in bucket.slots]
    owner = [np.full(-(-len(bucket.values) // BLOCK), -1) for bucket in buckets]  # block -> its section
    room = _sizes(sum(bucket.values.nbytes for bucket in buckets), count)
    section, left = 0, next(room)
    for place in dict.fromkeys([*order, *range(len(slots))]):
        number, slot = slots[place]
        each = BLOCK * buckets[number].values.itemsize
        blocks = np.arange(slot.start // BLOCK, -(-slot.stop // BLOCK)) if slot.start < slot.stop else np.arange(0)
        blocks = blocks[owner[number][blocks] < 0]
        while len(blocks):
            if left <= 0 and section < count - 1:
                section, left = section + 1, next(room)
            fits = -(-left // each) if section < count - 1 else len(blocks)
            some, blocks = np.split(blocks, [fits])
            owner[number][some] = section
            left -= len(some) * each
    last = [
        max(owner[number][slot.start // BLOCK : -(-slot.stop // BLOCK)].tolist(), default=-1)
        if slot.start < slot.stop
        else -1
        for number, slot in slots
    ]
    spans: list[list[Span]] = [[] for _ in range(section + 1)]
    for number, bucket in enumerate(buckets):
        owner[number][owner[number] < 0] = section  # padding behind the last parameter
        first = 0
        for mine, run in groupby(owner[number].tolist()):
            stop = first + len(list(run))
            spans[mine].append(Span(number, first * BLOCK, min(stop * BLOCK, len(bucket.values))))
            first = stop
    return Sections(spans, last)


def _sizes(total: int, count: int) -> Iterator[int]:
    """Bytes of the first section, half as large as the others, and of each of these."""
    each = max(-(-2 * total // (2 * count - 1)), LEAST)
    yield max(each // 2, LEAST)
    while True:
        yield each
