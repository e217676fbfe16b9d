"""Gloo and NCCL by torch.distributed: one batch of sends and receives a round, on a process group of its own.

One class for both, so that what CPU tests prove of the batching holds on GPUs. They differ in how a batch is known to
have landed. Gloo moves data in the background but says so only to a thread that waits: see `waiter`. A message leaves
there once its receive has been posted, so receives are posted early where they are known: see `expect`. And a send has
ended there once the kernel has all of it, so the receiver of a long message says a word when it has come. NCCL works in
stream order: see `streams`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest

import torch
import torch.distributed as dist

from ...checks import check_tensors
from ...errors import PeerLost, TransportUnavailable
from ...recovery.survival import Carrier
from ..base import Transport
from ..collectives import Relay
from ..flight import Batch, Flight, called
from .streams import Operation, StreamedFlight, Watchdog, batches
from .waiter import Message, Part, WaitedFlight, Waiters

BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}
COUNT_BITS = 11
"""Of the 31 bits of a Gloo tag, for the messages under way at once on a channel; one more is for words, and the
channel's number has the rest."""

LONG = 1 << 16
"""Bytes of a message from which on its receiver says that it has come, where others may be next. Without that it would
have landed when the kernel has the last some hundred kilobytes, and what goes to others would share the line with them.
"""


Expected = defaultdict[int, deque[tuple[torch.Tensor, dist.Work]]]
"""Rank -> what is received from it next; while the work is held, so is what Gloo fills."""

Counts = defaultdict[tuple[str, int], "itertools.count[int]"]
"""(kind of message, rank) -> how many of them there were on one channel."""


