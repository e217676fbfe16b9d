"""Gloo and NCCL by torch.distributed: one batch of sends and receives a round, on a process group of its own.

One class for both, so that what CPU tests prove of the batching holds on GPUs. They differ in how a batch is known to
have landed. Gloo moves data in the background but reports completion only to a thread that waits: see `gloo` and
`waiter`. NCCL works in stream order: see `streams`.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest

import torch
import torch.distributed as dist

from ...errors import TransportUnavailable
from ..carrier import Carrier
from ..collective.steps import Relay
from ..flight import Backend, Batch, Channel, Flight
from .gloo import COUNT_BITS, Mail, naming
from .streams import Operation, StreamedFlight, Watchdog, batches
from .waiter import Part, WaitedFlight, Waiters

BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}


class TorchBackend(Backend):
    """Ranks of torch.distributed's world, over one process group of its own, for all channels and groups."""

    def __init__(self, name: str, timeout: float, device: torch.device) -> None:
        """Every rank of the default group, which exists already, makes this call."""
        if name == "nccl" and not (torch.cuda.is_available() and dist.is_nccl_available()):
            raise TransportUnavailable(
                "transport 'nccl' needs CUDA, a GPU for each rank and a torch built with NCCL, and this process has "
                "not all of them: choose transport='mpi' or 'gloo'"
            )
        self.name, self.rank = name, dist.get_rank()
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
        self._first = Mail(self._group)  # of number 0, on which every new world agrees: it goes on counting

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
        """NCCL's first operation in a group must be of all ranks; later ones may be of some ranks alone."""
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
        mail = self._mail_of(channel)
        incoming = [mail.receive(channel, peer, tensors, subject, together) for peer, tensors in receives.items()]
        outgoing = [mail.send(channel, peer, tensors, subject, together) for peer, tensors in sends.items()]
        # Each message is waited for apart from those of other peers: they may be late, and an error names who is.
        parts = [Part(*pair) for pair in zip_longest(incoming, outgoing)]
        flight = WaitedFlight(channel, sends, receives, subject, parts)
        for part in parts:
            self.waiters.add(flight, part)
        return flight

    def expect(self, channel: Channel, receives: Batch) -> None:
        if self.expects:
            for peer, tensors in receives.items():
                self._mail_of(channel).expect(channel, peer, tensors)

    def _mail_of(self, channel: Channel) -> Mail:
        if not channel.number:
            return self._first
        return self._mail.get(channel) or self._mail.setdefault(channel, Mail(self._group))

    # -- batches of NCCL -----------------------------------------------------------------------------------------------

    def _post_to_stream(self, channel: Channel, sends: Batch, receives: Batch, subject: str) -> StreamedFlight:
        operations: list[Operation] = [
            (kind, channel.ranks[peer], tensor)
            for kind, batch in (("receive", receives), ("send", sends))
            for peer, tensors in batch.items()
            for tensor in tensors
        ]
        assert all(tensor.is_cuda for _, _, tensor in operations), "one batch is of one kind of memory"
        flight, start = StreamedFlight(channel, sends, receives, subject), {"send": dist.isend, "receive": dist.irecv}
        with self._in_order(flight):
            for batch in batches(operations):
                with naming(channel, {rank for _, rank, _ in batch}, subject):
                    works = dist.batch_isend_irecv(
                        [
                            dist.P2POp(start[kind], tensor, group=self._group, group_peer=rank)
                            for kind, rank, tensor in batch
                        ]
                    )
                for work in works:
                    work.wait()  # orders our stream after NCCL's; the host goes on
        return flight

    @contextmanager
    def _in_order(self, flight: StreamedFlight) -> Iterator[None]:
        """Work given to the device inside comes after all that the current stream has so far, and lands as `flight`."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())  # after the update that wrote the values sent
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
        # As in a ring: 2(n-1)/n of the bytes leave each rank.
        flight.bytes_sent = flight.bytes_received = sum(2 * (size - 1) * tensor.nbytes // size for tensor in tensors)
        flight.messages_sent = flight.messages_received = 2 * (size - 1) * len(tensors)
        with naming(channel, channel.ranks, flight.subject), self._in_order(flight):
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
