"""How the ranks that are left go on after a rank died.

A wait that the death breaks off raises `PeerDied`, on some ranks and not on others: those that spoke to others may be
steps further on. So whoever notices revokes the carrier, which breaks off every wait of everybody. Then all that are
left agree that they have left what they were doing, meet again without the dead, tell one another where each stands,
and begin again from there. When another one dies meanwhile, they do so once more.

What all ranks do together, such as an exact average, must count on all of them or on none: some could have finished it
when it broke. So it ends with an agreement, and is done again when that fails.
"""

from __future__ import annotations

import json
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import PeerDied
from ..transports.collectives import gather

if TYPE_CHECKING:
    from ..transports.base import Transport

Result = TypeVar("Result")
Told = Mapping[int, Any]
"""Rank, as the job numbers it -> what it told; of the ranks that are left."""


class Party(Protocol):
    """Somebody who goes on after a loss: an optimizer."""

    def tell(self) -> Any:
        """What the others have to know of this rank, as JSON takes it. Everything in flight has been broken off."""

    def go_on(self, told: Told) -> None:
        """Begin again among the ranks that have told."""


class Carrier:
    """What all transports over one communicator, process group or network share. A death is an error to it.

    Attributes:
        size: ranks that are left.
        next_block: the next block of channel numbers that this process has not used yet.
        lost: ranks that died, as the job numbers them.
        left: the own numbers of worlds that have been closed.
        parties: what goes on after a loss, in the order in which every rank made it, and a channel of its own. Whoever
            made it holds it.
        meetings: own number of a world -> the channel on which its ranks meet after a loss, from the first party on.
            It stays when that one is gone: ranks part with it at different moments, and meet all or none.
        outlives: whether it can go on without a rank that died.
        alone: `gossip.init` found no other rank.
    """

    outlives = False
    alone = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.next_block = 1
        self.lost: set[int] = set()
        self.left: set[int] = set()
        self.parties: weakref.WeakKeyDictionary[Party, Transport] = weakref.WeakKeyDictionary()
        self.meetings: dict[int, Transport] = {}

    def leave(self, number: int) -> None:
        """The world of this number has been closed, and those who meet in it, or in a part of it, go on no more."""
        self.left.add(number)
        for party, channel in list(self.parties.items()):
            if number in channel.lineage:
                del self.parties[party]
        self.meetings = {world: each for world, each in self.meetings.items() if number not in each.lineage}

    def together(self, act: Callable[[], Result]) -> Result:
        """Do `act` on all ranks."""
        return act()

    def go_on(self, act: Callable[[], Result]) -> Result:
        """Do what each rank does at its own time."""
        return act()


class Lasting(Carrier, ABC):
    """A carrier that can go on without ranks that died, as soon as somebody has enrolled who does.

    Attributes:
        seconds: from noticing the last death until those that are left had met again.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.seconds = 0.0

    def enrol(self, party: Party, meeting: Transport) -> None:
        """Let `party` go on after a loss. Every rank does so, in the same order; `meeting` is a channel of all."""
        self.parties[party] = meeting
        self.meetings.setdefault(meeting.lineage[-1], meeting)

    @abstractmethod
    def revoke(self) -> None:
        """Break off every wait of every rank, this one's and those to come, until they meet again."""

    @abstractmethod
    def agree(self, done: bool) -> bool:
        """Whether all ranks said `done`, and none died before it did: the same answer on every rank that is left."""

    @abstractmethod
    def shrink(self) -> set[int]:
        """Meet without the dead, who are returned. Nothing that was in flight before is delivered afterwards."""

    def together(self, act: Callable[[], Result]) -> Result:
        """Do `act` on all ranks or on none; again, among those that are left, until it succeeds."""
        if not self.meetings:
            return act()
        while True:
            began = time.monotonic()
            try:
                result, done = act(), True
            except PeerDied:
                began = time.monotonic()
                self.revoke()
                done = False
            if self.agree(done):
                return result
            self._meet(began)

    def go_on(self, act: Callable[[], Result]) -> Result:
        """Do what each rank does at its own time; again, if somebody died meanwhile."""
        if not self.meetings:
            return act()
        while True:
            try:
                return act()
            except PeerDied:
                began = time.monotonic()
                self.revoke()
                self.agree(False)  # whoever was at the end of something together learns that it was broken off
                self._meet(began)

    def _meet(self, began: float) -> None:
        """Meet without the dead, and begin again: everybody who is left has agreed to come."""
        meeting = next(iter(self.meetings.values()))
        while True:
            self.revoke()
            gone = self.shrink()
            self.lost |= gone
            self.size -= len(gone)
            try:
                parties = {str(channel.number): party for party, channel in self.parties.items()}
                rows = gather(meeting, json.dumps({each: party.tell() for each, party in parties.items()}).encode())
                done = True
            except PeerDied:
                self.revoke()
                done = False
            if self.agree(done):
                break
        self.seconds = time.monotonic() - began
        told = [json.loads(row) for row in rows]
        for number, party in parties.items():
            if all(number in row for row in told):  # else some rank has parted with it, and takes no more steps with it
                party.go_on({rank: row[number] for rank, row in zip(meeting.ranks, told, strict=True)})
