"""Rounds that land when they are due: SGP with `overlap=0`, OSGP with `overlap=1`.

In round t rank j keeps the share P[j,j](t) of its weight and gives P[i,j](t) of it, with its values as they stand, to
each out-peer i. What is given travels while the next forward and backward pass compute, and is merged `overlap` steps
later, just before that step's update: overlap is only where the wait stands.

Source: Assran et al., ICML 2019, arXiv 1811.10792, algorithms 1 (SGP) and 2 (OSGP).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import topologies

from ...errors import UsageError
from ...recovery.ledger import Ledger, never_arrived
from ...state.codecs import PLAIN
from ...state.mass import Mass
from ...transports import Flight, Told
from ...world import World
from ..base import State
from ..exchange import Messages

MOST_ALOFT = 2
"""Rounds in the air at once. With τ of them the weight settles at 2/(τ+1), and 1/w amplifies the update."""


@dataclass
class Round:
    """A round that was posted.

    Attributes:
        number: which round of the topology it is.
        posted: the step at whose end it was posted.
        due: the step before whose update it is merged.
        arriving: in-peer -> envelope and values, in room of our own.
        leaving: the room of the snapshot that is sent, encoded, where it is not the buckets themselves.
        ranks: what the job calls the peers.
        flight: what carries it; None when it has arrived, out of a checkpoint or as far as it came before a death, and
            where each of its messages has a flight of its own.
    """

    number: int
    posted: int
    due: int
    arriving: dict[int, list[torch.Tensor]]
    leaving: list[torch.Tensor] | None
    ranks: Sequence[int]
    flight: Flight | None


class Rounds(Messages):
    """A round is merged exactly `overlap` steps after its post, so that runs repeat bit for bit.

    With a doubly stochastic schedule w is exactly 1 at every update with overlap 0 or 1.

    When ranks have died, the others go on over `topologies.without` them, from the round that the first of them has
    come to. Whoever is behind takes its next steps by itself until then. Weight that had not arrived is taken back by
    whoever gave it, with the values as they are.
    """

    shortest = 0
    """Steps that a round travels at the least."""

    def __init__(
        self,
        world: World,
        topology: topologies.Topology,
        overlap: int,
        wire: str | None,
        description: str,
        node: World | None = None,
    ) -> None:
        super().__init__(world, topology, wire, description, node)
        self.overlap = max(overlap, self.shortest)
        self.rounds = 0
        self._whole, self._members = topology, list(world.base.ranks)
        self._step = 0
        self._next = 0  # the first step that has not been posted
        self._ledger = Ledger()
        self._aloft: deque[Round] = deque()

    def bind(self, mass: Mass, every: int) -> None:
        self._refuse_thin(every)
        super().bind(mass, every)
        mass.lands_with(self._settle, self._in_flight)

    def _in_flight(self) -> bool:
        return bool(self._aloft)

    def _refuse_thin(self, every: int) -> None:
        aloft = -(-self.overlap // every)
        if aloft > 1 and self.nodes:
            raise UsageError(
                f"overlap={self.overlap} posted every {every} step(s) keeps {aloft} rounds in the air, and with "
                "node=... the ranks of a node hand each other one round at a time: use overlap=0 or 1, or "
                f"Every({self.overlap}, PushSum(..., overlap={self.overlap}, node=...))"
            )
        if aloft > MOST_ALOFT:
            raise UsageError(
                f"overlap={self.overlap} posted every {every} step(s) keeps {aloft} rounds in the air: the weight held "
                f"would settle at 2/{aloft + 1} and amplify each update by its inverse, until training diverges. Use "
                f"overlap=1, or post as rarely as rounds land: Every({self.overlap}, PushSum(..., "
                f"overlap={self.overlap}))"
            )

    def due(self, step: int) -> bool:
        return super().due(step) and step >= self._next

    def land(self, step: int) -> None:
        self._step = step
        while self._aloft and self._aloft[0].due <= step:
            self._land()

    def average(self, step: int) -> None:
        if self.overlap == 0:
            if self.due(step):
                self._post(step)
                self._look_ahead(self.rounds)  # now, while all wait, it costs no time, and room for one message more
            self.land(step)

    def post(self, step: int) -> None:
        if self.overlap > 0 and self.due(step):
            self._post(step)

    def _post(self, step: int) -> None:
        with self.mass.stats.span("post"):
            self._aloft.append(self._give(step))
        self._next = step + 1

    def _give(self, step: int) -> Round:
        """Keep a share of the weight, and put the others on their way with the values."""
        mass, turn = self.mass, self.topology.turn(self._channel.rank, self.rounds)
        mass.look(mass.values)
        leaving = None
        # With overlap 0 and 1 the values stand still until the round has landed, so they are sent as they lie.
        if self.overlap > 1 or (self.wire is not PLAIN and turn.sends):
            leaving = self._snapshot(self.rounds)
        number, self.rounds = self.rounds, self.rounds + 1
        values = mass.values if leaving is None else leaving[1:]
        sends = {
            peer: [self._envelope(share * mass.weight, number, values), *values] for peer, share in turn.sends.items()
        }
        arriving = {peer: self._room_for(peer) for peer in sorted(turn.receives)}
        # Where all wait for a round, a rank is hardly ahead of another, and asking for room would only cost time.
        flight = self._post_batch(sends, arriving, f"round {number}", together=self.overlap == 0)
        if leaving is None:
            mass.reading.append(flight)
        if self._channel.carrier.parties:
            ranks = self._channel.ranks
            self._ledger.give(number, {ranks[peer]: float(envelope[0]) for peer, (envelope, *_) in sends.items()})
        self._retain_(turn.keep, leaving)
        mass.give(turn.keep, self.topology.doubly_stochastic(number), self.topology.keeps_alike(number))
        mass.stats.last.rounds_posted += 1
        return Round(number, step, step + self.overlap, arriving, leaving, self._channel.ranks, flight)

    def _land(self) -> None:
        """Merge the oldest round that is in flight."""
        mass, round = self.mass, self._aloft[0]
        if round.flight is not None:
            mass.arrive(round.flight)
        mass.quiet()
        self._aloft.popleft()  # from here on nothing can break off
        for peer, (envelope, *values) in round.arriving.items():
            self._check(envelope, round.ranks[peer], round.number, values)
            self._ledger.heard[round.ranks[peer]] = round.number
        mass.merge_([(envelope[0], values) for envelope, *values in round.arriving.values()], self.wire)
        mass.round_landed()
        self._give_back(round)
        self._look_ahead(self.rounds)  # not before: messages of two rounds would share our link
        mass.stats.last.rounds_landed += 1
        mass.stats.last.oldest_age = max(mass.stats.last.oldest_age, self._step - round.posted)

    def _settle(self) -> None:
        while self._aloft:
            self._land()

    def _give_back(self, round: Round) -> None:
        self._room.extend(round.arriving.values())
        if round.leaving is not None:
            self._room.append(round.leaving)

    def rebind(self) -> None:
        assert not self._aloft, "the buckets change with nothing in flight"
        super().rebind()

    # -- when a rank has died ------------------------------------------------------------------------------------------

    def tell(self) -> State:
        come = self._come()
        return {
            "rounds": self.rounds,
            "next": self._next,
            **self._ledger.tell((round.number, messages) for round, messages in zip(self._aloft, come, strict=True)),
            "unmerged": sum(float(message[0][0]) for messages in come for message in messages.values()),
        }

    def _come(self) -> list[dict[int, list[torch.Tensor]]]:
        """The messages of each round aloft that have arrived, by the rank that sent each, as the job numbers it.

        One that has overtaken another of the same rank counts as lost with it.
        """
        come, lacking = [], set[int]()
        for round in self._aloft:
            arrived = round.arriving.keys() if round.flight is None else round.flight.arrived()
            lacking |= {round.ranks[peer] for peer in round.arriving.keys() - arrived}
            messages = {round.ranks[peer]: message for peer, message in sorted(round.arriving.items())}
            come.append({rank: message for rank, message in messages.items() if rank not in lacking})
        return come

    def weights(self, told: Told) -> dict[int, float]:
        lost = never_arrived(told, self._members, due=max(1, -(-self.overlap // self.every)))
        return {rank: each["unmerged"] + lost[rank] for rank, each in told.items()}

    def go_on(self, told: Told, scale: float) -> float:
        come = self._come()
        for round, messages in zip(self._aloft, come, strict=True):
            for rank, (envelope, *values) in messages.items():
                self._check(envelope, rank, round.number, values)
        lost = [place for place, rank in enumerate(self._members) if rank not in told]
        self.topology, self._mark = topologies.without(self._whole, lost), None
        self.rounds = max(each["rounds"] for each in told.values())
        self._next = max(each["next"] for each in told.values())
        self._ledger.given.clear()
        unmerged = 0.0
        for round, messages in zip(self._aloft, come, strict=True):
            self._room.extend(room for peer, room in round.arriving.items() if round.ranks[peer] not in messages)
            round.arriving = {peer: room for peer, room in round.arriving.items() if round.ranks[peer] in messages}
            for rank, (envelope, *values) in messages.items():
                self._ledger.heard[rank] = round.number
                envelope.copy_(self._envelope(scale * envelope[0], round.number, values))
                unmerged += float(envelope[0])
            round.flight = None
        return unmerged

    def state_dict(self) -> State:
        for round in self._aloft:
            if round.flight is not None:
                round.flight.wait()
        return {
            "rounds": self.rounds,
            "next": self._next,
            "aloft": [
                {
                    "number": round.number,
                    "posted": round.posted,
                    "due": round.due,
                    "wire": self.wire.name,
                    "arriving": {peer: [t.clone() for t in tensors] for peer, tensors in round.arriving.items()},
                }
                for round in self._aloft
            ],
        }

    def forget(self) -> None:
        for round in self._aloft:
            if round.flight is not None:
                self.mass.arrive(round.flight)
            self._give_back(round)
        self.mass.aloft -= len(self._aloft)
        self._aloft.clear()
        self._ledger.clear()
        self.rounds = self._next = 0

    def load_state_dict(self, state: State) -> None:
        self.rounds, self._next = state["rounds"], state["next"]
        for saved in state["aloft"]:
            arriving = {}
            for peer, tensors in saved["arriving"].items():
                arriving[peer] = [envelope, *rooms] = self._take_room()
                for room, tensor in zip(rooms, tensors[1:], strict=True):
                    room.copy_(tensor)
                weight = tensors[0][0].to(envelope.device)
                envelope.copy_(
                    self._envelope(weight, saved["number"], rooms)
                )  # with a checksum only where asked for now
                if min(len(envelope), len(tensors[0])) > 2:
                    envelope[2] = tensors[0][2]  # the fingerprint that it came with
            ranks = self._channel.ranks
            self._aloft.append(Round(saved["number"], saved["posted"], saved["due"], arriving, None, ranks, None))
        self.mass.aloft += len(self._aloft)