class DistributedTransport(Transport):
    """Ranks of torch.distributed's world, over one process group that nobody else uses, for all channels and groups."""

    def __init__(self, name: str, timeout: float, device: torch.device) -> None:
        """Every rank of the default group, which exists already, makes this call."""
        if name == "nccl" and not (torch.cuda.is_available() and dist.is_nccl_available()):
            raise TransportUnavailable(
                "transport 'nccl' needs CUDA, a GPU for each rank and a torch built with NCCL, and this process has "
                "not all of them: choose transport='mpi' or 'gloo'"
            )
        super().__init__(dist.get_rank(), dist.get_world_size(), timeout, Carrier(dist.get_world_size()))
        self.name = name
        self.streams, self.expects = name == "nccl", name == "gloo"
        self.most_numbers = 1 << (30 - COUNT_BITS)
        self.home = device if name == "nccl" else torch.device("cpu")
        self._group = self._new_group()
        # A group whose point-to-point and collectives share a communicator serialises them.
        self._sums = self._new_group() if name == "nccl" else self._group
        self._stream = torch.cuda.Stream(device, priority=-1) if name == "nccl" else None
        self._watchdog = Watchdog(device)
        self.waiters = Waiters()
        self._expected = Expected(deque)
        self._counts = self._first_counts = Counts(itertools.count)
        if name == "nccl":
            self._open_connections()

    def __copy__(self) -> DistributedTransport:
        """A channel or group to be: nothing is expected on it, and nothing has been sent."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_expected": Expected(deque), "_counts": Counts(itertools.count)}
        return other

    def _new_group(self) -> dist.ProcessGroup:
        # Longer than ours: a wait of Gloo's that times out closes the pair for good, and cannot name who is missing.
        timeout, options = timedelta(seconds=2 * self.timeout + 60), None
        if self.name == "nccl":
            options = dist.ProcessGroupNCCL.Options(is_high_priority_stream=True)
            options._timeout = timeout
        group = dist.new_group(timeout=timeout, backend=BACKENDS[self.name], pg_options=options)
        assert isinstance(group, dist.ProcessGroup), "every rank is a member"
        return group

    def _open_connections(self) -> None:
        """The first operation of a group must be everybody's; later ones may be those of some ranks alone."""
        self._streamed_sum([torch.zeros(1, device=self.home)]).wait()
        if self.size > 1:
            self._say_hello([(self.rank + 1) % self.size], [(self.rank - 1) % self.size])

    def introduce(self, sends: Collection[int], receives: Collection[int]) -> None:
        if self.name == "nccl":
            self._say_hello(sends, receives)

    def _say_hello(self, sends: Collection[int], receives: Collection[int]) -> None:
        """NCCL connects two ranks when the first message between them is posted, and the host waits for that."""
        out, into = ({peer: [torch.zeros(1, device=self.home)] for peer in peers} for peers in (sends, receives))
        self.post(out, into, "the first exchange").wait()

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> Flight:
        operations = [
            (kind, peer, tensor)
            for kind, batch in (("receive", receives), ("send", sends))
            for peer, tensors in batch.items()
            for tensor in tensors
        ]
        if any(tensor.is_cuda for _, _, tensor in operations):
            return self._streamed(operations, sends, receives, subject)
        flight = WaitedFlight(self, sends, receives, subject)
        incoming = [self._incoming(peer, tensors, subject, together) for peer, tensors in receives.items()]
        outgoing = [self._outgoing(peer, tensors, subject, together) for peer, tensors in sends.items()]
        # Each message is waited for apart from those of other peers: they may be late, and an error names who is.
        flight.wait_for([Part(*pair) for pair in zip_longest(incoming, outgoing)])
        return flight

    def _incoming(self, peer: int, tensors: Sequence[torch.Tensor], subject: str, together: bool) -> Message:
        works = [self._start(peer, tensor, subject) for tensor in tensors]
        word = None if together or not _long(tensors) else self._tag("say", self.ranks[peer])
        return Message(True, peer, works, word)

    def _outgoing(self, peer: int, tensors: Sequence[torch.Tensor], subject: str, together: bool) -> Message:
        word, heard = None, []
        if not together and _long(tensors):
            # The room for the word before the message, so that the notice of it is there when the message is.
            word = self._tag("hear", self.ranks[peer])
            heard = [self._put("hear", peer, torch.empty(1, dtype=torch.uint8), subject, word)]
        return Message(False, peer, [*(self._put("send", peer, t, subject) for t in tensors), *heard], word)

    def expect(self, receives: Batch) -> None:
        for peer, tensors in receives.items() if self.expects else ():
            with contextlib.suppress(PeerLost):  # a peer that has ended is missed by who waits for it, if anybody does
                for tensor in tensors:
                    work = self._put("receive", peer, tensor, "a later message")
                    self._expected[self.ranks[peer]].append((tensor, work))

    def _start(self, peer: int, tensor: torch.Tensor, subject: str) -> dist.Work:
        """Post one receive, or take the one that was posted when it was expected."""
        if not self._expected[self.ranks[peer]]:
            return self._put("receive", peer, tensor, subject)
        room, work = self._expected[self.ranks[peer]].popleft()
        if room is not tensor:
            raise PeerLost(
                f"rank {self.me} cannot receive {subject} from rank {self.ranks[peer]}, of which another message is "
                "expected first: a wait on this channel has broken off, and it is of no use any more"
            )
        return work

    def _put(self, kind: str, peer: int, tensor: torch.Tensor, subject: str, tag: int | None = None) -> dist.Work:
        rank = self.ranks[peer]
        tag = self._tag(kind, rank) if tag is None else tag
        with self._named([peer], subject):
            if kind in ("send", "say"):
                work = dist.isend(tensor, group=self._group, group_dst=rank, tag=tag)
            else:
                work = dist.irecv(tensor, group=self._group, group_src=rank, tag=tag)
        assert work is not None, "every rank is a member"
        return work

    @contextmanager
    def _named(self, peers: Collection[int], subject: str) -> Iterator[None]:
        """Around a post: what goes wrong is an error that says what, and to whom."""
        self.refuse_closed(subject)
        try:
            yield
        except RuntimeError as error:
            ranks = sorted({self.ranks[peer] for peer in peers})
            raise PeerLost(
                f"rank {self.me} lost a message of {subject}: it could not be posted to or from {called(ranks)}"
                f"{self.board.known_of(ranks)}: torch.distributed says {error}"
            ) from error

    def _tag(self, kind: str, peer: int) -> int:
        """Gloo matches by tag: the channel, and which of its messages between the two ranks it is, or of its words."""
        number = 2 * self.number + (kind in ("say", "hear"))
        # Number 0, on which every new world agrees, goes on counting where the last one stopped.
        counts = self._counts if self.number else self._first_counts
        return number << COUNT_BITS | next(counts[kind, peer]) % (1 << COUNT_BITS)

    def say(self, word: int, peer: int, subject: str) -> None:
        """The word that all of a message has come. A peer that is gone by now misses it, if anybody does."""
        with contextlib.suppress(PeerLost), self._named([peer], subject):
            work = self._put("say", peer, torch.empty(1, dtype=torch.uint8), subject, word)
            work.wait()  # or it may go with its work

    def _streamed(self, operations: list[Operation], sends: Batch, receives: Batch, subject: str) -> StreamedFlight:
        assert all(tensor.is_cuda for _, _, tensor in operations), "one batch is of one kind of memory"
        flight = StreamedFlight(self, sends, receives, subject)
        with self._in_order(flight):
            for batch in batches(operations):
                for work in self._start_batch(batch, subject):
                    work.wait()  # orders our stream after NCCL's; the host goes on
        return flight

    def _start_batch(self, batch: Sequence[Operation], subject: str) -> list[dist.Work]:
        with self._named({peer for _, peer, _ in batch}, subject):
            operations = [
                dist.P2POp(
                    dist.isend if kind == "send" else dist.irecv,
                    tensor,
                    group=self._group,
                    tag=self._tag(kind, self.ranks[peer]),
                    group_peer=self.ranks[peer],
                )
                for kind, peer, tensor in batch
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
        self._watchdog.add(flight, self.timeout)

    def drive(self, flight: Flight) -> Flight:
        if not isinstance(flight, Relay):
            return flight
        if self.name == "gloo":
            flight.driven = True  # by the threads that wait for its parts
            flight.move()
            return flight
        # All of it passes through our stream, sums included: each leg comes after the one before, and no host waits.
        streamed = StreamedFlight(self, {}, {}, flight.subject)
        with self._in_order(streamed):
            flight.move()
        if flight.landed is None:  # it moves the memory of hosts, or broke off
            return flight
        streamed.carries(flight)
        streamed.sends, streamed.receives = flight.sends, flight.receives
        return streamed

    def sum(self, tensors: Sequence[torch.Tensor]) -> Flight:
        check_tensors("sum", tensors, flat=True)
        everyone = list(self.ranks) == list(range(dist.get_world_size()))
        if self.name == "nccl" and everyone and all(tensor.is_cuda for tensor in tensors):
            return self._streamed_sum(tensors)
        return super().sum(tensors)

    def _streamed_sum(self, tensors: Sequence[torch.Tensor]) -> StreamedFlight:
        flight = StreamedFlight(self, {}, {}, "an exact sum")
        # What a ring moves for each rank: 2(n-1)/n of the bytes.
        flight.bytes_sent = flight.bytes_received = sum(
            2 * (self.size - 1) * tensor.nbytes // self.size for tensor in tensors
        )
        flight.messages_sent = flight.messages_received = 2 * (self.size - 1) * len(tensors)
        with self._named(range(self.size), flight.subject), self._in_order(flight):
            for tensor in tensors:
                work = dist.all_reduce(tensor, group=self._sums, async_op=True)
                assert work is not None
                work.wait()
        return flight

    def close(self) -> None:
        self.waiters.stop()  # first, so that words are still said
        self._watchdog.stop()
        for group in {self._group, self._sums}:
            dist.destroy_process_group(group)


def _long(message: Sequence[torch.Tensor]) -> bool:
    """Whether a word is said when it has come; alike at both ends."""
    return sum(tensor.nbytes for tensor in message) >= LONG
