"""The communicator: ranks, channels, groups, collectives, deadlines and the names of peers, over any backend."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch

from ..checks import check_bytes, check_tensors, ranks_of, whole
from ..errors import PeerDied, PeerLost, UsageError
from ..observe.board import Board
from . import deadlines
from .carrier import Result
from .collective import steps as collectives
from .collective import sums
from .collective.steps import Relay, Steps
from .flight import Backend, Batch, Flight

BLOCK = 64
"""Channel numbers that the ranks of a world agree on at once.

A number is never used twice. When a rank drops a channel, a message on it may still be in flight. Other ranks drop
theirs later, whenever their garbage collector runs. A backend has numbers enough for all channels of a process: 16,000
over an MPI with no more tags than the standard promises, 500,000 over Gloo, and 10⁹ over Open MPI.
"""


@dataclass(eq=False, repr=False)
class Communicator:
    """Moves tensors between `size` ranks, numbered from 0, on a channel of its own.

    Laws, held by `gossip.testing.check_transport`, which is `gossip.transports.contract`:

    - messages of one channel from one rank to another arrive in the order in which they were posted;
    - messages of different channels and groups never meet, also when several exist in one process;
    - `post` returns at once, and its messages travel while the caller computes;
    - every wait ends: by landing, or by an error soon after `timeout` seconds;
    - the result of `sum` has the same bits on every rank.

    Facts and methods of the backend are attributes too, described there.
    """

    backend: Backend
    timeout: float  # seconds after which any wait is an error
    board: Board  # the position of this rank, and what is known of the others, for errors
    members: Sequence[int]  # the ranks of the job that belonged to it at first, in its own order
    number: int = 0  # of this channel, which its messages carry; the first number of a world is the world's own
    lineage: tuple[int, ...] = (0,)  # the numbers of the worlds that it is a part of, its own last; 0: all ranks
    # Channel numbers that the ranks have agreed on and that no channel has yet.
    numbers: deque[int] = field(default_factory=lambda: deque(range(1, BLOCK)))

    def __post_init__(self) -> None:
        backend = self.backend
        self.carrier, self.name, self.home = backend.carrier, backend.name, backend.home
        self.patience, self.lanes, self.expects = backend.patience, backend.lanes, backend.expects
        self.route, self.drive, self.waiting = backend.route, backend.drive, backend.waiting
        self.end_job, self.close = backend.end_job, backend.close
        self.streams = backend.lanes == 1  # all batches travel in the one order of a device's stream; no host waits
        self.me = self.board.rank  # as the whole job numbers it

    @classmethod
    def over(cls, backend: Backend, timeout: float) -> Communicator:
        """All ranks of `backend`, on its first channel."""
        everyone = cls(backend, timeout, Board(backend.rank), range(backend.carrier.size))
        backend.open(everyone)
        return everyone

    # -- who takes part ------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> Sequence[int]:
        """Those of `members` that are left, in their order: what the job calls rank 0, 1, … of this communicator."""
        lost = self.carrier.lost
        return [member for member in self.members if member not in lost] if lost else self.members

    @property
    def rank(self) -> int:
        """This process among the ranks that are left."""
        return self.ranks.index(self.me)

    @property
    def size(self) -> int:
        """How many ranks are left."""
        return len(self.ranks)

    @property
    def closed(self) -> bool:
        """Whether its world has been closed, or one that it is a part of."""
        return not self.carrier.left.isdisjoint(self.lineage)

    def refuse_closed(self, subject: str) -> None:
        """Raise `PeerLost` once its world has been closed, for then the others need not answer."""
        if self.closed:
            raise PeerLost(f"rank {self.me} cannot post {subject}: its world has been closed")

    # -- channels and groups -------------------------------------------------------------------------------------------

    def channel(self) -> Communicator:
        """The same ranks over a new channel: numbered in construction order, which is the same on every rank.

        Once in `BLOCK` calls the ranks meet, to agree on the next numbers.
        """
        if not self.numbers:
            self.numbers.extend(self._agree_on_numbers())
        return replace(self, number=self.numbers.popleft())

    def group(self, ranks: Sequence[int]) -> Communicator:
        """Some of the ranks, renumbered 0..m-1 in the order given. Called by those ranks, and only by them."""
        ranks = ranks_of(ranks, self.size)
        if self.rank not in ranks:
            raise UsageError(f"rank {self.rank} asked for a group of ranks {list(ranks)}, which it is not one of")
        members = [self.ranks[rank] for rank in ranks]
        numbers = deque(replace(self, members=members)._agree_on_numbers())
        number = numbers.popleft()
        return replace(self, members=members, number=number, lineage=(*self.lineage, number), numbers=numbers)

    def _agree_on_numbers(self) -> range:
        """The next block of numbers that no rank of this world has used. Every rank calls it."""
        meeting = replace(self, number=0)  # is kept for this alone
        block = max(int(proposal) for proposal in meeting.gather(b"%d" % self.carrier.next_block))
        if (block + 1) * BLOCK > self.backend.most_numbers:
            raise UsageError(
                f"rank {self.me} has opened {block * BLOCK} channels, and transport {self.name!r} can tell no more of "
                "them apart in one process: each averager and each world takes some and none is used twice, so start "
                "a new process for the next optimizers"
            )
        self.carrier.next_block = block + 1
        return range(block * BLOCK, (block + 1) * BLOCK)

    # -- batches -------------------------------------------------------------------------------------------------------

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> Flight:
        """Start one batch: `sends` are the tensors that each peer receives, `receives` those that its message fills.

        Args:
            subject: what errors call the batch, such as "round 17".
            together: all ranks post this and wait for it, as a round of SGP or a hop around a ring. Messages of
                different steps then hardly meet, and no receiver is asked for room. Both ends say the same.
        """
        self.refuse_closed(subject)
        return self.backend.post(self, sends, receives, subject, together=together)

    def expect(self, receives: Batch) -> None:
        """Post the receives of each peer's next message already, if that lets it leave sooner.

        The next receives from that peer on this channel have to name these very tensors, in this order. It never fails:
        a peer that is gone is noticed by `post`. The receives are dropped with the channel.
        """
        self.backend.expect(self, receives)

    def introduce(self, sends: Collection[int], receives: Collection[int]) -> None:
        """Connect to the peers of later messages now, if the first message would otherwise take the time for it.

        Every rank makes this call at the same point; `receives` are the ranks that name this one among their `sends`.
        """
        self.backend.introduce(self, sends, receives)

    def wait(self, flight: Flight, timeout: float | None) -> None:
        """Block until `flight` has landed; see `Flight.wait`."""
        limit = self.timeout if timeout is None else timeout
        began, looked, due = time.monotonic(), 0.0, min(deadlines.GRACE, deadlines.NOTICE, limit)
        self.board.wait(flight.subject)
        with self.backend.waiting():
            try:
                while not flight.done():
                    waited = time.monotonic() - began
                    if waited >= due:
                        looked, due = waited, deadlines.look(flight, looked, waited, limit)
                    flight.pause(waited, due - waited)
            except PeerDied:
                self.board.go_on()  # which it may, without the dead
                raise
        self.board.go_on()

    # -- collectives ---------------------------------------------------------------------------------------------------

    def sum(self, tensors: Sequence[torch.Tensor]) -> Flight:
        """Start the exact sum over all ranks, in place, of one-dimensional tensors."""
        check_tensors("sum", tensors, flat=True)
        own = self.backend.sum(self, tensors)
        return self._start(sums.exact_sum(self, tensors), "an exact sum") if own is None else own

    def reduce_scatter(self, tensors: Sequence[torch.Tensor]) -> Flight:
        """Start the first half of `sum`: of one-dimensional tensors, this rank's `own_parts` alone become the sum."""
        check_tensors("reduce_scatter", tensors, flat=True)
        return self._start(sums.reduce_scatter(self, tensors), "the first half of an exact sum")

    def all_gather(self, tensors: Sequence[torch.Tensor]) -> Flight:
        """Start the second half of `sum`: every rank's `own_parts` go to all others, in place."""
        check_tensors("all_gather", tensors, flat=True)
        return self._start(sums.all_gather(self, tensors), "the second half of an exact sum")

    def own_parts(self, tensors: Sequence[torch.Tensor]) -> list[tuple[int, slice]]:
        """(number of the tensor, slice of it) that this rank holds between the halves of `sum`."""
        return sums.own_parts(self, tensors)

    def broadcast(self, tensors: Sequence[torch.Tensor], source: int = 0) -> Flight:
        """Start copying the tensors of rank `source` into those of every other rank."""
        check_tensors("broadcast", tensors, flat=False)
        source = whole(source, f"a broadcast begins at a rank from 0 to {self.size - 1}, and source is {{}}")
        if source >= self.size:
            raise UsageError(f"a broadcast from rank {source} among {self.size} ranks: name one of 0..{self.size - 1}")
        return self._start(collectives.tree_broadcast(self, tensors, source), f"a broadcast from rank {source}")

    def gather(self, data: bytes) -> list[bytes]:
        """The bytes of every rank, by rank, on every rank. Blocks."""
        check_bytes(data)
        return self.together(lambda: self.gather_once(data))

    def gather_once(self, data: bytes) -> list[bytes]:
        """The same, of which some ranks may have the result and others an error when a rank dies."""
        return collectives.gather(self, data)

    def barrier(self) -> None:
        """Return once every rank has called it."""
        self.together(lambda: Relay(self, collectives.barrier(self), "a barrier").wait())

    def together(self, act: Callable[[], Result]) -> Result:
        """Do `act` on all ranks or on none. After a death it is done again, if the survivors go on.

        A second call of `act` has to redo what the first one changed.
        """
        return self.carrier.together(act) if len(self.ranks) == self.carrier.size else act()

    def _start(self, steps: Steps, subject: str) -> Flight:
        return self.drive(Relay(self, steps, subject))

    def __repr__(self) -> str:
        return f"Communicator(rank {self.rank} of {self.size} over {self.name}, channel {self.number})"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"rank {self.me} cannot copy or pickle a channel, nor what speaks over one, such as an averager: it stands "
            "for a running process. Make a new one from the same World"
        )
