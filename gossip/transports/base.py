"""The interface of a transport: post a batch; `flight.py` is what is then under way.

Everything else that ranks do together (the exact sum, broadcast, gather, barrier) is built from `post` alone, in
`collectives.py` and `sums.py`, so that a new transport is one method and one kind of flight. It knows nothing of graphs
or weights. What outlives a rank's death does so by its carrier, in `survival.py`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn, TypeVar

import torch

from ..checks import check_bytes, check_tensors, ranks_of, whole
from ..errors import PeerLost, UsageError
from ..observe.board import Board
from ..recovery.survival import Carrier
from . import collectives, sums
from .collectives import Relay
from .flight import Batch, Flight

Own = TypeVar("Own", bound="Transport")
Result = TypeVar("Result")

BLOCK = 64
"""Channel numbers that the ranks of a world agree on at once.

A number is never used twice. When a rank drops a channel, a message on it may still be in flight. Other ranks drop
theirs later, whenever their garbage collector runs. A carrier has numbers enough for all channels of a process: 16,000
over an MPI with no more tags than the standard promises, 500,000 over Gloo, and 10⁹ over Open MPI.
"""


class Transport(ABC):
    """Moves tensors between `size` ranks, numbered from 0, on a channel of its own.

    Laws, held by `gossip.testing.check_transport`, which is `gossip.transports.contract`:

    - messages of one channel from one rank to another arrive in the order in which they were posted;
    - channels and groups never meet, also when several exist in one process;
    - `post` returns at once, and what it was given moves while the caller computes;
    - every wait ends: by landing, or by an error before `timeout` seconds have passed by much;
    - the result of `sum` has the same bits on every rank.

    Attributes:
        name: "mpi", "gloo", "nccl" or "memory".
        me: this rank as the whole job numbers it, and as errors call it.
        timeout: seconds after which any wait is an error.
        patience: seconds after which a message without an answer counts as lost; none where the network itself repeats
            what it loses.
        members: the ranks of the job that belonged to it at first, in its own order.
        carrier: what is below (a communicator, a process group, a network of threads), for all channels and groups.
        lineage: the numbers of the worlds that it is a part of, its own last; 0 is that of all ranks.
        number: what the messages of this channel carry, so that they meet no others between the same two ranks. The
            first number of a world is the world's own.
        most_numbers: how many numbers the carrier can tell apart.
        board: where this rank is, and what is known of the others, for errors.
        expects: a message leaves only when there is room for it, so that `expect` is worth its call.
        streams: what is posted passes through one stream of a device, so that no batch travels beside another.
        home: the device whose memory it carries; None where it carries that of any.
        outermost: it is no channel or group of another transport, so closing it closes the carrier.
    """

    name: str
    patience = math.inf
    most_numbers: float = math.inf
    streams = False
    expects = False
    home: torch.device | None = None
    outermost = True

    def __init__(self, me: int, size: int, timeout: float, carrier: Carrier) -> None:
        self.me = me
        self.timeout = timeout
        self.members: Sequence[int] = range(size)
        self.carrier = carrier
        self.number = 0
        self.lineage: tuple[int, ...] = (0,)
        self.board = Board(me)
        self._numbers = deque(range(1, BLOCK))
        self._seen = -1

    @property
    def ranks(self) -> Sequence[int]:
        """Those of `members` that are left, in their order: what the job calls rank 0, 1, … of this transport."""
        if self._seen != len(self.carrier.lost):
            lost = len(self.carrier.lost)
            self._ranks = [member for member in self.members if member not in self.carrier.lost]
            self._rank = self._ranks.index(self.me)
            self._seen = lost  # last: another thread may be reading
        return self._ranks

    @property
    def rank(self) -> int:
        """This process among the ranks that are left."""
        return self._rank if self._seen == len(self.carrier.lost) else self.ranks.index(self.me)

    @property
    def size(self) -> int:
        """How many ranks are left."""
        return len(self.ranks)

    @property
    def closed(self) -> bool:
        """Whether its world has been closed, or one that it is a part of."""
        return not self.carrier.left.isdisjoint(self.lineage)

    def refuse_closed(self, subject: str) -> None:
        """Post nothing more once the others need not answer.

        Raises:
            PeerLost: its world has been closed.
        """
        if self.closed:
            raise PeerLost(f"rank {self.me} cannot post {subject}: its world has been closed")

    def expect(self, receives: Batch) -> None:
        """Make room already for the next message of each peer, where that lets it leave sooner, and nothing elsewhere.

        The next receives from that peer on this channel have to name these very tensors, in this order. It never
        fails: a peer that is gone is for the `post`. What is still expected of a channel goes with it.
        """

    @abstractmethod
    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> Flight:
        """Start one batch; `subject` (such as "round 17") is what errors call it.

        together: all ranks post this and wait for it, as a round of SGP or a hop around a ring, so that messages of
        different steps hardly meet: it is welcome at any time. Both ends say the same.
        """

    def channel(self: Own) -> Own:
        """The same ranks over a new channel: numbered in construction order, which is the same on every rank.

        Once in `BLOCK` calls the ranks meet, to agree on the next numbers.

        Raises:
            UsageError: this process has opened as many channels as the carrier can tell apart.
            PeerTimeout: the numbers ran out, and another rank did not call.
        """
        if not self._numbers:
            self._numbers.extend(self._agree_on_numbers())
        other = copy.copy(self)
        other.outermost = False
        other.number = self._numbers.popleft()
        return other

    def _agree_on_numbers(self) -> range:
        """The next block of numbers that no rank of this world has used. Every rank calls it."""
        meeting = copy.copy(self)
        meeting.number = 0  # is kept for this alone
        block = max(int(proposal) for proposal in meeting.gather(b"%d" % self.carrier.next_block))
        if (block + 1) * BLOCK > self.most_numbers:
            raise UsageError(
                f"rank {self.me} has opened {block * BLOCK} channels, and transport {self.name!r} can tell no more of "
                "them apart in one process: each averager and each world takes some and none is used twice, so start "
                "a new process for the next optimizers"
            )
        self.carrier.next_block = block + 1
        return range(block * BLOCK, (block + 1) * BLOCK)

    def group(self: Own, ranks: Sequence[int]) -> Own:
        """Some of the ranks, renumbered 0..m-1 in the order given. Called by those ranks, and only by them.

        Raises:
            UsageError: this rank is not one of them.
            PeerTimeout: one of them did not call.
        """
        ranks = ranks_of(ranks, self.size)
        if self.rank not in ranks:
            raise UsageError(f"rank {self.rank} asked for a group of ranks {list(ranks)}, which it is not one of")
        other = copy.copy(self)
        other.outermost = False
        other.members = [self.ranks[rank] for rank in ranks]
        other._seen = -1
        other._numbers = deque(other._agree_on_numbers())
        other.number = other._numbers.popleft()
        other.lineage = (*self.lineage, other.number)
        return other

    def introduce(self, sends: Collection[int], receives: Collection[int]) -> None:
        """Connect to the peers of later messages now, where the first message would otherwise take the time for it.

        Every rank makes this call at the same point; `receives` are those that name this rank among their `sends`.
        """

    def route(self, tensor: torch.Tensor) -> str:
        """How `tensor` travels: from memory of a "host", "direct" from a device's, or "staged" through a host's."""
        return "host" if tensor.device.type == "cpu" else "direct"

    def waiting(self) -> AbstractContextManager[object]:
        """Around a wait, and what it is for: the calling thread asks by itself, so one that drives flights rests."""
        return nullcontext()

    def drive(self, flight: Flight) -> Flight:
        """Advance `flight` in the background where the transport has a thread for that; `wait` advances it anyway."""
        return flight

    def sum(self, tensors: Sequence[torch.Tensor]) -> Flight:
        """Start the exact sum over all ranks, in place, of one-dimensional tensors."""
        check_tensors("sum", tensors, flat=True)
        return self.drive(Relay(self, sums.exact_sum(self, tensors), "an exact sum"))

    def reduce_scatter(self, tensors: Sequence[torch.Tensor]) -> Flight:
        """Start the first half of `sum`: of one-dimensional tensors, this rank's `own_parts` alone become the sum."""
        check_tensors("reduce_scatter", tensors, flat=True)
        return self.drive(Relay(self, sums.reduce_scatter(self, tensors), "the first half of an exact sum"))

    def all_gather(self, tensors: Sequence[torch.Tensor]) -> Flight:
        """Start the second half of `sum`: every rank's `own_parts` go to all others, in place."""
        check_tensors("all_gather", tensors, flat=True)
        return self.drive(Relay(self, sums.all_gather(self, tensors), "the second half of an exact sum"))

    def own_parts(self, tensors: Sequence[torch.Tensor]) -> list[tuple[int, slice]]:
        """(number of the tensor, where in it) of what this rank holds between the halves of `sum`."""
        return sums.own_parts(self, tensors)

    def broadcast(self, tensors: Sequence[torch.Tensor], source: int = 0) -> Flight:
        """Start copying the tensors of rank `source` into those of every other rank."""
        check_tensors("broadcast", tensors, flat=False)
        source = whole(source, f"a broadcast begins at a rank from 0 to {self.size - 1}, and source is {{}}")
        if source >= self.size:
            raise UsageError(f"a broadcast from rank {source} among {self.size} ranks: name one of 0..{self.size - 1}")
        steps = collectives.tree_broadcast(self, tensors, source)
        return self.drive(Relay(self, steps, f"a broadcast from rank {source}"))

    def gather(self, data: bytes) -> list[bytes]:
        """What every rank gave, by rank, on every rank. Blocks."""
        check_bytes(data)
        return self.together(lambda: collectives.gather(self, data))

    def barrier(self) -> None:
        """Return once every rank has called it."""
        self.together(lambda: Relay(self, collectives.barrier(self), "a barrier").wait())

    def together(self, act: Callable[[], Result]) -> Result:
        """Do what all ranks do: each of them, or none. It is done again where a rank died meanwhile, if that is wanted.

        What `act` changes has to be done anew by its next call, and to count only once this has returned.
        """
        return self.carrier.together(act) if len(self.ranks) == self.carrier.size else act()

    def end_job(self, code: int) -> None:
        """End the processes of every rank, where the transport can; the caller ends its own process afterwards."""

    def __repr__(self) -> str:
        """Whose place it is among whom, and over which channel."""
        return f"{type(self).__name__}(rank {self.rank} of {self.size}, channel {self.number})"

    def __copy__(self: Own) -> Own:
        """What `channel` and `group` begin from."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> NoReturn:
        """Refused: the copy would take the messages of this one."""
        raise UsageError(
            f"rank {self.me} cannot copy or pickle a channel, nor what speaks over one, such as an averager: it stands "
            "for a running process. Make a new one from the same World"
        )

    def close(self) -> None:
        """Give back what the carrier holds; none of its channels and groups is used afterwards."""
