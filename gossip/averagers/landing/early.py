"""Rounds that land as soon as they have arrived, and at most `overlap` steps after their post.

A message is merged at the first step that finds it there, whichever round it is of, so that one peer's pause delays
that peer's messages alone. Who is more than `overlap` steps ahead of an in-peer or out-peer waits for it: a pause is
hidden, while a rank that is slower than the others for good is waited for, whatever the bound.

What is late is not here to be given on. So that 1/w does not amplify updates for it, a rank gives no more than leaves
it half of what it would hold if nothing were late, or the share that the graph lets it keep of that, where it is less;
it then sends smaller shares, of nothing at the least.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np
import torch

import topologies
from topologies import Turn

from ...state.mass import Mass
from ...transports import Flight
from ..base import State
from .due import Round, Rounds

LEAST = 0.5
"""The part of its weight that lateness leaves a rank: it doubles the change of an update at the most."""


class Early(Rounds):
    """Every message flies by itself, from a snapshot.

    A round leaves `_aloft` when its messages are merged and those of this rank taken; then its snapshot is used again.
    """

    outlives = False

    def bind(self, mass: Mass, every: int) -> None:
        super().bind(mass, every)
        self._allowance = Allowance(self.topology, self._channel.rank)
        # (round, in-peer) -> what carries its message; there is none where it came out of a checkpoint
        self._arrivals: dict[tuple[int, int], Flight] = {}
        # round -> what carries ours
        self._departures: defaultdict[int, list[Flight]] = defaultdict(list)

    def _refuse_thin(self, every: int) -> None:
        """Whatever is late, the weight held does not vanish, so any overlap will do."""

    def land(self, step: int) -> None:
        self._step = step
        for round in list(self._aloft):
            self._advance(round, wait=round.due <= step)

    def _settle(self) -> None:
        while self._aloft:
            self._advance(self._aloft[0], wait=True)

    def _advance(self, round: Round, wait: bool) -> None:
        """Merge what has arrived of `round`, all of it if we `wait`."""
        mass = self.mass
        for peer in list(round.arriving):
            flight = self._arrivals.get((round.number, peer))
            if flight is None or wait or flight.done():
                if flight is not None:
                    mass.arrive(self._arrivals.pop((round.number, peer)))
                message = round.arriving.pop(peer)
                self._merge_(peer, round.number, message)
                self._room.append(message)
        departures = self._departures[round.number]
        if not round.arriving and (wait or all(flight.done() for flight in departures)):
            for flight in self._departures.pop(round.number):
                mass.arrive(flight)
            self._aloft.remove(round)
            mass.round_landed()
            self._give_back(round)
            mass.stats.last.rounds_landed += 1
            mass.stats.last.oldest_age = max(mass.stats.last.oldest_age, self._step - round.posted)

    def _merge_(self, peer: int, number: int, message: list[torch.Tensor]) -> None:
        envelope, *values = message
        self._check(envelope, self._channel.ranks[peer], number, values)
        if envelope[0] > 0:
            self.mass.merge_([(envelope[0], values)], self.wire)

    def _give(self, step: int) -> Round:
        mass, number = self.mass, self.rounds
        mass.look(mass.values)
        leaving = self._snapshot(number)
        self.rounds += 1
        if mass.whole:
            self._allowance.begin()
        turn = self._allowance.cut(self.topology.turn(self._channel.rank, number), number, float(mass.weight))
        subject = f"round {number}"
        round = Round(
            number,
            step,
            step + self.overlap,
            {peer: self._take_room() for peer in turn.receives},
            leaving,
            self._channel.ranks,
            None,
        )
        for peer, room in round.arriving.items():
            self._arrivals[number, peer] = self._channel.post({}, {peer: room}, subject)
        for peer, share in turn.sends.items():
            letter = [self._envelope(share * mass.weight, number, leaving[1:]), *leaving[1:]]
            self._departures[number].append(self._channel.post({peer: letter}, {}, subject))
        self._retain_(turn.keep, leaving)
        # By arrival, equal weights do not stay equal.
        mass.give(turn.keep, doubly_stochastic=False, keeps_alike=False)
        mass.stats.last.rounds_posted += 1
        return round

    def state_dict(self) -> State:
        for flight in self._arrivals.values():
            flight.wait()
        return {**super().state_dict(), "allowance": self._allowance.state_dict()}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._allowance.load_state_dict(state.get("allowance"))

    def forget(self) -> None:
        for flight in (*self._arrivals.values(), *(flight for part in self._departures.values() for flight in part)):
            self.mass.arrive(flight)
        self._arrivals.clear()
        self._departures.clear()
        self._allowance.begin()
        super().forget()


class Allowance:
    """How much of its weight a rank may give.

        w̄ <- P(t) w̄             the weights in a world where nothing is late, 1 at first and after an exact average
        λ = (1 − c/w) / Σ_i P[i,j], from 0 to 1,    c = min(P[j,j], 1/2) w̄_j
        P[i,j] <- λ P[i,j]

    What is on time gives λ = 1, over any graph.
    """

    def __init__(self, topology: topologies.Topology, rank: int) -> None:
        self._topology, self._rank = topology, rank
        self._prompt = np.ones(topology.size)  # w̄
        self._level = True  # w̄ = 1

    def state_dict(self) -> State:
        """w̄."""
        return {"prompt": self._prompt.tolist()}

    def load_state_dict(self, state: State | None) -> None:
        """Go on from there; without it, from w̄ = 1."""
        if state is not None:
            self._prompt = np.array(state["prompt"])
            self._level = bool((self._prompt == 1).all())

    def begin(self) -> None:
        """All ranks hold 1."""
        self._prompt, self._level = np.ones(self._topology.size), True

    def cut(self, turn: Turn, number: int, weight: float, busy: Collection[int] = ()) -> Turn:
        """What is given in round `number`, in which nothing goes to the peers that are `busy`."""
        least = min(turn.keep, LEAST) * self._prompt[self._rank]
        self._level = self._level and self._topology.doubly_stochastic(number)
        if not self._level:
            self._prompt = self._topology.mix(self._prompt, number)
        shares = {peer: share for peer, share in turn.sends.items() if peer not in busy}
        given = sum(shares.values())
        if given and weight * (1 - given) < least:
            λ = max(0.0, 1 - least / weight) / given
            shares = {peer: λ * share for peer, share in shares.items()}
        elif len(shares) == len(turn.sends):
            return turn
        return Turn(1 - sum(shares.values()), shares, turn.receives)
