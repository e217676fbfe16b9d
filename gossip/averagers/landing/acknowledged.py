"""Messages that their receivers acknowledge, one by one: a rank knows which peers it may send to again.

Where messages get lost, a message that is not acknowledged within the transport's patience is sent again, with its
number. It is merged when it is the next of its sender, so once and in order, and an acknowledgement says how far that
went. So nothing is lost for good, though nobody can tell a lost message from a lost acknowledgement. A rank that has
settled acknowledges nothing until its next step, so the losses have to end before ranks settle.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch

from ...transports import Flight
from ..exchange import Buffers, Exchange


@dataclass(eq=False)
class Snapshot:
    """Values that were sent to one peer or several, in buffers that are used again afterwards."""

    buffers: Buffers
    to: set[int]  # peers that have not acknowledged
    flights: list[Flight] = field(default_factory=list)  # which read the buffers


@dataclass(eq=False)
class Message:
    """A message to one peer that is not acknowledged: an envelope, and the values of a snapshot."""

    number: int  # counts the messages to this peer
    tensors: Buffers
    snapshot: Snapshot
    step: int  # at whose end it was posted
    time: float = 0.0  # of the last time that it was sent, by the monotonic clock


class Acknowledged:
    """Sends snapshots over the channel of `exchange`, and receives acknowledgements on a channel of its own."""

    def __init__(self, exchange: Exchange) -> None:
        # Made where ranks have agreed on the landing: channels are numbered in the order in which they are made.
        self.channel = exchange.world.channel()
        self.unacknowledged: dict[int, list[Message]] = {}  # out-peer -> messages, the oldest first
        self.snapshots: list[Snapshot] = []
        self.coming: dict[int, tuple[torch.Tensor, Flight]] = {}  # out-peer -> buffer and flight of its next word
        self.going: list[Flight] = []  # acknowledgements of ours
        self._exchange = exchange
        self._count: defaultdict[int, int] = defaultdict(int)  # out-peer -> messages

    def send(self, weights: dict[int, torch.Tensor], buffers: Buffers, step: int) -> None:
        """Send the values in `buffers` to some peers, with a weight each."""
        snapshot = Snapshot(buffers, set(weights))
        self.snapshots.append(snapshot)
        for peer, weight in weights.items():
            self._count[peer] += 1
            envelope = self._exchange.envelope(weight, self._count[peer], buffers[1:])
            message = Message(self._count[peer], [envelope, *buffers[1:]], snapshot, step)
            self.unacknowledged.setdefault(peer, []).append(message)
            self._post(peer, message)

    def acknowledge(self, peer: int, number: int, upto: int) -> None:
        """Tell `peer`, whose message `number` has arrived, that all messages up to `upto` are merged."""
        word = torch.tensor([upto], dtype=torch.float64)
        self.going.append(self.channel.post({peer: [word]}, {}, f"the acknowledgement of message {number}"))

    def _post(self, peer: int, message: Message) -> None:
        flight = self._exchange.channel.post({peer: message.tensors}, {}, f"message {message.number}")
        message.snapshot.flights.append(flight)
        message.time = time.monotonic()
        if peer not in self.coming:
            self._listen(peer)

    def _listen(self, peer: int) -> None:
        buffer = torch.empty(1, dtype=torch.float64)
        self.coming[peer] = buffer, self.channel.post({}, {peer: [buffer]}, "the acknowledgement of a message")

    def send_again(self) -> None:
        """Send messages again that were not acknowledged within the transport's patience."""
        overdue = time.monotonic() - self._exchange.channel.patience
        for peer, messages in self.unacknowledged.items():
            for message in messages if messages[0].time < overdue else ():
                self._post(peer, message)

    def collect(self, step: int) -> None:
        """Note the acknowledgements that have arrived, and the flights that have ended."""
        mass = self._exchange.mass
        for peer, (_, flight) in list(self.coming.items()):
            if flight.done():
                self._hear(peer, step)
        for snapshot in list(self.snapshots):
            for flight in [flight for flight in snapshot.flights if flight.done()]:
                mass.wait(flight)
                snapshot.flights.remove(flight)
            if not snapshot.flights and not snapshot.to:
                self.snapshots.remove(snapshot)
                self._exchange.give_back(snapshot.buffers)
        for flight in [flight for flight in self.going if flight.done()]:
            mass.wait(flight)
            self.going.remove(flight)

    def _hear(self, peer: int, step: int) -> None:
        """Take the acknowledgement of `peer` that has arrived."""
        buffer, flight = self.coming.pop(peer)
        self.wait(flight)
        last = self._exchange.mass.stats.last
        messages = self.unacknowledged[peer]
        while messages and messages[0].number <= buffer.item():
            message = messages.pop(0)
            message.snapshot.to.remove(peer)
            last.oldest_age = max(last.oldest_age, step - message.step)
        if messages:
            self._listen(peer)
        else:
            del self.unacknowledged[peer]

    def wait(self, flight: Flight) -> None:
        """Count the bytes of `flight`, but not its age: a receive may be posted long before its message is sent."""
        if flight.done():
            flight.posted = flight.landed or flight.posted
        self._exchange.mass.wait(flight)
