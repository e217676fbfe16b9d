"""Gossip in which no rank waits for another: asynchronous push-sum.

Every rank walks through the graph's rounds at its own pace. A receive is posted for each in-peer, and a message that
has arrived is merged when the next step begins, however late it is. The receiver acknowledges it. Until then the sender
keeps that peer's share: a slow rank is given to less often, at most one message of each peer is under way to it, and
the others go on without it. A slow rank receives more often than it gives, so weight gathers there. Its updates, Δ/w,
move its model less, and count for mass 1 like all others.

No rank knows the messages in flight without asking all others, so ranks do meet in `settle`: each sends a last message,
of weight zero, to every peer that it may have given to. It goes on receiving and acknowledging until it has the last
message of every in-peer and the acknowledgements of its own.

Source: push-sum, Kempe, Dobra, Gehrke, FOCS 2003, needs columns that sum to 1 and no clock. Asynchronous gossip for
training: AD-PSGD, Lian, Zhang, Zhang, Liu, ICML 2018, arXiv 1710.06952.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import torch

from ...errors import UsageError
from ...state.mass import Mass
from ...transports import Channel, Flight
from ..exchange import Buffers, Exchange, neighbours
from .acknowledged import Acknowledged
from .allowance import Allowance
from .base import Landing


class Asynchronous(Landing):
    """Each rank gives whenever it posts, to peers that have acknowledged, and merges what has arrived.

    It takes buffers for one message of every in-peer and for the snapshots that are not acknowledged: over an aperiodic
    graph up to twice as many models as there are other ranks. Settling sends a model to every out-peer.
    """

    lockstep = False

    def __init__(self, exchange: Exchange, overlap: int) -> None:
        super().__init__(exchange, max(overlap, 1))  # nothing ends inside the step that posts it

    def bind(self, every: int, mass: Mass) -> None:
        super().bind(every, mass)
        exchange = self.exchange
        self._sender = Acknowledged(exchange)
        topology, rank = exchange.topology, exchange.channel.rank
        self._allowance = Allowance(topology, rank)
        if topology.period is None:  # the graph never repeats
            self._targets = self._sources = [other for other in range(topology.size) if other != rank]
        else:
            self._targets, self._sources = neighbours(topology, rank, topology.period)
        self._receives: dict[int, tuple[Buffers, Flight]] = {}  # in-peer -> a posted receive
        self._merged: defaultdict[int, int] = defaultdict(int)  # in-peer -> messages
        self._ended: set[int] = set()  # in-peers whose last message before they settle has arrived
        self._step = 0

    def in_flight(self) -> bool:
        return bool(self._receives)  # until ranks settle, nobody knows the messages on their way

    def arrived(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        return []  # this rank does not know which are on their way

    def land(self, step: int) -> None:
        self._step = step
        self.advance()

    def average(self, step: int) -> None:
        pass  # every message travels on

    def post(self, step: int) -> None:
        if (step + 1) % self.every == 0:
            with self.exchange.mass.stats.span("post"):
                self._sender.collect(self._step)
                self._give(step)

    def _give(self, step: int) -> None:
        """Give to the peers of this round that have acknowledged, and keep the shares of the others."""
        exchange, mass, number = self.exchange, self.exchange.mass, self.round
        mass.check(mass.values)
        leaving = exchange.snapshot(number)
        self.round += 1
        if mass.is_one:
            self._allowance.begin()
        busy = self._sender.unacknowledged
        turn = self._allowance.cut(exchange.turn(number), number, float(mass.weight), busy)
        weights = {peer: share * mass.weight for peer, share in turn.sends.items() if share > 0}
        if weights:
            self._sender.send(weights, leaving, step)
            mass.retain_(turn.keep, leaving[1:], exchange.codec)
        else:
            exchange.give_back(leaving)
        mass.give(turn.keep, doubly_stochastic=False, keeps_alike=False)
        mass.round_landed()
        mass.stats.last.rounds_posted += 1

    def advance(self, merge: bool = True) -> None:
        """Merge and acknowledge messages that have arrived, post receives, and send overdue messages again."""
        for peer, (_, flight) in list(self._receives.items()):
            if flight.done():
                self._receive(peer, merge)
        for peer in self._sources:
            if peer not in self._receives and peer not in self._ended:
                buffers = self.exchange.take()
                flight = self.exchange.channel.post({}, {peer: buffers}, "gossip that keeps no rounds")
                self._receives[peer] = buffers, flight
        self._sender.collect(self._step)
        self._sender.send_again()

    def _receive(self, peer: int, merge: bool) -> None:
        """Merge the message of `peer` that has arrived, and acknowledge it."""
        exchange, mass = self.exchange, self.exchange.mass
        message, flight = self._receives.pop(peer)
        self._sender.wait(flight)
        envelope, *values = message
        weight, number = envelope[:2].tolist()
        exchange.check(envelope, exchange.channel.ranks[peer], int(number), values)
        if number == self._merged[peer] + 1:  # else it arrived before, or one before it did not
            self._merged[peer] += 1
            if weight == 0:
                self._ended.add(peer)
            elif merge:
                mass.balanced = False  # whatever this rank has given itself
                mass.merge_([(envelope[0], values)], exchange.codec)
                mass.stats.last.rounds_landed += 1
        exchange.give_back(message)
        self._sender.acknowledge(peer, int(number), self._merged[peer])

    def settle(self) -> None:
        self._meet(merge=True)

    def _meet(self, merge: bool) -> None:
        """Land everything between all ranks, and leave no receive posted. Every rank calls it."""
        nothing = torch.zeros((), dtype=torch.float64)
        self._sender.send(dict.fromkeys(self._targets, nothing), self.exchange.take(), self._step)
        self.exchange.mass.wait(Meeting(self.exchange.channel, self, merge))
        self._ended.clear()

    def missing(self) -> tuple[list[int], list[int]]:
        """In-peers that have not ended, and out-peers that have not acknowledged."""
        return [peer for peer in self._sources if peer not in self._ended], sorted(self._sender.unacknowledged)

    def some_flight(self) -> Flight | None:
        """A flight that is under way, or None."""
        receives = (flight for _, flight in (*self._receives.values(), *self._sender.coming.values()))
        return next(iter([*receives, *self._sender.going]), None)

    def is_quiet(self) -> bool:
        """Whether everything of ours has left. Where messages get lost, no acknowledgement sent twice is waited for."""
        return self.exchange.channel.patience < math.inf or not (self._sender.snapshots or self._sender.going)

    def rebind(self) -> None:
        self._sender.snapshots.clear()  # of other shapes, which a message that was sent twice may still read
        super().rebind()

    def state_dict(self) -> dict[str, Any]:
        if self._receives or self._sender.unacknowledged:
            raise UsageError(
                f"rank {self.exchange.channel.me} cannot know what is on its way to it with landing='any', and a "
                "checkpoint without it would lose mass: call settle() on every rank first, then state_dict()"
            )
        return {"rounds": self.round, "allowance": self._allowance.state_dict()}

    def forget(self) -> None:
        self._meet(merge=False)
        self._allowance.begin()
        self.round = 0

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round = state["rounds"]
        self._allowance.load_state_dict(state.get("allowance"))


class Meeting(Flight):
    """Lands when a rank that settles has the last message of all others, and they have its own."""

    def __init__(self, channel: Channel, gossip: Asynchronous, merge: bool) -> None:
        super().__init__(channel, {}, {}, "a settling")
        self._gossip, self._merge = gossip, merge

    def done(self) -> bool:
        if self.landed is None:
            self._gossip.advance(self._merge)
            if not any(self._gossip.missing()) and self._gossip.is_quiet():
                self.landed = time.perf_counter()
        return self.landed is not None

    def missing(self) -> tuple[list[int], list[int]]:
        unheard, untaken = self._gossip.missing()
        return [self.ranks[peer] for peer in unheard], [self.ranks[peer] for peer in untaken]

    def pause(self, waited: float, left: float) -> None:
        flight = self._gossip.some_flight()  # which knows its transport's poll interval
        if flight is None:
            super().pause(waited, left)
        else:
            flight.pause(waited, left)
