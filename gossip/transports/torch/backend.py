"""Gloo and NCCL by torch.distributed: one batch of sends and receives a round, on a process group of its own.

One class for both, so that what CPU tests prove of the batching holds on GPUs. They differ in how a batch is known to
have landed. Gloo moves data in the background but reports completion only to a thread that waits: see `waiter`. A
message leaves there once its receive has been posted, so receives are posted early where they are known: see `expect`.
NCCL works in stream order: see `streams`.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import zip_longest

import torch
import torch.distributed as dist

from ...errors import PeerLost, TransportUnavailable
from ...recovery.survival import Carrier
from ..collectives import Relay
from ..deadlines import called
from ..flight import Backend, Batch, Channel, Flight
from .streams import Operation, StreamedFlight, Watchdog, batches
from .waiter import Message, Part, WaitedFlight, Waiters

BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}
COUNT_BITS = 11
"""Of the 31 bits of a Gloo tag, for the messages under way at once on a channel; one more is for acknowledgements, and
the channel's number has the rest."""

LONG = 1 << 16
"""Messages of at least this size are acknowledged by their receiver, where messages of another step may be next. Gloo's
send completes when the kernel has buffered the last some hundred kilobytes: without an acknowledgement, messages to
other peers would then share the line with them."""

MESSAGE, ACKNOWLEDGEMENT = 0, 1


