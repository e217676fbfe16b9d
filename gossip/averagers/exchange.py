"""Messages of gossip: an envelope and the values, the buffers that they arrive in, and the checks on arrival."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from functools import partial

import torch

from topologies import Topology, Turn

from ..errors import GossipError, PeerLost, UsageError
from ..state.buckets.bucket import layout
from ..state.buckets.sections import Span
from ..state.codecs import PLAIN, Codec
from ..state.mass import ROUNDING, Mass
from ..transports import Communicator, Flight, post_in_parts
from ..world import World

INTRODUCED = 64
"""Rounds whose peers are connected at the start, where a connection takes time and the schedule is longer."""

Buffers = list[torch.Tensor]
"""An envelope, and the values of each bucket: what one message is sent from or arrives in."""


class Exchange:
    """Sends and receives pairs (weight, values) of one rank over a graph; a landing strategy says when.

    Args:
        description: one line that tells the ranks' averagers apart.
        node: the ranks of this host, where they carry each message together.
    """

    mass: Mass
    post: Callable[..., Flight]  # as `channel.post`; the ranks of a node each carry a part

    def __init__(
        self, world: World, topology: Topology, codec: Codec, description: str, node: World | None = None
    ) -> None:
        self.world, self.topology, self.codec, self.description = world, topology, codec, description
        channel = world.channel()
        self.node: Communicator | None = None if node is None else node.channel()
        self._open(channel)
        self._fingerprint: float | None = None
        self._idle: list[Buffers] = []
        self._expected: dict[int, Buffers] = {}  # in-peer -> buffers of a receive that is posted already
        self._spans: Sequence[Span] | None = None  # what of the buckets it exchanges, if not all

    def _open(self, channel: Communicator) -> None:
        self.channel = channel
        self.post = channel.post if self.node is None else partial(post_in_parts, channel, self.node)

    def bind(self, mass: Mass) -> None:
        """Exchange messages of `mass`, with every peer of a period connected, so that no step pays for a connection."""
        if self.node is not None:
            _check_node(self.channel, self.node, self.topology)
        self.mass = mass
        rounds = min(self.topology.period or INTRODUCED, INTRODUCED)
        self.channel.introduce(*neighbours(self.topology, self.channel.rank, rounds))
        if self.node is not None and self.node.size > 1:  # around which parts are handed on
            r, m = self.node.rank, self.node.size
            self.node.introduce([(r + 1) % m], [(r - 1) % m])

    def part(self, spans: Sequence[Span]) -> Exchange:
        """The same for a part of the values, with buffers of its own. Ranks post their parts in one order."""
        part = copy.copy(self)
        part._idle, part._expected, part._spans = [], {}, spans
        return part

    @property
    def values(self) -> list[torch.Tensor]:
        """The values z that it exchanges, in the buckets' memory."""
        values = self.mass.values
        return values if self._spans is None else [values[number][start:stop] for number, start, stop in self._spans]

    def turn(self, number: int) -> Turn:
        """This rank's shares and peers in round `number`."""
        return self.topology.turn(self.channel.rank, number)

    def reset(self, topology: Topology | None = None) -> None:
        """Begin anew with other buckets, nothing being in flight, or over another topology."""
        if topology is not None:
            self.topology = topology
        else:
            if self._expects:  # perhaps, in buffers of other sizes
                self._open(self.channel.channel())
                self._expected.clear()
            self._idle.clear()
        self._fingerprint = None

    # -- envelopes -----------------------------------------------------------------------------------------------------

    def envelope(self, weight: torch.Tensor, number: int, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """The weight of a message, and on hosts its round, the fingerprint of the model, and a checksum if asked."""
        if weight.is_cuda:  # the order of a stream is the order of rounds, and nothing is read back
            return weight.reshape(1)
        header = torch.tensor([weight.item(), number, self.fingerprint], dtype=torch.float64)
        return torch.cat([header, _checksum(header, values)]) if self.mass.checksum else header

    def check(self, envelope: torch.Tensor, rank: int, number: int, values: Sequence[torch.Tensor]) -> None:
        """Check that a message belongs to round `number`, and arrived as it was sent."""
        if envelope.is_cuda:
            return
        weight, sent, fingerprint = envelope[:3].tolist()
        if sent != number or fingerprint != self.fingerprint:
            raise PeerLost(
                f"rank {self.channel.me} expected round {number} from rank {rank} and got round {sent:.15g}"
                + (" of another topology or model" if fingerprint != self.fingerprint else "")
                + ": does every rank call step() equally often, and did all resume from the same checkpoint?"
            )
        if not 0 <= weight <= self.topology.size * (1 + ROUNDING):
            raise PeerLost(
                f"rank {self.channel.me} got the weight {weight:g} from rank {rank} in round {number}, and all ranks "
                f"together hold {self.topology.size}: memory or network between the two are at fault"
            )
        if self.mass.checksum and envelope[3:] != _checksum(envelope[:3], values):
            raise PeerLost(
                f"rank {self.channel.me} got other values in round {number} than rank {rank} sent, by their checksum; "
                "they were not merged. Memory or network between the two are at fault, or the sender wrote its "
                "parameters by hand without settle()"
            )

    @property
    def fingerprint(self) -> float:
        """A number for the topology and the model, the same on every rank."""
        if self._fingerprint is None:
            lines = [self.description, self.topology.describe(), *layout(self.mass.buckets)]
            self._fingerprint = float(zlib.crc32("\n".join(lines).encode()))
        return self._fingerprint

    # -- buffers -------------------------------------------------------------------------------------------------------

    def take(self) -> Buffers:
        """Buffers for one message: one model for each in-peer and round in flight, used again after landing."""
        if self._idle:
            return self._idle.pop()
        weight = self.mass.weight
        numbers = 1 if weight.is_cuda else 3 + self.mass.checksum
        envelope = torch.zeros(numbers, dtype=torch.float64, device=weight.device)
        return [envelope, *(self.codec.buffer(values) for values in self.values)]

    def give_back(self, *buffers: Buffers) -> None:
        """Use `buffers` for later messages."""
        self._idle.extend(buffers)

    def take_for(self, peer: int) -> Buffers:
        """Buffers for the next message of `peer`."""
        return self._expected.pop(peer, None) or self.take()

    @property
    def _expects(self) -> bool:
        return self.channel.expects and self.node is None

    def expect(self, number: int) -> None:
        """Post the receives of round `number` early, on a transport whose messages leave only once that is done.

        A message goes into the oldest posted receive for its sender, whichever round it belongs to.
        """
        if self._expects:
            for peer in sorted(self.turn(number).receives):
                if peer not in self._expected:
                    self._expected[peer] = self.take()
                    self.channel.expect({peer: self._expected[peer]})

    def snapshot(self, number: int) -> Buffers:
        """Buffers that hold the values as they are now, encoded for round `number`."""
        if self.codec is not PLAIN:
            self.mass.quiesce()  # now: once a round is posted nothing may raise, and `retain_` writes
        buffers = self.take()
        for values, encoded in zip(self.values, buffers[1:], strict=True):
            self.codec.encode(values, encoded)
            if not encoded.is_cuda and self.codec.is_lossy(encoded):
                lost = next(flat for flat in (values, self.codec.values(encoded)) if not torch.isfinite(flat).all())
                name = self._name_of(values[int((~torch.isfinite(lost)).nonzero()[0]) :])
                raise GossipError(
                    f"rank {self.channel.me} cannot send parameter {name} in round {number} as {self.codec.name}: it "
                    "has values that are not finite, or too large; nothing was sent. Look at this rank's data and "
                    "loss, lower the learning rate, or take wire='bfloat16', which goes up to 3e38"
                )
        return buffers

    def _name_of(self, values: torch.Tensor) -> str:
        """The parameter in which `values`, a view of a bucket, begin."""
        address, slots = values.data_ptr(), [slot for bucket in self.mass.buckets for slot in bucket.slots]
        return next(slot.name for slot in slots if 0 <= address - slot.address < slot.parameter.nbytes)


def neighbours(topology: Topology, rank: int, rounds: int) -> tuple[list[int], list[int]]:
    """The out-peers and the in-peers of `rank` in the first `rounds` rounds.

    >>> from topologies import exponential
    >>> neighbours(exponential(8), 0, rounds=3)
    ([1, 2, 4], [4, 6, 7])
    """
    turns = [topology.turn(rank, number) for number in range(rounds)]
    return (
        sorted({peer for turn in turns for peer in turn.sends}),
        sorted({peer for turn in turns for peer in turn.receives}),
    )


def _checksum(header: torch.Tensor, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """CRC-32 of the tensors' bytes, one after another."""
    crc = 0
    for tensor in (header, *values):
        crc = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, crc)
    return torch.tensor([crc], dtype=torch.float64)


def _check_node(channel: Communicator, node: Communicator, topology: Topology) -> None:
    """Check that the ranks of one node stand alike among those that they gossip with."""
    place = f"rank {channel.rank} of {channel.size} over {topology.describe()}"
    alike = {each.decode() for each in node.gather(place.encode())}
    if len(alike) > 1:
        raise UsageError(
            f"the ranks of one node carry their messages together, and are not alike among those that they "
            f"gossip with: {'; '.join(sorted(alike))}. Give each of them the same rank there, as world.across "
            "does, and the same topology"
        )
    places = [place.decode() for place in channel.gather(b"%d of %d" % (node.rank, node.size))]
    if len(set(places)) > 1:
        raise UsageError(
            f"the ranks that exchange their parts of one message stand in their nodes as {', '.join(places)}: "
            "they have to be counterparts, as in PushSum(world.across, ..., node=world.node) with as many "
            "ranks on every host"
        )
