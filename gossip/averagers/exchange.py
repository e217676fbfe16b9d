"""A message of gossip: an envelope and the values, the room that it arrives in, and what is looked at then."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from topologies import Topology

from ..errors import GossipError, PeerLost, UsageError
from ..state.buckets.bucket import Bucket, layout
from ..state.codecs import PLAIN, WIRES
from ..state.integrity import checksum
from ..state.mass import Mass
from ..transports import Batch, Flight, post_in_parts
from ..world import World
from .base import ROUNDING, Averager

INTRODUCED = 64
"""Rounds whose peers are connected to at the start, where connecting takes time and the schedule is longer."""


class Messages(Averager):
    """An averager that exchanges (weight, values) over a graph; how rounds go is for those that inherit it.

    Attributes:
        topology: who gives to whom.
        wire: how values are written into messages.
    """

    def __init__(
        self, world: World, topology: Topology, wire: str | None, description: str, node: World | None = None
    ) -> None:
        self.worlds = (world,)
        self.nodes = () if node is None else (node,)
        self.wire = WIRES[wire]
        self.topology = topology
        self._description = description
        self._channel = world.channel()
        self._inside = None if node is None else node.channel()
        self._mark: float | None = None
        self._room: list[list[torch.Tensor]] = []
        self._ahead: dict[int, list[torch.Tensor]] = {}  # in-peer -> what its next message is expected in
        self._looks_ahead = False

    def describe(self) -> str:
        return self._description

    def bind(self, mass: Mass, every: int) -> None:
        if self._inside is not None:
            said = f"rank {self._channel.rank} of {self._channel.size} over {self.topology.describe()}"
            alike = {each.decode() for each in self._inside.gather(said.encode())}
            if len(alike) > 1:
                raise UsageError(
                    f"the ranks of one node carry their messages together, and are not alike among those that they "
                    f"gossip with: {'; '.join(sorted(alike))}. Give each of them the same rank there, as world.across "
                    "does, and the same topology"
                )
            places = [
                place.decode() for place in self._channel.gather(b"%d of %d" % (self._inside.rank, self._inside.size))
            ]
            if len(set(places)) > 1:
                raise UsageError(
                    f"the ranks that exchange their parts of one message stand in their nodes as {', '.join(places)}: "
                    "they have to be counterparts, as in PushSum(world.across, ..., node=world.node) with as many "
                    "ranks on every host"
                )
        super().bind(mass, every)
        self._introduce()

    def _introduce(self) -> None:
        """To every peer of a period, so that no step pays for a connection."""
        rounds = range(min(self.topology.period or INTRODUCED, INTRODUCED))
        turns = [self.topology.turn(self._channel.rank, round) for round in rounds]
        self._channel.introduce(
            sorted({peer for turn in turns for peer in turn.sends}),
            sorted({peer for turn in turns for peer in turn.receives}),
        )
        if self._inside is not None and self._inside.size > 1:  # around which parts are handed on
            r, m = self._inside.rank, self._inside.size
            self._inside.introduce([(r + 1) % m], [(r - 1) % m])

    def _post_batch(self, sends: Batch, receives: Batch, subject: str, *, together: bool) -> Flight:
        if self._inside is None:
            return self._channel.post(sends, receives, subject, together=together)
        return post_in_parts(self._channel, self._inside, sends, receives, subject, together=together)

    def rebind(self) -> None:
        if self._looks_ahead:  # in rooms of other sizes
            self._channel = self._channel.channel()
            self._ahead.clear()
            self._looks_ahead = False
        self._room.clear()
        self._mark = None

    def _envelope(self, weight: torch.Tensor, number: int, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The weight that a message carries, and on hosts enough to know that both ends mean the same round."""
        if weight.is_cuda:  # the order of a stream is the order of rounds, and nothing is read back
            return weight.reshape(1)
        header = torch.tensor([weight.item(), number, self._fingerprint], dtype=torch.float64)
        return torch.cat([header, self._checksum(header, values)]) if self.mass.checksums else header

    def _checksum(self, header: torch.Tensor, values: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.tensor([checksum([header, *values])], dtype=torch.float64)

    def _check(self, envelope: torch.Tensor, rank: int, number: int, values: Sequence[torch.Tensor]) -> None:
        """That a message is of this round, as it was sent."""
        if envelope.is_cuda:
            return
        weight, sent, fingerprint = envelope[:3].tolist()
        if sent != number or fingerprint != self._fingerprint:
            raise PeerLost(
                f"rank {self._channel.me} expected round {number} from rank {rank} and got round {sent:.15g}"
                + (" of another topology or model" if fingerprint != self._fingerprint else "")
                + ": does every rank call step() equally often, and did all resume from the same checkpoint?"
            )
        if not 0 <= weight <= self.topology.size * (1 + ROUNDING):
            raise PeerLost(
                f"rank {self._channel.me} got the weight {weight:g} from rank {rank} in round {number}, and all ranks "
                f"together hold {self.topology.size}: memory or network between the two are at fault"
            )
        if self.mass.checksums and envelope[3:] != self._checksum(envelope[:3], values):
            raise PeerLost(
                f"rank {self._channel.me} got other values in round {number} than rank {rank} sent, by their checksum; "
                "they were not merged. Memory or network between the two are at fault, or the sender wrote its "
                "parameters by hand without settle()"
            )

    @property
    def _fingerprint(self) -> float:
        """Of the topology and the model, the same on every rank."""
        if self._mark is None:
            lines = [self.describe(), self.topology.describe(), *layout(self.mass.buckets)]
            self._mark = float(zlib.crc32("\n".join(lines).encode()))
        return self._mark

    def _take_room(self) -> list[torch.Tensor]:
        """Room for one message, used again once it has landed: one model for each in-peer and round aloft.

        SGP takes one more where a transport `expects`.
        """
        if self._room:
            return self._room.pop()
        weight = self.mass.weight
        numbers = 1 if weight.is_cuda else 3 + self.mass.checksums
        envelope = torch.zeros(numbers, dtype=torch.float64, device=weight.device)
        return [envelope, *(self.wire.room(values) for values in self.mass.values)]

    def _room_for(self, peer: int) -> list[torch.Tensor]:
        """Where the next message of `peer` arrives."""
        return self._ahead.pop(peer) if peer in self._ahead else self._take_room()

    def _look_ahead(self, number: int) -> None:
        """Make room for round `number` where its messages leave only then, so that they may come before our post.

        Each message goes into the oldest room for its sender, whichever round it is of.
        """
        self._looks_ahead = self._channel.expects and self._inside is None
        if self._looks_ahead:
            for peer in sorted(self.topology.turn(self._channel.rank, number).receives):
                if peer not in self._ahead:
                    self._ahead[peer] = self._take_room()
                    self._channel.expect({peer: self._ahead[peer]})

    def _snapshot(self, number: int) -> list[torch.Tensor]:
        """Room for one message, and in it the values as they are now, as round `number` carries them."""
        if self.wire is not PLAIN:
            self.mass.quiet()  # now, for once a round is posted nothing may break off, and `_retain_` writes
        room = self._take_room()
        for bucket, encoded in zip(self.mass.buckets, room[1:], strict=True):
            self.wire.encode(bucket.values, encoded)
            if not encoded.is_cuda and self.wire.lost(encoded):
                raise GossipError(
                    f"rank {self._channel.me} cannot send parameter {_culprit(bucket, self.wire.values(encoded))} in "
                    f"round {number} as {self.wire.name}: it has values that are not finite, or too large; nothing was "
                    "sent. Look at this rank's data and loss, lower the learning rate, or take wire='bfloat16', which "
                    "goes up to 3e38"
                )
        return room

    def _retain_(self, keep: float, leaving: Sequence[torch.Tensor] | None) -> None:
        """Keep what rounding lost in the snapshot `leaving`, of which the share 1 − `keep` was given."""
        if leaving is not None and keep < 1:
            self.mass.retain_(keep, leaving[1:], self.wire)


def _culprit(bucket: Bucket, decoded: torch.Tensor) -> str:
    """The first parameter with a value that is not finite; failing that, with one that does not stay so on the wire."""
    return next(
        slot.name
        for values in (bucket.values, decoded)
        for slot in bucket.slots
        if not torch.isfinite(values[slot.start : slot.stop]).all()
    )
