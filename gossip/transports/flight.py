"""A backend starts batches of messages with `post`, which returns the `Flight`: this batch under way.

A backend moves bytes. It knows nothing of groups, collectives, deadlines or the names of peers: those belong to the
communicator above it. A new way to travel is one `Backend` and one kind of `Flight`.
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from ..observe.board import Board
from .carrier import Carrier

SHORTEST, LONGEST = 2e-5, 1e-3  # seconds between two polls

Batch = Mapping[int, Sequence[torch.Tensor]]
"""Peer -> tensors, in the same order at both ends. Dense, contiguous, and not written or read while in flight."""


def pace(waited: float) -> float:
    """The poll interval where nothing has moved for `waited` seconds: a tenth of that, and at most a millisecond."""
    return min(max(waited / 10, SHORTEST), LONGEST)


class Channel(Protocol):
    """The communicator as flights, backends and collectives see it."""

    name: str
    me: int
    number: int
    timeout: float
    board: Board
    lanes: int
    expects: bool

    @property
    def ranks(self) -> Sequence[int]: ...
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def refuse_closed(self, subject: str) -> None:
        """Raise `PeerLost` once the world has been closed."""

    def post(self, sends: Batch, receives: Batch, subject: str, *, together: bool = False) -> Flight:
        """Start one batch."""

    def expect(self, receives: Batch) -> None:
        """Post the receives of the next messages already."""

    def drive(self, flight: Flight) -> Flight:
        """Let a progress thread advance `flight`."""

    def waiting(self) -> AbstractContextManager[object]:
        """Around a wait: the calling thread polls."""

    def wait(self, flight: Flight, timeout: float | None) -> None:
        """Block until `flight` has landed."""


class Flight(ABC):
    """One batch of sends and receives under way.

    It has landed when every receive is filled and no send reads its tensors any more. A backend writes `done`, `pause`,
    `missing` and `cancel`; callers use `done` and `wait`.

    Attributes:
        channel: the communicator that posted it.
        ranks: what the job calls the peers, as it was when the batch was posted.
        posted, landed: when, by `time.perf_counter`; `landed` is None until then.
        moved: when a part of it was last seen to arrive or leave.
        counted: whether the statistics include it already; several may wait for one flight.
        follow: called when it has landed, by a backend that notices this while nobody polls.
    """

    landed: float | None = None
    counted = False
    follow: Callable[[], None] | None = None

    def __init__(self, channel: Channel, sends: Batch, receives: Batch, subject: str) -> None:
        self.channel = channel
        self.ranks = channel.ranks
        self.sends = sends
        self.receives = receives
        self.subject = subject
        self.messages_sent, self.messages_received = (sum(map(len, batch.values())) for batch in (sends, receives))
        self.bytes_sent = sum(tensor.nbytes for tensors in sends.values() for tensor in tensors)
        self.bytes_received = sum(tensor.nbytes for tensors in receives.values() for tensor in tensors)
        self.posted = self.moved = time.perf_counter()

    @abstractmethod
    def done(self) -> bool:
        """Whether the batch has landed; does not wait. Raises `PeerLost` when it never will."""

    @abstractmethod
    def missing(self) -> tuple[list[int], list[int]]:
        """Ranks of the job not heard from, and ranks that have not taken what was sent, as far as is known."""

    def pause(self, waited: float, left: float) -> None:
        """Block until something may have moved, at most `left` seconds. The wait has lasted `waited` so far."""
        time.sleep(min(left, self.interval(waited)))

    def interval(self, waited: float) -> float:
        """The poll interval after a wait of `waited` seconds."""
        return pace(min(waited, time.perf_counter() - self.moved))

    def cancel(self) -> None:
        """Give up what is still under way: the process ends."""

    def wait(self, timeout: float | None = None) -> None:
        """Block until the batch has landed.

        Args:
            timeout: the deadline in seconds; the communicator's by default.

        Raises:
            PeerTimeout: the deadline has passed.
            PeerLost: it never lands.
        """
        if not self.done():
            self.channel.wait(self, timeout)
        self.note_heard()

    def note_heard(self) -> None:
        """Remember for later errors that its peers were alive."""
        heard, now = self.channel.board.heard, time.monotonic()
        for peer in self.receives:
            heard[self.ranks[peer]] = (self.subject, now)

    def arrived(self) -> set[int]:
        """Peers whose messages have all arrived."""
        return set(self.receives) if self.landed is not None else set()

    def followed(self) -> bool:
        """Whether a step that needs this batch may start: it has landed, or the next step queues behind it."""
        return self.done()

    def carries(self, leg: Flight) -> None:
        """Count the messages of `leg` as its own."""
        self.messages_sent += leg.messages_sent
        self.messages_received += leg.messages_received
        self.bytes_sent += leg.bytes_sent
        self.bytes_received += leg.bytes_received

    def without_tensors(self) -> Flight:
        """The same flight for an observer, which must not keep a model's memory alive."""
        light = copy.copy(self)
        light.sends, light.receives = dict.fromkeys(self.sends, ()), dict.fromkeys(self.receives, ())
        return light


class Backend(ABC):
    """Moves batches between the ranks of one MPI communicator, process group or network of threads.

    Attributes:
        name: "mpi", "gloo", "nccl" or "memory".
        rank: this process's rank in the job.
        carrier: what all channels over this backend share.
        most_numbers: how many channel numbers it can tell apart.
        lanes: how many batches of one channel travel side by side with profit; 1 where each waits for the one before.
        expects: a message leaves only once its receive is posted, so that `expect` lets it leave sooner.
        home: the device whose memory it carries; None where it carries that of any.
        patience: seconds after which an unanswered message counts as lost; only a network that loses messages has some.
    """

    name: str
    rank: int
    carrier: Carrier
    most_numbers: float = math.inf
    lanes = 2
    expects = False
    home: torch.device | None = None
    patience = math.inf

    @abstractmethod
    def post(self, channel: Channel, sends: Batch, receives: Batch, subject: str, *, together: bool) -> Flight:
        """Start one batch and return at once."""

    def open(self, everyone: Channel) -> None:
        """Connect, if all ranks have to do so together; `everyone` is the first channel."""

    def expect(self, channel: Channel, receives: Batch) -> None:
        """Post the receives of the next messages of each peer already."""

    def introduce(self, channel: Channel, sends: Collection[int], receives: Collection[int]) -> None:
        """Connect to these peers now, if the first message would otherwise take the time for it."""

    def route(self, tensor: torch.Tensor) -> str:
        """How `tensor` travels: "host", "direct" or "staged"."""
        return "host" if tensor.device.type == "cpu" else "direct"

    def waiting(self) -> AbstractContextManager[object]:
        """Around a wait: the calling thread polls, so a progress thread rests."""
        return nullcontext()

    def drive(self, flight: Flight) -> Flight:
        """Let a progress thread advance `flight`, if there is one; `wait` advances it anyway."""
        return flight

    def sum(self, channel: Channel, tensors: Sequence[torch.Tensor]) -> Flight | None:
        """Start the backend's own exact sum; None where it has none for these tensors."""
        return None

    def end_job(self, code: int) -> None:
        """End the processes of every rank, where the backend can."""

    def close(self) -> None:
        """Release what it holds. None of its channels is used afterwards."""