@dataclass(eq=False)
class Mail:
    """What is kept of one channel.

    Attributes:
        expected: rank -> receives that were posted early; while a work is held, so is the tensor that Gloo fills.
        counts: (sent, kind, rank) -> how many of them there were.
    """

    expected: defaultdict[int, deque[tuple[torch.Tensor, dist.Work]]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    counts: defaultdict[tuple[bool, int, int], itertools.count[int]] = field(
        default_factory=lambda: defaultdict(itertools.count)
    )

    def tag(self, number: int, sent: bool, kind: int, rank: int) -> int:
        """Gloo matches by tag: the channel, the kind, and which of its messages between the two ranks it is."""
        return (2 * number + kind) << COUNT_BITS | next(self.counts[sent, kind, rank]) % (1 << COUNT_BITS)


class TorchBackend(Backend):
    """Ranks of torch.distributed's world, over one process group of its own, for all channels and groups."""

    def __init__(self, name: str, timeout: float, device: torch.device) -> None:
        """Every rank of the default group, which exists already, makes this call."""
        if name == "nccl" and not (torch.cuda.is_available() and dist.is_nccl_available()):
            raise TransportUnavailable(
                "transport 'nccl' needs CUDA, a GPU for each rank and a torch built with NCCL, and this process has "
                "not all of them: choose transport='mpi' or 'gloo'"
            )
        self.name = name
        self.rank = dist.get_rank()
        self.carrier = Carrier(dist.get_world_size())
        self.most_numbers = 1 << (30 - COUNT_BITS)
        self.lanes, self.expects = (1, False) if name == "nccl" else (2, True)
        self.home = device if name == "nccl" else torch.device("cpu")
        self._group = self._new_group(timeout)
        # A group whose point-to-point and collectives share a communicator serialises them.
        self._sums = self._new_group(timeout) if name == "nccl" else self._group
        self._stream = torch.cuda.Stream(device, priority=-1) if name == "nccl" else None
        self._watchdog = Watchdog(device)
        self.waiters = Waiters()
        self._mail: weakref.WeakKeyDictionary[Channel, Mail] = weakref.WeakKeyDictionary()
        self._first = Mail()  # of number 0, on which every new world agrees: it goes on counting

    def _new_group(self, timeout: float) -> dist.ProcessGroup:
        # Longer than ours: a wait of Gloo's that times out closes the pair for good, and cannot name who is missing.
        longer, options = timedelta(seconds=2 * timeout + 60), None
        if self.name == "nccl":
            options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
            options._timeout = longer
        group = dist.new_group(timeout=longer, backend=BACKENDS[self.name], pg_options=options)
        assert isinstance(group, dist.ProcessGroup), "every rank is a member"
        return group

    def open(self, everyone: Channel) -> None:
        """The first operation of a group must be that of all ranks; later ones may be those of some ranks alone."""
        if self.name == "nccl":
            self._streamed_sum(everyone, [torch.zeros(1, device=self.home)]).wait()
            if everyone.size > 1:
                self.introduce(everyone, [(everyone.rank + 1) % everyone.size], [(everyone.rank - 1) % everyone.size])

    def introduce(self, channel: Channel, sends: Collection[int], receives: Collection[int]) -> None:
        """NCCL connects two ranks when the first message between them is posted, and the host waits for that."""
        if self.name == "nccl":
            out, into = ({peer: [torch.zeros(1, device=self.home)] for peer in peers} for peers in (sends, receives))
            channel.post(out, into, "the first exchange").wait()

    def post(self, channel: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool) -> Flight:
        if any(tensor.is_cuda for batch in (receives, sends) for tensors in batch.values() for tensor in tensors):
            return self._post_to_stream(channel, sends, receives, subject)
        mail, ranks = self._mail_of(channel), channel.ranks
        incoming = [
            self._receive(channel, mail, ranks[peer], tensors, subject, not together and _is_long(tensors))
            for peer, tensors in receives.items()
        ]
        outgoing = [
            self._send(channel, mail, ranks[peer], tensors, subject, not together and _is_long(tensors))
            for peer, tensors in sends.items()
        ]
        # Each message is waited for apart from those of other peers: they may be late, and an error names who is.
        parts = [Part(*pair) for pair in zip_longest(incoming, outgoing)]
        flight = WaitedFlight(channel, sends, receives, subject, parts)
        for part in parts:
            self.waiters.add(flight, part)
        return flight

    # -- messages of Gloo ----------------------------------------------------------------------------------------------

    def _mail_of(self, channel: Channel) -> Mail:
        if not channel.number:
            return self._first
        mail = self._mail.get(channel)
        if mail is None:
            self._mail[channel] = mail = Mail()
        return mail

    def _receive(
        self, channel: Channel, mail: Mail, rank: int, tensors: Sequence[torch.Tensor], subject: str, answers: bool
    ) -> Message:
        works = [self._take_or_start(channel, mail, rank, tensor, subject) for tensor in tensors]
        if not answers:
            return Message(True, rank, works)
        tag = mail.tag(channel.number, True, ACKNOWLEDGEMENT, rank)
        return Message(True, rank, works, partial(self._acknowledge, channel, rank, tag, subject))

    def _send(
        self, channel: Channel, mail: Mail, rank: int, tensors: Sequence[torch.Tensor], subject: str, answered: bool
    ) -> Message:
        answers = []
        if answered:
            # The receive of the answer before the message, so that Gloo knows of it when the message arrives.
            tag = mail.tag(channel.number, False, ACKNOWLEDGEMENT, rank)
            answers = [self._put(channel, False, rank, torch.empty(1, dtype=torch.uint8), subject, tag)]
        works = [
            self._put(channel, True, rank, tensor, subject, mail.tag(channel.number, True, MESSAGE, rank))
            for tensor in tensors
        ]
        return Message(False, rank, [*works, *answers])

    def expect(self, channel: Channel, receives: Batch) -> None:
        mail = self._mail_of(channel)
        for peer, tensors in receives.items() if self.expects else ():
            rank = channel.ranks[peer]
            with contextlib.suppress(PeerLost):  # a peer that has ended is missed by a wait for it, if there is any
                for tensor in tensors:
                    work = self._start(channel, mail, rank, tensor, "a later message")
                    mail.expected[rank].append((tensor, work))

    def _take_or_start(self, channel: Channel, mail: Mail, rank: int, tensor: torch.Tensor, subject: str) -> dist.Work:
        """The receive that was posted when it was expected, or a new one."""
        if not mail.expected[rank]:
            return self._start(channel, mail, rank, tensor, subject)
        room, work = mail.expected[rank].popleft()
        if room is not tensor:
            raise PeerLost(
                f"rank {channel.me} cannot receive {subject} from rank {rank}, of which another message is expected "
                "first: a wait on this channel has broken off, and it is of no use any more"
            )
        return work

    def _start(self, channel: Channel, mail: Mail, rank: int, tensor: torch.Tensor, subject: str) -> dist.Work:
        return self._put(channel, False, rank, tensor, subject, mail.tag(channel.number, False, MESSAGE, rank))

    def _put(self, channel: Channel, sent: bool, rank: int, tensor: torch.Tensor, subject: str, tag: int) -> dist.Work:
        with _naming(channel, [rank], subject):
            if sent:
                work = dist.isend(tensor, group=self._group, group_dst=rank, tag=tag)
            else:
                work = dist.irecv(tensor, group=self._group, group_src=rank, tag=tag)
        assert work is not None, "every rank is a member"
        return work

    def _acknowledge(self, channel: Channel, rank: int, tag: int, subject: str) -> None:
        """Tell the sender that all of a message has come. A peer that is gone by now misses that, if anybody does."""
        with contextlib.suppress(PeerLost), _naming(channel, [rank], subject):
            work = self._put(channel, True, rank, torch.empty(1, dtype=torch.uint8), subject, tag)
            work.wait()  # or it may go with its work

    # -- batches of NCCL -----------------------------------------------------------------------------------------------

    def _post_to_stream(self, channel: Channel, sends: Batch, receives: Batch, subject: str) -> StreamedFlight:
        operations: list[Operation] = [
            (kind, channel.ranks[peer], tensor)
            for kind, batch in (("receive", receives), ("send", sends))
            for peer, tensors in batch.items()
            for tensor in tensors
        ]
        assert all(tensor.is_cuda for _, _, tensor in operations), "one batch is of one kind of memory"
        flight = StreamedFlight(channel, sends, receives, subject)
        with self._in_order(flight):
            for batch in batches(operations):
                for work in self._start_batch(channel, batch, subject):
                    work.wait()  # orders our stream after NCCL's; the host goes on
        return flight

    def _start_batch(self, channel: Channel, batch: Sequence[Operation], subject: str) -> list[dist.Work]:
        with _naming(channel, {rank for _, rank, _ in batch}, subject):
            operations = [
                dist.P2POp(dist.isend if kind == "send" else dist.irecv, tensor, group=self._group, group_peer=rank)
                for kind, rank, tensor in batch
            ]
            return list(dist.batch_isend_irecv(operations))

    @contextmanager
    def _in_order(self, flight: StreamedFlight) -> Iterator[None]:
        """What is done inside comes after all that the current stream has so far, and lands as `flight`."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())  # after the update that wrote what is sent
        with torch.cuda.stream(self._stream):
            yield
            flight.event.record(self._stream)
        self._watchdog.add(flight, flight.channel.timeout)

    def drive(self, flight: Flight) -> Flight:
        if not isinstance(flight, Relay):
            return flight
        if self.name == "gloo":
            flight.driven = True  # by the threads that wait for its parts
            flight.move()
            return flight
        # All of it passes through our stream, sums included: each leg comes after the one before, and no host waits.
        streamed = StreamedFlight(flight.channel, {}, {}, flight.subject)
        with self._in_order(streamed):
            flight.move()
        if flight.landed is None:  # it moves the memory of hosts, or broke off
            return flight
        streamed.carries(flight)
        streamed.sends, streamed.receives = flight.sends, flight.receives
        return streamed

    def sum(self, channel: Channel, tensors: Sequence[torch.Tensor]) -> Flight | None:
        everyone = list(channel.ranks) == list(range(dist.get_world_size()))
        if self.name == "nccl" and everyone and all(tensor.is_cuda for tensor in tensors):
            return self._streamed_sum(channel, tensors)
        return None

    def _streamed_sum(self, channel: Channel, tensors: Sequence[torch.Tensor]) -> StreamedFlight:
        flight, size = StreamedFlight(channel, {}, {}, "an exact sum"), channel.size
        # What a ring moves for each rank: 2(n-1)/n of the bytes.
        flight.bytes_sent = flight.bytes_received = sum(2 * (size - 1) * tensor.nbytes // size for tensor in tensors)
        flight.messages_sent = flight.messages_received = 2 * (size - 1) * len(tensors)
        with _naming(channel, channel.ranks, flight.subject), self._in_order(flight):
            for tensor in tensors:
                work = dist.all_reduce(tensor, group=self._sums, async_op=True)
                assert work is not None
                work.wait()
        return flight

    def close(self) -> None:
        self.waiters.stop()  # first, so that messages are still acknowledged
        self._watchdog.stop()
        for group in {self._group, self._sums}:
            dist.destroy_process_group(group)


@contextmanager
def _naming(channel: Channel, ranks: Collection[int], subject: str) -> Iterator[None]:
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
