"""Rounds that land as soon as they have arrived, and at most `overlap` steps after their post.

A message is merged at the first step that finds it arrived, whichever round it belongs to. So a peer's pause delays
that peer's messages alone. A rank that is more than `overlap` steps ahead of a peer waits for it: a pause is hidden,
but a rank that is always slower is waited for, whatever the bound.

Weight that is still in flight cannot be given on. To bound 1/w, a rank reduces the shares that it gives, possibly to
zero: see `allowance`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ...state.mass import Mass
from ...transports import Flight
from ..exchange import Buffers
from .allowance import Allowance
from .due import Due, Round


class Early(Due):
    """Every message has a flight of its own, and is sent from a snapshot.

    A round stays in `rounds` until its messages are merged and this rank's are received; then its snapshot is reused.
    """

    def bind(self, every: int, mass: Mass) -> None:
        super().bind(every, mass)
        self._allowance = Allowance(self.exchange.topology, self.exchange.channel.rank)
        # (round, in-peer) -> the flight of its message; none for a message out of a checkpoint
        self._arrivals: dict[tuple[int, int], Flight] = {}
        # round -> the flights of our messages
        self._departures: defaultdict[int, list[Flight]] = defaultdict(list)

    def _check_pace(self, every: int) -> None:
        """Take any overlap: late messages leave a rank a part of its weight."""

    def land(self, step: int) -> None:
        self._step = step
        for round in list(self.rounds):
            self._advance(round, wait=round.due <= step)

    def settle(self) -> None:
        while self.rounds:
            self._advance(self.rounds[0], wait=True)

    def _advance(self, round: Round, wait: bool) -> None:
        """Merge the messages of `round` that have arrived, or all of them if we `wait`."""
        mass = self.exchange.mass
        for peer in list(round.arriving):
            flight = self._arrivals.get((round.number, peer))
            if flight is None or wait or flight.done():
                if flight is not None:
                    mass.wait(self._arrivals.pop((round.number, peer)))
                message = round.arriving.pop(peer)
                self._merge(peer, round.number, message)
                self.exchange.give_back(message)
        departures = self._departures[round.number]
        if not round.arriving and (wait or all(flight.done() for flight in departures)):
            for flight in self._departures.pop(round.number):
                mass.wait(flight)
            self.rounds.remove(round)
            self._end(round)

    def _merge(self, peer: int, number: int, message: Buffers) -> None:
        exchange, (envelope, *values) = self.exchange, message
        exchange.check(envelope, exchange.channel.ranks[peer], number, values)
        if envelope[0] > 0:
            exchange.mass.merge_([(envelope[0], values)], exchange.codec)

    def _give(self, step: int) -> None:
        exchange, mass, number = self.exchange, self.exchange.mass, self.round
        with mass.stats.span("post"):
            mass.check(mass.values)
            leaving = exchange.snapshot(number)
            self.round += 1
            if mass.is_one:
                self._allowance.begin()
            turn = self._allowance.cut(exchange.turn(number), number, float(mass.weight))
            subject = f"round {number}"
            arriving = {peer: exchange.take_for(peer) for peer in turn.receives}
            for peer, buffers in arriving.items():
                self._arrivals[number, peer] = exchange.post({}, {peer: buffers}, subject)
            for peer, share in turn.sends.items():
                message = [exchange.envelope(share * mass.weight, number, leaving[1:]), *leaving[1:]]
                self._departures[number].append(exchange.post({peer: message}, {}, subject))
            exchange.retain_(turn.keep, leaving)
            # By arrival, equal weights do not stay equal.
            mass.give(turn.keep, doubly_stochastic=False, keeps_alike=False)
            self._note(Round(number, step, step + self.overlap, arriving, leaving, exchange.channel.ranks, None))

    def state_dict(self) -> dict[str, Any]:
        for flight in self._arrivals.values():
            flight.wait()
        return {**super().state_dict(), "allowance": self._allowance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._allowance.load_state_dict(state.get("allowance"))

    def forget(self) -> None:
        for flight in (*self._arrivals.values(), *(flight for part in self._departures.values() for flight in part)):
            self.exchange.mass.wait(flight)
        self._arrivals.clear()
        self._departures.clear()
        self._allowance.begin()
        super().forget()
