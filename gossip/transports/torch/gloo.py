"""The messages of one channel over Gloo: receives that are posted early, acknowledgements, and tags.

A message leaves once its receive has been posted, so receives are posted early where they are known: see `expect`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import torch
import torch.distributed as dist

from ...errors import PeerLost
from ..deadlines import called
from ..flight import Channel
from .waiter import Message

COUNT_BITS = 11
"""Of the 31 bits of a Gloo tag, for the messages under way at once on a channel; one more is for acknowledgements, and
the channel's number has the rest."""

LONG = 1 << 16
"""Messages of at least this size are acknowledged by their receiver, where messages of another step may be next. Gloo's
send completes when the kernel has buffered the last some hundred kilobytes: without an acknowledgement, messages to
other peers would then share the line with them."""

MESSAGE, ACKNOWLEDGEMENT = 0, 1


class Mail:
    """The state of one channel. It must not keep the channel alive, which each call names instead."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        # rank -> receives that were posted early; while a work is held, so is the tensor that Gloo fills
        self._expected: defaultdict[int, deque[tuple[torch.Tensor, dist.Work]]] = defaultdict(deque)
        # (sent, kind, rank) -> how many there were
        self._counts: defaultdict[tuple[bool, int, int], itertools.count[int]] = defaultdict(itertools.count)

    def receive(
        self, channel: Channel, peer: int, tensors: Sequence[torch.Tensor], subject: str, together: bool
    ) -> Message:
        """Post the receives of a message."""
        rank = channel.ranks[peer]
        works = [self._take(channel, rank, tensor, subject) for tensor in tensors]
        if together or not _is_long(tensors):
            return Message(True, rank, works)
        tag = self._tag(channel, True, ACKNOWLEDGEMENT, rank)
        return Message(True, rank, works, partial(self._acknowledge, channel, rank, tag, subject))

    def send(
        self, channel: Channel, peer: int, tensors: Sequence[torch.Tensor], subject: str, together: bool
    ) -> Message:
        """Post the sends of a message, after the receive of its acknowledgement: Gloo then knows of that in time."""
        rank, answers = channel.ranks[peer], []
        if not together and _is_long(tensors):
            room = torch.empty(1, dtype=torch.uint8)
            tag = self._tag(channel, False, ACKNOWLEDGEMENT, rank)
            answers = [self._put(channel, False, rank, room, subject, tag)]
        tags = (self._tag(channel, True, MESSAGE, rank) for _ in tensors)
        works = [self._put(channel, True, rank, t, subject, tag) for t, tag in zip(tensors, tags, strict=True)]
        return Message(False, rank, [*works, *answers])

    def expect(self, channel: Channel, peer: int, tensors: Sequence[torch.Tensor]) -> None:
        """Post the receives of the next message."""
        rank = channel.ranks[peer]
        with suppress(PeerLost):  # a peer that has ended is missed by a wait for it, if there is any
            self._expected[rank].extend((t, self._start(channel, rank, t, "a later message")) for t in tensors)

    def _take(self, channel: Channel, rank: int, tensor: torch.Tensor, subject: str) -> dist.Work:
        """The receive that was posted when it was expected, or a new one."""
        if not self._expected[rank]:
            return self._start(channel, rank, tensor, subject)
        room, work = self._expected[rank].popleft()
        if room is not tensor:
            raise PeerLost(
                f"rank {channel.me} cannot receive {subject} from rank {rank}, of which another message is expected "
                "first: a wait on this channel has broken off, and it is of no use any more"
            )
        return work

    def _start(self, channel: Channel, rank: int, tensor: torch.Tensor, subject: str) -> dist.Work:
        return self._put(channel, False, rank, tensor, subject, self._tag(channel, False, MESSAGE, rank))

    def _acknowledge(self, channel: Channel, rank: int, tag: int, subject: str) -> None:
        """Tell the sender that all of a message has arrived. A peer that has ended by now does not need it."""
        with suppress(PeerLost), naming(channel, [rank], subject):
            work = self._put(channel, True, rank, torch.empty(1, dtype=torch.uint8), subject, tag)
            work.wait()  # or it may go with its work

    def _put(self, channel: Channel, sent: bool, rank: int, tensor: torch.Tensor, subject: str, tag: int) -> dist.Work:
        with naming(channel, [rank], subject):
            if sent:
                work = dist.isend(tensor, group=self._group, group_dst=rank, tag=tag)
            else:
                work = dist.irecv(tensor, group=self._group, group_src=rank, tag=tag)
        assert work is not None, "every rank is a member"
        return work

    def _tag(self, channel: Channel, sent: bool, kind: int, rank: int) -> int:
        """Gloo matches by tag: the channel, the kind, and which of its messages between the two ranks it is."""
        return (2 * channel.number + kind) << COUNT_BITS | next(self._counts[sent, kind, rank]) % (1 << COUNT_BITS)


@contextmanager
def naming(channel: Channel, ranks: Collection[int], subject: str) -> Iterator[None]:
    """Around a post: an error says what was posted, and to whom."""
    channel.refuse_closed(subject)
    try:
        yield
    except RuntimeError as error:
        named = sorted(ranks)
        raise PeerLost(
            f"rank {channel.me} lost a message of {subject}: it could not be posted to or from {called(named)}"
            f"{channel.board.known_of(named)}: torch.distributed says {error}"
        ) from error


def _is_long(message: Sequence[torch.Tensor]) -> bool:
    """Whether it is acknowledged; alike at both ends."""
    return sum(tensor.nbytes for tensor in message) >= LONG
