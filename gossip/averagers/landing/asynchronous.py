"""Gossip in which no rank waits for another: asynchronous push-sum.

Every rank walks through the graph's rounds at its own pace. A receive stands open for each in-peer, and what has come
is merged when the next step begins, however late it is. Whoever merges a message answers it, and until the answer is
there the peer's share is kept: a slow rank is given less often, at most one message of each peer is under way to it,
and the others go on without it. A slow rank is given to more often than it gives, so weight gathers there and its own
updates, Δ/w, move its model less, and count for mass 1 like all others.

What travels cannot be known without asking everybody, so `settle` is where ranks do meet: each sends a last message, of
no weight, to all to whom it may have given, and goes on taking and answering until it has that of all others and the
answers to its own.

How messages get there where some are lost is for `letters`.

Source: push-sum, Kempe, Dobra, Gehrke, FOCS 2003, needs columns that sum to 1 and no clock. Asynchronous gossip for
training: AD-PSGD, Lian, Zhang, Zhang, Liu, ICML 2018, arXiv 1710.06952.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict

import torch

from topologies import Topology

from ...errors import UsageError
from ...state.mass import Mass
from ...transports import Flight, Transport
from ..base import State
from .early import Allowance
from .letters import Letters


class Asynchronous(Letters):
    """Each rank gives whenever it posts, to peers that have answered, and merges what is there.

    Takes room for one message of every in-peer and for the snapshots that are unanswered, so over an aperiodic graph up
    to twice as many models as there are other ranks. Settling sends a message of the model's size to every out-peer.
    """

    outlives = False
    lockstep = False
    shortest = 1  # nothing ends inside the step that posts it

    def bind(self, mass: Mass, every: int) -> None:
        super().bind(mass, every)
        self._allowance = Allowance(self.topology, self._channel.rank)
        self._sources, self._targets = neighbours(self.topology, self._channel.rank)
        self._expected: dict[int, tuple[list[torch.Tensor], Flight]] = {}  # in-peer -> room, and what will fill it
        self._taken: defaultdict[int, int] = defaultdict(int)  # in-peer -> messages
        self._ended: set[int] = set()  # in-peers whose last message before they settle has come
        self._answering: list[Flight] = []

    def _in_flight(self) -> bool:
        return bool(self._expected)  # what may be on its way nobody can tell until ranks settle

    def _refuse_thin(self, every: int) -> None:
        """Whatever is late, the weight held does not vanish."""

    def land(self, step: int) -> None:
        self._step = step
        self.advance()

    def _post(self, step: int) -> None:
        with self.mass.stats.span("post"):
            self._collect()
            self._send(step)

    def _send(self, step: int) -> None:
        """Give to the peers of this round that have answered, and keep the shares of the others."""
        mass, number = self.mass, self.rounds
        mass.look(mass.values)
        leaving = self._snapshot(number)
        self.rounds += 1
        if mass.whole:
            self._allowance.begin()
        turn = self.topology.turn(self._channel.rank, number)
        turn = self._allowance.cut(turn, number, float(mass.weight), self._unanswered)
        weights = {peer: share * mass.weight for peer, share in turn.sends.items() if share > 0}
        if weights:
            self._write(weights, leaving)
            self._retain_(turn.keep, leaving)
        else:
            self._room.append(leaving)
        mass.give(turn.keep, doubly_stochastic=False, keeps_alike=False)
        mass.round_landed()
        mass.stats.last.rounds_posted += 1

    def advance(self, merge: bool = True) -> None:
        """Take and answer what has come, go on expecting, and send again what is overdue."""
        for peer, (_, flight) in list(self._expected.items()):
            if flight.done():
                self._take(peer, merge)
        for peer in self._sources:
            if peer not in self._expected and peer not in self._ended:
                room = self._take_room()
                self._expected[peer] = room, self._channel.post({}, {peer: room}, "gossip that keeps no rounds")
        self._collect()
        self._repeat()

    def _take(self, peer: int, merge: bool) -> None:
        """Merge the message of `peer` that has come, and answer it."""
        mass = self.mass
        message, flight = self._expected.pop(peer)
        self._arrive(flight)
        envelope, *values = message
        weight, number = envelope[:2].tolist()
        self._check(envelope, self._channel.ranks[peer], int(number), values)
        if number == self._taken[peer] + 1:  # else it has come before, or one before it has not
            self._taken[peer] += 1
            if weight == 0:
                self._ended.add(peer)
            elif merge:
                mass.balanced = False  # whatever this rank has given itself
                mass.merge_([(envelope[0], values)], self.wire)
                mass.stats.last.rounds_landed += 1
        self._room.append(message)
        answer = torch.tensor([self._taken[peer]], dtype=torch.float64)
        self._answering.append(self._back.post({peer: [answer]}, {}, f"the answer to message {number:.0f}"))

    def _collect(self) -> None:
        super()._collect()
        for flight in [flight for flight in self._answering if flight.done()]:
            self.mass.arrive(flight)
            self._answering.remove(flight)

    def _settle(self) -> None:
        self._meet(merge=True)

    def _meet(self, merge: bool) -> None:
        """Land everything between all ranks, and leave no receive open. Every rank calls it."""
        nothing = torch.zeros((), dtype=torch.float64)
        self._write(dict.fromkeys(self._targets, nothing), self._take_room())
        self.mass.arrive(Meeting(self._channel, self, merge))
        self._ended.clear()

    def absent(self) -> tuple[list[int], list[int]]:
        """In-peers that have not ended, and out-peers that have not answered."""
        return [peer for peer in self._sources if peer not in self._ended], sorted(self._unanswered)

    def some_flight(self) -> Flight | None:
        """One that is under way."""
        expected = [flight for _, flight in (*self._expected.values(), *self._answers.values())]
        return next(iter([*expected, *self._answering]), None)

    def quiet(self) -> bool:
        """Whether everything of ours has left. Where messages get lost, nobody may wait for an answer sent twice."""
        return self._channel.patience < math.inf or not (self._letters or self._answering)

    def rebind(self) -> None:
        assert not self._expected, "the buckets change with nothing in flight"
        super().rebind()

    def state_dict(self) -> State:
        if self._expected or self._unanswered:
            raise UsageError(
                f"rank {self._channel.me} cannot know what is on its way to it with landing='any', and a checkpoint "
                "without it would lose mass: call settle() on every rank first, then state_dict()"
            )
        return {"rounds": self.rounds, "allowance": self._allowance.state_dict()}

    def forget(self) -> None:
        self._meet(merge=False)
        self._allowance.begin()
        self.rounds = 0

    def load_state_dict(self, state: State) -> None:
        self.rounds = state["rounds"]
        self._allowance.load_state_dict(state.get("allowance"))


class Meeting(Flight):
    """Lands when a rank that settles has heard the last of all others, and they the last of it."""

    def __init__(self, transport: Transport, gossip: Asynchronous, merge: bool) -> None:
        super().__init__(transport, {}, {}, "a settling")
        self._gossip, self._merge = gossip, merge

    def done(self) -> bool:
        if self.landed is None:
            self._gossip.advance(self._merge)
            if not any(self._gossip.absent()) and self._gossip.quiet():
                self.landed = time.perf_counter()
        return self.landed is not None

    def missing(self) -> tuple[list[int], list[int]]:
        return self._gossip.absent()

    def pause(self, waited: float, left: float) -> None:
        flight = self._gossip.some_flight()  # which knows what its transport does in a pause
        if flight is None:
            super().pause(waited, left)
        else:
            flight.pause(waited, left)


def neighbours(topology: Topology, rank: int) -> tuple[list[int], list[int]]:
    """Who ever gives to `rank`, and to whom it ever gives; anybody, where the graph never repeats.

    >>> from topologies import exponential
    >>> neighbours(exponential(8), 0)
    ([4, 6, 7], [1, 2, 4])
    """
    if topology.period is None:
        others = [other for other in range(topology.size) if other != rank]
        return others, others
    turns = [topology.turn(rank, round) for round in range(topology.period)]
    return (
        sorted({peer for turn in turns for peer in turn.receives}),
        sorted({peer for turn in turns for peer in turn.sends}),
    )
