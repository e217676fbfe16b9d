"""Rounds that land as soon as they have arrived, and at most `overlap` steps after their post.

A message is merged at the first step that finds it arrived, whichever round it belongs to. So a peer's pause delays
that peer's messages alone. A rank that is more than `overlap` steps ahead of a peer waits for it: a pause is hidden,
but a rank that is always slower is waited for, whatever the bound.

Weight that is still in flight cannot be given on. To bound 1/w, a rank reduces the shares that it gives, possibly to
zero: see `allowance`.
"""

from __future__ import annotations

import math
from typing import Any

from ...state.mass import Mass
from .allowance import Allowance
from .due import Due, Round


class Early(Due):
    """Every message has a flight of its own, and is sent from a snapshot.

    A round stays in `rounds` until its messages are merged and this rank's are received; then its snapshot is reused.
    """

    most_in_flight = math.inf  # late messages leave a rank a part of its weight

    def bind(self, every: int, mass: Mass) -> None:
        super().bind(every, mass)
        self._allowance = Allowance(self.exchange.topology, self.exchange.channel.rank)

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
            flight = round.arrivals.get(peer)  # none for a message out of a checkpoint
            if flight is None or wait or flight.done():
                if flight is not None:
                    mass.wait(flight)  # which may raise: the message has not come then
                    del round.arrivals[peer]
                envelope, *values = message = round.arriving.pop(peer)
                self.exchange.check(envelope, self.exchange.channel.ranks[peer], round.number, values)
                if envelope[0] > 0:
                    mass.merge_([(envelope[0], values)], self.exchange.codec)
                self.exchange.give_back(message)
        if not round.arriving and (wait or all(flight.done() for flight in round.departures)):
            for flight in round.departures:
                mass.wait(flight)
            self.rounds.remove(round)
            self._end(round)

    def _give(self, step: int) -> None:
        exchange, mass, number = self.exchange, self.exchange.mass, self.round
        with mass.stats.span("post"):
            mass.check(mass.values)
            leaving = exchange.snapshot(number)
            self.round += 1
            if mass.is_one:
                self._allowance.begin()
            turn = self._allowance.cut(exchange.turn(number), number, float(mass.weight))
            arriving = {peer: exchange.take_for(peer) for peer in turn.receives}
            round = Round(number, step, step + self.overlap, arriving, leaving, exchange.channel.ranks)
            for peer, buffers in arriving.items():
                round.arrivals[peer] = exchange.post({}, {peer: buffers}, f"round {number}")
            for peer, share in turn.sends.items():
                message = [exchange.envelope(share * mass.weight, number, leaving[1:]), *leaving[1:]]
                round.departures.append(exchange.post({peer: message}, {}, f"round {number}"))
            mass.retain_(turn.keep, leaving[1:], exchange.codec)
            # By arrival, equal weights do not stay equal.
            mass.give(turn.keep, doubly_stochastic=False, keeps_alike=False)
            self._note(round)

    def _await(self) -> None:
        for round in self.rounds:
            for flight in round.arrivals.values():
                flight.wait()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "allowance": self._allowance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._allowance.load_state_dict(state.get("allowance"))

    def forget(self) -> None:
        for round in self.rounds:
            for flight in (*round.arrivals.values(), *round.departures):
                self.exchange.mass.wait(flight)
        self._allowance.begin()
        super().forget()
