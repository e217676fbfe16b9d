"""Rounds that land when they are due: SGP with `overlap=0`, OSGP with `overlap=1`.

In round t rank j keeps the share P[j,j](t) of its weight and gives P[i,j](t) of it, with its values as they stand, to
each out-peer i. What is given travels while the next forward and backward pass compute, and is merged `overlap` steps
later, just before that step's update: overlap is only where the wait stands.

Source: Assran et al., ICML 2019, arXiv 1811.10792, algorithms 1 (SGP) and 2 (OSGP).
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass

import torch

import topologies

from .averaging import Averager, State
from .errors import PeerLost, UsageError
from .mass import Mass
from .transports import Flight
from .world import World

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
        leaving: the room of the snapshot that is sent, where it is not the buckets themselves.
        flight: what carries it; None when it came out of a checkpoint, arrived.
    """

    number: int
    posted: int
    due: int
    arriving: dict[int, list[torch.Tensor]]
    leaving: list[torch.Tensor] | None
    flight: Flight | None


class Rounds(Averager):
    """A round is merged exactly `overlap` steps after its post, so that runs repeat bit for bit.

    With a doubly stochastic schedule w is exactly 1 at every update with overlap 0 or 1.
    """

    def __init__(self, world: World, topology: topologies.Topology, overlap: int, description: str) -> None:
        self.worlds = (world,)
        self.topology = topology
        self.overlap = overlap
        self.rounds = 0
        self._description = description
        self._rank = world.rank
        self._step = 0
        self._channel = world.channel()
        self._aloft: deque[Round] = deque()
        self._room: list[list[torch.Tensor]] = []

    def describe(self) -> str:
        return self._description

    def bind(self, mass: Mass, every: int) -> None:
        self._refuse_thin(every)
        super().bind(mass, every)
        mass.lands_with(self._settle)
        self._fingerprint = float(zlib.crc32(self.describe().encode()))

    def _refuse_thin(self, every: int) -> None:
        aloft = -(-self.overlap // every)
        if aloft > MOST_ALOFT:
            raise UsageError(
                f"overlap={self.overlap} posted every {every} step(s) keeps {aloft} rounds in the air: the weight held "
                f"would settle at 2/{aloft + 1} and amplify each update by its inverse, until training diverges. Use "
                f"overlap=1, or post as rarely as rounds land: Every({self.overlap}, PushSum(..., "
                f"overlap={self.overlap}))"
            )

    def land(self, step: int) -> None:
        self._step = step
        while self._aloft and self._aloft[0].due <= step:
            self._land(self._aloft.popleft())

    def average(self, step: int) -> None:
        if self.overlap == 0 and self.due(step):
            self._post(step)
            self.land(step)

    def post(self, step: int) -> None:
        if self.overlap > 0 and self.due(step):
            self._post(step)

    def _post(self, step: int) -> None:
        with self.mass.stats.span("post"):
            self._aloft.append(self._give(step))

    def _give(self, step: int) -> Round:
        """Keep a share of the weight, and put the others on their way with the values."""
        mass, turn = self.mass, self.topology.turn(self._rank, self.rounds)
        number, self.rounds = self.rounds, self.rounds + 1
        # With overlap 0 and 1 the values stand still until the round has landed, so they are sent as they lie.
        leaving = self._snapshot() if self.overlap > 1 else None
        values = mass.values if leaving is None else leaving[1:]
        sends = {peer: [self._envelope(share * mass.weight, number), *values] for peer, share in turn.sends.items()}
        arriving = {peer: self._take_room() for peer in sorted(turn.receives)}
        # Where all wait for a round, a rank is hardly ahead of another, and asking for room would only cost time.
        flight = self._channel.post(sends, arriving, f"round {number}", together=self.overlap == 0)
        if leaving is None:
            mass.reading.append(flight)
        mass.give(turn.keep, self.topology.doubly_stochastic(number), self.topology.keeps_alike(number))
        mass.stats.last.rounds_posted += 1
        return Round(number, step, step + self.overlap, arriving, leaving, flight)

    def _land(self, round: Round) -> None:
        mass = self.mass
        if round.flight is not None:
            mass.arrive(round.flight)
        for peer, (envelope, *values) in round.arriving.items():
            self._check(envelope, peer, round.number)
            mass.merge_(envelope[0], values)
        mass.round_landed()
        self._give_back(round)
        mass.stats.last.rounds_landed += 1
        mass.stats.last.oldest_age = max(mass.stats.last.oldest_age, self._step - round.posted)

    def _settle(self) -> None:
        while self._aloft:
            self._land(self._aloft.popleft())

    def _envelope(self, weight: torch.Tensor, number: int) -> torch.Tensor:
        """The weight that a message carries, and on hosts enough to know that both ends mean the same round."""
        if weight.is_cuda:  # the order of a stream is the order of rounds, and nothing is read back
            return weight.reshape(1)
        return torch.tensor([weight.item(), number, self._fingerprint], dtype=torch.float64)

    def _check(self, envelope: torch.Tensor, peer: int, number: int) -> None:
        if envelope.is_cuda:
            return
        _, sent, fingerprint = envelope.tolist()
        if sent != number or fingerprint != self._fingerprint:
            raise PeerLost(
                f"rank {self._channel.me} expected round {number} from rank {self._channel.ranks[peer]} "
                f"and got round {sent:g}"
                + (" of another topology" if fingerprint != self._fingerprint else "")
                + ": does every rank call step() equally often, and did all resume from the same checkpoint?"
            )

    def _take_room(self) -> list[torch.Tensor]:
        """Room for one message, used again once it has landed: one model for each in-peer and round aloft."""
        if self._room:
            return self._room.pop()
        weight = self.mass.weight
        envelope = torch.zeros(1 if weight.is_cuda else 3, dtype=torch.float64, device=weight.device)
        return [envelope, *(torch.empty_like(values) for values in self.mass.values)]

    def _snapshot(self) -> list[torch.Tensor]:
        room = self._take_room()
        for copy, values in zip(room[1:], self.mass.values, strict=True):
            copy.copy_(values)
        return room

    def _give_back(self, round: Round) -> None:
        self._room.extend(round.arriving.values())
        if round.leaving is not None:
            self._room.append(round.leaving)

    def rebind(self) -> None:
        assert not self._aloft, "the buckets change with nothing in flight"
        self._room.clear()

    def state_dict(self) -> State:
        for round in self._aloft:
            if round.flight is not None:
                round.flight.wait()
        return {
            "rounds": self.rounds,
            "aloft": [
                {
                    "number": round.number,
                    "posted": round.posted,
                    "due": round.due,
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
        self.rounds = 0

    def load_state_dict(self, state: State) -> None:
        self.forget()
        self.rounds = state["rounds"]
        for saved in state["aloft"]:
            arriving = {}
            for peer, tensors in saved["arriving"].items():
                arriving[peer] = self._take_room()
                for room, tensor in zip(arriving[peer], tensors, strict=True):
                    room.copy_(tensor)
            self._aloft.append(Round(saved["number"], saved["posted"], saved["due"], arriving, None, None))
        self.mass.aloft += len(self._aloft)
