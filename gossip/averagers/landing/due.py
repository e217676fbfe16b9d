"""Rounds that land when they are due: SGP with `overlap=0`, OSGP with `overlap=1`.

In round t rank j keeps the share P[j,j](t) of its weight and gives P[i,j](t) of it, with its values as they are, to
each out-peer i. A round travels while the next forward and backward pass compute. It is merged `overlap` steps later,
just before that step's update: overlap only says where the wait stands.

Source: Assran et al., ICML 2019, arXiv 1811.10792, algorithms 1 (SGP) and 2 (OSGP).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import UsageError
from ...state.codecs import PLAIN
from ...state.mass import Mass
from ...transports import Flight
from ..exchange import Buffers, Exchange
from .base import Landing


@dataclass
class Round:
    """A round that was posted."""

    number: int
    posted: int  # the step at whose end it was posted
    due: int  # the step before whose update it is merged
    arriving: dict[int, Buffers]  # in-peer -> the buffers of its message
    leaving: Buffers | None  # the snapshot that is sent, or None where the buckets themselves are
    ranks: Sequence[int]  # the job's number of each peer
    flight: Flight | None = None  # none if it has arrived, out of a checkpoint or before a death
    # where each message has a flight of its own:
    arrivals: dict[int, Flight] = field(default_factory=dict)  # in-peer -> of its message, until that is merged
    departures: list[Flight] = field(default_factory=list)


class Due(Landing):
    """A round is merged exactly `overlap` steps after its post, so that runs repeat bit for bit.

    With a doubly stochastic schedule w is exactly 1 at every update with overlap 0 or 1.
    """

    most_in_flight: float = 2
    """Rounds in flight at once. With τ of them the weight settles at 2/(τ+1), and 1/w amplifies the update."""

    def __init__(self, exchange: Exchange, overlap: int) -> None:
        super().__init__(exchange, overlap)
        self.rounds: deque[Round] = deque()  # in flight, the oldest first
        self.next_step = 0  # the first step that has not been posted
        self._step = 0

    def bind(self, every: int, mass: Mass) -> None:
        count = -(-self.overlap // every)
        if count > 1 and self.exchange.node is not None:
            raise UsageError(
                f"overlap={self.overlap} posted every {every} step(s) keeps {count} rounds in the air, and with "
                "node=... the ranks of a node hand each other one round at a time: use overlap=0 or 1, or "
                f"Every({self.overlap}, PushSum(..., overlap={self.overlap}, node=...))"
            )
        if count > self.most_in_flight:
            raise UsageError(
                f"overlap={self.overlap} posted every {every} step(s) keeps {count} rounds in the air: the weight held "
                f"would settle at 2/{count + 1} and amplify each update by its inverse, until training diverges. Use "
                f"overlap=1, or post as rarely as rounds land: Every({self.overlap}, PushSum(..., "
                f"overlap={self.overlap}))"
            )
        super().bind(every, mass)

    def in_flight(self) -> bool:
        return bool(self.rounds)

    def land(self, step: int) -> None:
        self._step = step
        while self.rounds and self.rounds[0].due <= step:
            self._merge_oldest()

    def average(self, step: int) -> None:
        if self.overlap == 0:
            if self._posts_in(step):
                self._give(step)
                self.exchange.expect(self.round)  # here, where all ranks wait anyway, early receives cost no time
            self.land(step)

    def post(self, step: int) -> None:
        if self.overlap > 0 and self._posts_in(step):
            self._give(step)

    def _posts_in(self, step: int) -> bool:
        return (step + 1) % self.every == 0 and step >= self.next_step

    def _give(self, step: int) -> None:
        """Keep a share of the weight, and send the other shares with the values."""
        exchange, mass, number = self.exchange, self.exchange.mass, self.round
        topology = exchange.topology
        with mass.stats.span("post"):
            turn = topology.turn(exchange.channel.rank, number)
            mass.check(mass.values)
            leaving = None
            # With overlap 0 and 1 the values stand still until the round lands, so the buckets themselves are sent.
            if self.overlap > 1 or (exchange.codec is not PLAIN and turn.sends):
                leaving = exchange.snapshot(number)
            self.round += 1
            values = mass.values if leaving is None else leaving[1:]
            sends = {
                peer: [exchange.envelope(share * mass.weight, number, values), *values]
                for peer, share in turn.sends.items()
            }
            arriving = {peer: exchange.take_for(peer) for peer in sorted(turn.receives)}
            # Where all ranks wait for the round, no rank is far ahead, and clear-to-send messages would only cost time.
            flight = exchange.post(sends, arriving, f"round {number}", together=self.overlap == 0)
            if leaving is None:
                mass.reading.append(flight)
            else:
                mass.retain_(turn.keep, values, exchange.codec)
            mass.give(turn.keep, topology.doubly_stochastic(number), topology.keeps_alike(number))
            self._note(Round(number, step, step + self.overlap, arriving, leaving, exchange.channel.ranks, flight))

    def _note(self, round: Round) -> None:
        """`round` is in flight."""
        self.rounds.append(round)
        self.next_step = round.posted + 1
        self.exchange.mass.stats.last.rounds_posted += 1

    def _merge_oldest(self) -> None:
        exchange, mass, round = self.exchange, self.exchange.mass, self.rounds[0]
        if round.flight is not None:
            mass.wait(round.flight)
        mass.quiesce()
        self.rounds.popleft()  # from here on nothing waits for a peer
        for peer, (envelope, *values) in round.arriving.items():
            exchange.check(envelope, round.ranks[peer], round.number, values)
        mass.merge_([(envelope[0], values) for envelope, *values in round.arriving.values()], exchange.codec)
        self._end(round)
        exchange.expect(self.round)  # not before: messages of two rounds would share our link

    def _end(self, round: Round) -> None:
        """Count `round` as landed, and use its buffers for later ones."""
        self.exchange.mass.round_landed()
        self._release(round)
        last = self.exchange.mass.stats.last
        last.rounds_landed += 1
        last.oldest_age = max(last.oldest_age, self._step - round.posted)

    def _release(self, round: Round) -> None:
        self.exchange.give_back(*round.arriving.values())
        if round.leaving:
            self.exchange.give_back(round.leaving)

    def arrived(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        self._await()
        decoded = self.exchange.codec.values
        messages = [message for round in self.rounds for message in round.arriving.values()]
        return [(envelope[0], [decoded(buffer) for buffer in buffers]) for envelope, *buffers in messages]

    def _await(self) -> None:
        """Wait until the messages of all rounds have arrived."""
        for round in self.rounds:
            if round.flight is not None:
                round.flight.wait()

    def settle(self) -> None:
        while self.rounds:
            self._merge_oldest()

    def forget(self) -> None:
        mass = self.exchange.mass
        for round in self.rounds:
            if round.flight is not None:
                mass.wait(round.flight)
            self._release(round)
        mass.rounds_in_flight -= len(self.rounds)
        self.rounds.clear()
        self.round = self.next_step = 0

    def state_dict(self) -> dict[str, Any]:
        self._await()
        return {
            "rounds": self.round,
            "next": self.next_step,
            "aloft": [
                {
                    "number": round.number,
                    "posted": round.posted,
                    "due": round.due,
                    "wire": self.exchange.codec.name,
                    "arriving": {peer: [t.clone() for t in tensors] for peer, tensors in round.arriving.items()},
                }
                for round in self.rounds
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        exchange = self.exchange
        self.round, self.next_step = state["rounds"], state["next"]
        for saved in state["aloft"]:
            arriving = {}
            for peer, tensors in saved["arriving"].items():
                arriving[peer] = [envelope, *buffers] = exchange.take()
                for buffer, tensor in zip(buffers, tensors[1:], strict=True):
                    buffer.copy_(tensor)
                weight = tensors[0][0].to(envelope.device)
                # With a checksum where one is asked for now.
                envelope.copy_(exchange.envelope(weight, saved["number"], buffers))
                if min(len(envelope), len(tensors[0])) > 2:
                    envelope[2] = tensors[0][2]  # the fingerprint that it came with
            ranks = exchange.channel.ranks
            self.rounds.append(Round(saved["number"], saved["posted"], saved["due"], arriving, None, ranks))
        exchange.mass.rounds_in_flight += len(self.rounds)
