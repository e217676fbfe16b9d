"""Push-sum over a time-varying graph: SGP with `overlap=0`, OSGP with `overlap=1`.

In round t rank j keeps the share P[j,j](t) of its weight and gives P[i,j](t) of it, with its values as they stand, to
each out-peer i. What is given travels while the next forward and backward pass compute, and is merged `overlap` steps
later, just before that step's update: overlap is only where the wait stands.

Source: Assran et al., ICML 2019, arXiv 1811.10792, algorithms 1 (SGP) and 2 (OSGP).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import topologies

from .averaging import Averager, State
from .buckets import layout
from .errors import PeerLost, UsageError
from .guard import checksum
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


class PushSum(Averager):
    """Gossip of (weight, values) pairs over `topology`; one round for each post.

        give     w_j <- P[j,j] w_j ,  send (P[i,j] w_j, z_j) to each i
        merge    w <- w + w' ,        z <- z + (w'/w)(z' − z)

    Σ w and Σ w·z over all ranks, held and in flight, never change by it. With a doubly stochastic schedule w is
    exactly 1 at every update with overlap 0 or 1.

    Args:
        world: the ranks that gossip. Between steps their parameters may be on their way: settle before writing them.
        topology: who gives to whom; its size is the world's.
        overlap: steps that a round may travel. 0 and 1 send the parameters' own memory; above that a snapshot.
        landing: "due", the only one so far: a round is merged exactly `overlap` steps after its post, so that runs
            repeat bit for bit.

    Raises:
        UsageError: an overlap or landing that does not exist, or a topology of another size.
        TopologyError: a schedule that breaks the laws of `topologies.Topology`.

    >>> import gossip, topologies
    >>> world = gossip.init()
    >>> osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    """

    def __init__(self, world: World, topology: topologies.Topology, overlap: int = 0, landing: str = "due") -> None:
        if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
            raise UsageError(f"overlap is {overlap!r}, but it is a number of steps: 0, 1 or more")
        if landing != "due":
            raise UsageError(f"landing {landing!r} does not exist; there is 'due'")
        if isinstance(topology, str):
            raise UsageError(
                f"topology is the text {topology!r}: topologies.load({topology!r}, world.size) makes a graph of it"
            )
        if not isinstance(topology, topologies.Topology):
            raise UsageError(
                f"topology is a {type(topology).__name__}, not a topologies.Topology: "
                "topologies.from_networkx(graph) makes one of a networkx graph"
            )
        if topology.size != world.size:
            raise UsageError(
                f"the topology has {topology.size} ranks and the world has {world.size}: make it with size=world.size"
            )
        topologies.validate(topology)
        self.worlds = (world,)
        self.topology = topology
        self.overlap = overlap
        self.landing = landing
        self.rounds = 0
        self._rank = world.rank
        self._step = 0
        self._channel = world.channel()
        self._aloft: deque[Round] = deque()
        self._room: list[list[torch.Tensor]] = []
        self._mark: float | None = None

    def describe(self) -> str:
        return f"PushSum({self.topology.describe()}, overlap={self.overlap}, landing={self.landing!r})"

    def bind(self, mass: Mass, every: int) -> None:
        aloft = -(-self.overlap // every)
        if aloft > MOST_ALOFT:
            raise UsageError(
                f"overlap={self.overlap} posted every {every} step(s) keeps {aloft} rounds in the air: the weight held "
                f"would settle at 2/{aloft + 1} and amplify each update by its inverse, until training diverges. Use "
                f"overlap=1, or post as rarely as rounds land: Every({self.overlap}, PushSum(..., "
                f"overlap={self.overlap}))"
            )
        super().bind(mass, every)
        mass.lands_with(self._settle)

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
        mass.look(mass.values)
        number, self.rounds = self.rounds, self.rounds + 1
        # With overlap 0 and 1 the values stand still until the round has landed, so they are sent as they lie.
        leaving = self._snapshot() if self.overlap > 1 else None
        values = mass.values if leaving is None else leaving[1:]
        sends = {
            peer: [self._envelope(share * mass.weight, number, values), *values] for peer, share in turn.sends.items()
        }
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
            self._check(envelope, peer, round.number, values)
            mass.merge_(envelope[0], values)
        mass.round_landed()
        self._give_back(round)
        mass.stats.last.rounds_landed += 1
        mass.stats.last.oldest_age = max(mass.stats.last.oldest_age, self._step - round.posted)

    def _settle(self) -> None:
        while self._aloft:
            self._land(self._aloft.popleft())

    def _envelope(self, weight: torch.Tensor, number: int, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The weight that a message carries, and on hosts enough to know that both ends mean the same round."""
        if weight.is_cuda:  # the order of a stream is the order of rounds, and nothing is read back
            return weight.reshape(1)
        header = torch.tensor([weight.item(), number, self._fingerprint], dtype=torch.float64)
        return torch.cat([header, self._checksum(header, values)]) if self.mass.checksums else header

    def _checksum(self, header: torch.Tensor, values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([checksum([header, *values])], dtype=torch.float64)

    def _check(self, envelope: torch.Tensor, peer: int, number: int, values: Sequence[torch.Tensor]) -> None:
        if envelope.is_cuda:
            return
        _, sent, fingerprint = envelope[:3].tolist()
        if sent != number or fingerprint != self._fingerprint:
            raise PeerLost(
                f"rank {self._channel.me} expected round {number} from rank {self._channel.ranks[peer]} "
                f"and got round {sent:g}"
                + (" of another topology or model" if fingerprint != self._fingerprint else "")
                + ": does every rank call step() equally often, and did all resume from the same checkpoint?"
            )
        if self.mass.checksums and envelope[3:] != self._checksum(envelope[:3], values):
            raise PeerLost(
                f"rank {self._channel.me} got other values in round {number} than rank {self._channel.ranks[peer]} "
                "sent, by their checksum; they were not merged. Memory or network between the two are at fault, or "
                "the sender wrote its parameters by hand without settle()"
            )

    @property
    def _fingerprint(self) -> float:
        """Of the topology and the model, the same on every rank."""
        if self._mark is None:
            self._mark = float(zlib.crc32("\n".join([self.describe(), *layout(self.mass.buckets)]).encode()))
        return self._mark

    def _take_room(self) -> list[torch.Tensor]:
        """Room for one message, used again once it has landed: one model for each in-peer and round aloft."""
        if self._room:
            return self._room.pop()
        weight = self.mass.weight
        envelope = torch.zeros(
            1 if weight.is_cuda else 3 + self.mass.checksums, dtype=torch.float64, device=weight.device
        )
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
        self._mark = None

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
