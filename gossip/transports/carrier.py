"""How the survivors go on after a rank died.

The death breaks off a wait with `PeerDied`, on some ranks and not on others; ranks that exchange with others may be
steps ahead. So the rank that notices revokes the messages in flight, which breaks off every wait of every rank. Then
all survivors agree that they have broken off. They meet again without the dead, tell one another where each stands, and
begin again from there. When another rank dies meanwhile, they do so once more.

An act of all ranks, such as an exact average, must count on all of them or on none: some could have finished it when it
broke. So it ends with an agreement, and is done again when that fails.
"""

from __future__ import annotations

import json
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ..errors import PeerDied

Result = TypeVar("Result")
Told = Mapping[int, Any]  # rank, as the job numbers it -> what it told; of the survivors


class Party(Protocol):
    """An optimizer that goes on after a loss."""

    def tell(self) -> Any:
        """The state of this rank for the others, as JSON takes it. Everything in flight has been broken off."""

    def go_on(self, told: Told) -> None:
        """Begin again among the ranks that have told."""


class Meeting(Protocol):
    """A channel on which survivors meet."""

    number: int
    lineage: tuple[int, ...]

    @property
    def ranks(self) -> Sequence[int]: ...
    def gather_once(self, data: bytes) -> list[bytes]:
        """The bytes of every survivor; a death breaks it off."""


class Survivors(ABC):
    """How the ranks that are left part with the dead: what a backend that outlives a rank's death can do."""

    @abstractmethod
    def revoke(self) -> None:
        """Break off every wait of every rank, this one's and those to come, until they meet again."""

    @abstractmethod
    def agree(self, done: bool) -> bool:
        """Whether all ranks said `done`, and none died before it did: the same answer on every survivor."""

    @abstractmethod
    def shrink(self) -> set[int]:
        """Meet without the dead, and return them. Nothing that was in flight before is delivered afterwards."""


class Carrier:
    """The state that all channels over one MPI communicator, process group or network share."""

    def __init__(self, size: int, survivors: Survivors | None = None) -> None:
        self.size = size  # ranks that are left
        self.survivors = survivors  # how they go on after a death; None where a death is an error
        self.next_block = 1  # of channel numbers that this process has not used yet
        self.lost: set[int] = set()  # ranks that died, as the job numbers them
        self.left: set[int] = set()  # the own numbers of worlds that have been closed
        # Each in the order in which every rank made it, and a channel of its own. The maker of a party keeps it alive.
        self.parties: weakref.WeakKeyDictionary[Party, Meeting] = weakref.WeakKeyDictionary()
        # Own number of a world -> the channel on which its ranks meet after a loss, from the first party on. Channels
        # stay when that party is gone: ranks drop it at different moments, and all of them meet or none.
        self.meetings: dict[int, Meeting] = {}
        self.alone = False  # `gossip.init` found no other rank
        self.seconds = 0.0  # from noticing the last death until the survivors had met again

    @property
    def outlives(self) -> bool:
        """Whether it can go on without a rank that died."""
        return self.survivors is not None

    def leave(self, number: int) -> None:
        """The world of this number has been closed: parties in it, or in a part of it, go on no more."""
        self.left.add(number)
        for party, channel in list(self.parties.items()):
            if number in channel.lineage:
                del self.parties[party]
        self.meetings = {world: each for world, each in self.meetings.items() if number not in each.lineage}

    def enrol(self, party: Party, meeting: Meeting) -> None:
        """Let `party` go on after a loss. Every rank does so, in the same order; `meeting` is a channel of all."""
        self.parties[party] = meeting
        self.meetings.setdefault(meeting.lineage[-1], meeting)

    def together(self, act: Callable[[], Result]) -> Result:
        """Do `act` on all ranks or on none; again, among the survivors, until it succeeds."""
        return self._repeat(act, of_all=True)

    def go_on(self, act: Callable[[], Result]) -> Result:
        """Do what each rank does at its own time; again, if a rank died meanwhile."""
        return self._repeat(act, of_all=False)

    def _repeat(self, act: Callable[[], Result], of_all: bool) -> Result:
        survivors = self.survivors
        if survivors is None or not self.meetings:
            return act()
        while True:
            began, done = time.monotonic(), False
            try:
                result = act()
                if not of_all:
                    return result
                done = True
            except PeerDied:
                began = time.monotonic()
                survivors.revoke()
            if survivors.agree(done):  # never after a death: ranks at the end of an act of all learn of it
                return result
            self._meet(survivors, began)

    def _meet(self, survivors: Survivors, began: float) -> None:
        """Meet without the dead, and begin again: all survivors have agreed to come."""
        meeting = next(iter(self.meetings.values()))
        while True:
            survivors.revoke()
            gone = survivors.shrink()
            self.lost |= gone
            self.size -= len(gone)
            try:
                parties = {str(channel.number): party for party, channel in self.parties.items()}
                tells = {number: party.tell() for number, party in parties.items()}
                rows, done = meeting.gather_once(json.dumps(tells).encode()), True
            except PeerDied:
                survivors.revoke()
                done = False
            if survivors.agree(done):
                break
        self.seconds = time.monotonic() - began
        told = [json.loads(row) for row in rows]
        for number, party in parties.items():
            if all(number in row for row in told):  # else some rank has dropped it, and takes no more steps with it
                party.go_on({rank: row[number] for rank, row in zip(meeting.ranks, told, strict=True)})
