"""Gossip in which no rank waits for another: asynchronous push-sum.

Every rank walks through the graph's rounds at its own pace. A receive stands open for each in-peer, and what has come
is merged when the next step begins, however late it is. Whoever merges a message answers it, and until the answer is
there the peer's share is kept: a slow rank is given less often, at most one message of each peer is under way to it,
and the others go on without it. A slow rank is given to more often than it gives, so weight gathers there and its own
updates, Δ/w, move its model less, and count for mass 1 like all others.

What travels cannot be known without asking everybody, so `settle` is where ranks do meet: they tell how many messages
each has sent and taken, land the difference, and close the receives that nobody will fill with a message of no weight.

Source: push-sum, Kempe, Dobra, Gehrke, FOCS 2003, needs columns that sum to 1 and no clock. Asynchronous gossip for
training: AD-PSGD, Lian, Zhang, Zhang, Liu, ICML 2018, arXiv 1710.06952.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TypedDict

import torch

from topologies import Topology

from .averaging import State
from .early import Allowance
from .errors import UsageError
from .mass import Mass
from .rounds import Rounds
from .transports import Flight
from .world import World


@dataclass
class Letter:
    """A snapshot that was sent.

    Attributes:
        posted: the step at whose end it was.
        leaving: its room.
        unanswered: out-peer -> what carries the message there, and the answer back.
    """

    posted: int
    leaving: list[torch.Tensor]
    unanswered: dict[int, tuple[Flight, Flight]]


class Tally(TypedDict):
    """What a rank says when all settle: by peer, messages sent and taken since the last time, and whom it expects."""

    sent: dict[str, int]
    taken: dict[str, int]
    expects: list[int]


class Asynchronous(Rounds):
    """Each rank gives whenever it posts, to peers that have answered, and merges what is there.

    Takes room for one message of every in-peer, so over an aperiodic graph as many models as there are other ranks.
    """

    outlives = False

    def __init__(
        self,
        world: World,
        topology: Topology,
        overlap: int,
        wire: str | None,
        description: str,
        node: World | None = None,
    ) -> None:
        # Nothing ends inside the step that posts it.
        super().__init__(world, topology, max(1, overlap), wire, description, node)
        self._allowance = Allowance(topology, world.rank)
        self._sources, self._targets = neighbours(topology, world.rank)
        self._expected: dict[int, tuple[list[torch.Tensor], Flight]] = {}  # in-peer -> room, and what will fill it
        self._letters: list[Letter] = []
        self._answering: list[Flight] = []
        self._sent: Counter[int] = Counter()
        self._taken: Counter[int] = Counter()

    def bind(self, mass: Mass, every: int) -> None:
        super().bind(mass, every)
        # Here, where ranks have agreed on how to land: channels are numbered in the order in which they are made.
        self._answers, self._council = self.worlds[0].channel(), self.worlds[0].channel()

    def _refuse_thin(self, every: int) -> None:
        """Whatever is late, the weight held does not vanish."""

    def land(self, step: int) -> None:
        self._step = step
        for peer, (_, flight) in list(self._expected.items()):
            if flight.done():
                self._take(peer)
                self._expect(peer)
        self._collect()

    def _post(self, step: int) -> None:
        with self.mass.stats.span("post"):
            for peer in self._sources:
                if peer not in self._expected:
                    self._expect(peer)
            self._collect()
            self._send(step)

    def _send(self, step: int) -> None:
        """Give to the peers of this round that have answered, and keep the shares of the others."""
        mass, number = self.mass, self.rounds
        mass.look(mass.values)
        self.rounds += 1
        if mass.whole:
            self._allowance.begin()
        busy = {peer for letter in self._letters for peer in letter.unanswered}
        turn = self._allowance.cut(self.topology.turn(self._channel.rank, number), number, float(mass.weight), busy)
        sends = {peer: share for peer, share in turn.sends.items() if share > 0}
        if sends:
            letter = Letter(step, self._snapshot(number), {})
            self._letters.append(letter)
            for peer, share in sends.items():
                message = [self._envelope(share * mass.weight, number, letter.leaving[1:]), *letter.leaving[1:]]
                flight = self._channel.post({peer: message}, {}, f"round {number}")
                answer = self._answers.post({}, {peer: [_nothing()]}, f"the answer to round {number}")
                letter.unanswered[peer] = flight, answer
                self._sent[peer] += 1
            self._retain_(turn.keep, letter.leaving)
        mass.give(turn.keep, doubly_stochastic=False, keeps_alike=False)
        mass.round_landed()
        mass.stats.last.rounds_posted += 1

    def _expect(self, peer: int) -> None:
        """Let a receive stand open for the next message of `peer`."""
        room = self._take_room()
        self._expected[peer] = room, self._channel.post({}, {peer: room}, "gossip that keeps no rounds")

    def _take(self, peer: int, merge: bool = True) -> None:
        """Merge the message of `peer` that has come, and answer it."""
        mass, stats = self.mass, self.mass.stats
        message, flight = self._expected.pop(peer)
        self._arrive(flight)
        envelope, *values = message
        weight, number = envelope[:2].tolist()
        self._check(envelope, self._channel.ranks[peer], int(number), values)
        if merge and weight > 0:
            mass.merge_(envelope[0], values, self.wire)
            stats.last.rounds_landed += 1
        self._taken[peer] += 1
        self._room.append(message)
        self._answering.append(self._answers.post({peer: [_nothing()]}, {}, f"the answer to round {number:g}"))

    def _arrive(self, flight: Flight) -> None:
        """Count what `flight` carried. It may have stood open for long before it was sent, so not for how long."""
        if flight.done():
            flight.posted = flight.landed or flight.posted
        self.mass.arrive(flight)

    def _collect(self, wait: bool = False) -> None:
        """Take note of the answers that have come; of all of them, if we `wait`."""
        last = self.mass.stats.last
        for letter in list(self._letters):
            for peer, (flight, answer) in list(letter.unanswered.items()):
                if wait or (flight.done() and answer.done()):
                    self.mass.arrive(flight)
                    self._arrive(answer)
                    del letter.unanswered[peer]
                    last.oldest_age = max(last.oldest_age, self._step - letter.posted)
            if not letter.unanswered:
                self._letters.remove(letter)
                self._room.append(letter.leaving)
        for flight in [flight for flight in self._answering if wait or flight.done()]:
            self.mass.arrive(flight)
            self._answering.remove(flight)

    def _settle(self) -> None:
        self._meet(merge=True)

    def _meet(self, merge: bool) -> None:
        """Land everything between all ranks, and leave no receive open. Every rank calls it."""
        tally = Tally(sent=_named(self._sent), taken=_named(self._taken), expects=list(self._expected))
        tallies: list[Tally] = [json.loads(said) for said in self._council.gather(json.dumps(tally).encode())]
        me = str(self._channel.rank)
        closing: list[Flight] = []
        nothing = self._take_room()
        for peer in self._targets:
            theirs = tallies[peer]
            # A receive that no message of ours is on its way to is filled by one of no weight.
            if self._channel.rank in theirs["expects"] and theirs["taken"].get(me, 0) == self._sent[peer]:
                message = [self._envelope(torch.zeros((), dtype=torch.float64), self.rounds, nothing[1:]), *nothing[1:]]
                closing.append(self._channel.post({peer: message}, {}, "the end of gossip without rounds"))
        for peer in self._sources:
            coming = tallies[peer]["sent"].get(me, 0) > self._taken[peer]
            if coming and peer not in self._expected:
                self._expect(peer)
            if coming:
                self._take(peer, merge)
        for peer in list(self._expected):
            room, flight = self._expected.pop(peer)
            self._arrive(flight)
            self._room.append(room)
        for flight in closing:
            self.mass.arrive(flight)
        self._room.append(nothing)
        self._collect(wait=True)
        self._sent.clear()
        self._taken.clear()

    def rebind(self) -> None:
        assert not self._expected, "the buckets change with nothing in flight"
        super().rebind()

    def state_dict(self) -> State:
        if self._expected or self._letters:
            raise UsageError(
                f"rank {self._channel.me} cannot know what is on its way to it with landing='any', and a checkpoint "
                "without it would lose mass: call settle() on every rank first, then state_dict()"
            )
        return {"rounds": self.rounds}

    def forget(self) -> None:
        self._meet(merge=False)
        self.rounds = 0

    def load_state_dict(self, state: State) -> None:
        self.forget()
        self.rounds = state["rounds"]


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


def _named(counts: Counter[int]) -> dict[str, int]:
    return {str(peer): count for peer, count in counts.items()}


def _nothing() -> torch.Tensor:
    """What an answer holds: that it came is all."""
    return torch.zeros(1, dtype=torch.uint8)
