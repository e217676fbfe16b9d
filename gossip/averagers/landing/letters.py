"""Messages that are answered, each for itself: what a rank has sent, and to whom it may send again.

Where messages get lost, what is not answered within the transport's patience is sent again, with its number: a message
is merged when it is the next of its sender, so once and in order, and an answer says how far that went. So nothing is
lost for good, though nobody can tell a lost message from a lost answer. Whoever has settled answers no more until its
next step, so the losses have to have ended when ranks settle.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch

from ...state.mass import Mass
from ...transports import Flight
from .due import Rounds


@dataclass(eq=False)
class Letter:
    """A snapshot that was sent.

    Attributes:
        leaving: its room, used again when nobody is to answer and nothing carries it any more.
        to: peers that have not answered.
        flights: what carries it.
    """

    leaving: list[torch.Tensor]
    to: set[int]
    flights: list[Flight] = field(default_factory=list)


@dataclass(eq=False)
class Message:
    """What went to one peer, and has not been answered.

    Attributes:
        number: of the messages to this peer.
        tensors: envelope and values.
        letter: whose snapshot they are.
        step: at whose end it was posted.
        time: when it was sent, for the last time, by the monotonic clock.
    """

    number: int
    tensors: list[torch.Tensor]
    letter: Letter
    step: int
    time: float = 0.0


class Letters(Rounds):
    """Sends snapshots on the averager's channel, and hears the answers on one beside it.

    `_unanswered` are the messages to each peer that has not answered all of them.
    """

    def bind(self, mass: Mass, every: int) -> None:
        super().bind(mass, every)
        # Here, where ranks have agreed on how to land: channels are numbered in the order in which they are made.
        self._back = self.worlds[0].channel()
        self._letters: list[Letter] = []
        self._written: defaultdict[int, int] = defaultdict(int)  # out-peer -> messages
        self._unanswered: dict[int, list[Message]] = {}
        self._answers: dict[int, tuple[torch.Tensor, Flight]] = {}  # out-peer -> room for its answer, what will fill it

    def _write(self, weights: dict[int, torch.Tensor], leaving: list[torch.Tensor]) -> None:
        """Send `leaving` with a weight to each of some peers."""
        letter = Letter(leaving, set(weights))
        self._letters.append(letter)
        for peer, weight in weights.items():
            self._written[peer] += 1
            envelope = self._envelope(weight, self._written[peer], leaving[1:])
            message = Message(self._written[peer], [envelope, *leaving[1:]], letter, self._step)
            self._unanswered.setdefault(peer, []).append(message)
            self._carry(peer, message)

    def _carry(self, peer: int, message: Message) -> None:
        """Put a message on its way, and listen for the answer."""
        flight = self._channel.post({peer: message.tensors}, {}, f"message {message.number}")
        message.letter.flights.append(flight)
        message.time = time.monotonic()
        if peer not in self._answers:
            self._listen(peer)

    def _listen(self, peer: int) -> None:
        """Let a receive stand open for the next answer of `peer`."""
        room = torch.empty(1, dtype=torch.float64)
        self._answers[peer] = room, self._back.post({}, {peer: [room]}, "the answer to a message")

    def _repeat(self) -> None:
        """Send again what has not been answered within the transport's patience."""
        overdue = time.monotonic() - self._channel.patience
        for peer, messages in self._unanswered.items():
            for message in messages if messages[0].time < overdue else ():
                self._carry(peer, message)

    def _collect(self) -> None:
        """Take note of the answers that have come, and of what has left."""
        for peer, (_, flight) in list(self._answers.items()):
            if flight.done():
                self._hear(peer)
        for letter in list(self._letters):
            for flight in [flight for flight in letter.flights if flight.done()]:
                self.mass.arrive(flight)
                letter.flights.remove(flight)
            if not letter.flights and not letter.to:
                self._letters.remove(letter)
                self._room.append(letter.leaving)

    def _hear(self, peer: int) -> None:
        """Take the answer of `peer` that has come."""
        room, flight = self._answers.pop(peer)
        self._arrive(flight)
        last = self.mass.stats.last
        messages = self._unanswered[peer]
        while messages and messages[0].number <= room.item():
            message = messages.pop(0)
            message.letter.to.remove(peer)
            last.oldest_age = max(last.oldest_age, self._step - message.step)
        if messages:
            self._listen(peer)
        else:
            del self._unanswered[peer]

    def _arrive(self, flight: Flight) -> None:
        """Count what `flight` carried. It may have stood open for long before it was sent, so not for how long."""
        if flight.done():
            flight.posted = flight.landed or flight.posted
        self.mass.arrive(flight)

    def rebind(self) -> None:
        self._letters.clear()  # what a message that was sent twice still reads is of another shape
        super().rebind()
