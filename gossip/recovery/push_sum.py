"""Rounds of gossip that go on without ranks that died.

The survivors go on over `topologies.without` the dead, from the latest round that any of them has reached. A rank that
is behind takes its next steps by itself until then. Weight that was given and never arrived is taken back by the rank
that gave it, with the values as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial, wraps
from typing import Any

import topologies

from ..averagers.exchange import Buffers
from ..averagers.landing.base import Landing
from ..averagers.landing.due import Due, Round
from ..transports.carrier import Told

REMEMBERED = 16
"""Rounds whose weight can be taken back; a rank may be ahead of another by so many."""


def _persistent(name: str) -> Any:
    """The method `name` of `Due`, which begins again after a death."""

    @wraps(getattr(Landing, name), updated=())  # not the mark of an abstract method
    def act(self: Recoverable, *step: int) -> Any:
        return self.exchange.channel.carrier.go_on(partial(getattr(Due, name), self, *step))

    return act


class Recoverable(Due):
    """`Due`, whose waits begin again after a death. Ranks are as the job numbers them."""

    def __init__(self, landing: Due) -> None:
        super().__init__(landing.exchange, landing.overlap)
        self._topology = self.exchange.topology
        self._members = list(self.exchange.channel.ranks)
        self.given: deque[tuple[int, int, float]] = deque()  # (round, receiving rank, weight) of the last rounds
        self.heard: dict[int, int] = {}  # rank -> the last of its rounds that was merged here

    land, average, post = map(_persistent, ("land", "average", "post"))
    settle, quiesce, state_dict = map(_persistent, ("settle", "quiesce", "state_dict"))
    arrived = _persistent("arrived")

    def forget(self) -> None:
        self.exchange.channel.carrier.go_on(super().forget)
        self.given.clear()
        self.heard.clear()

    # -- what was given and heard --------------------------------------------------------------------------------------

    def _give(self, step: int) -> None:
        weight, number, turn = float(self.exchange.mass.weight), self.round, self.exchange.turn(self.round)
        super()._give(step)
        ranks = self.exchange.channel.ranks
        self.given.extend((number, ranks[peer], share * weight) for peer, share in turn.sends.items())
        while self.given and self.given[0][0] <= number - REMEMBERED:
            self.given.popleft()

    def _end(self, round: Round) -> None:
        self.heard |= dict.fromkeys((round.ranks[peer] for peer in round.arriving), round.number)
        super()._end(round)

    # -- after a death -------------------------------------------------------------------------------------------------

    def tell(self) -> dict[str, Any]:
        """The facts about this rank that the survivors need, once everything in flight is broken off."""
        arrived, heard = self._arrived(), dict(self.heard)
        for round, messages in arrived:
            heard |= dict.fromkeys(messages, round.number)
        return {
            "rounds": self.round,
            "next": self.next_step,
            "heard": list(heard.items()),
            "given": list(self.given),
            "unmerged": sum(float(message[0][0]) for _, messages in arrived for message in messages.values()),
        }

    def _arrived(self) -> list[tuple[Round, dict[int, Buffers]]]:
        """Each round in flight, and its messages that have arrived, by the rank that sent each.

        A message that has overtaken another of the same rank counts as lost with it.
        """
        arrived, lacking = [], set[int]()
        for round in self.rounds:
            peers = round.arriving.keys() if round.flight is None else round.flight.arrived()
            lacking |= {round.ranks[peer] for peer in round.arriving.keys() - peers}
            messages = {round.ranks[peer]: message for peer, message in sorted(round.arriving.items())}
            arrived.append((round, {rank: message for rank, message in messages.items() if rank not in lacking}))
        return arrived

    def weights(self, told: Told) -> dict[int, float]:
        """The weight that each survivor has unmerged, or gave to nobody."""
        lost = never_arrived(told, self._members, due=max(1, -(-self.overlap // self.every)))
        return {rank: each["unmerged"] + lost[rank] for rank, each in told.items()}

    def go_on(self, told: Told, scale: float) -> float:
        """Begin again among the survivors, weights times `scale`; the weight of unmerged messages that it keeps."""
        exchange, arrived = self.exchange, self._arrived()
        for round, messages in arrived:
            for rank, (envelope, *values) in messages.items():
                exchange.check(envelope, rank, round.number, values)
        lost = [place for place, rank in enumerate(self._members) if rank not in told]
        exchange.reset(topologies.without(self._topology, lost))
        self.round = max(each["rounds"] for each in told.values())
        self.next_step = max(each["next"] for each in told.values())
        self.given.clear()
        unmerged = 0.0
        for round, messages in arrived:
            arriving = round.arriving.items()
            exchange.give_back(*(buffers for peer, buffers in arriving if round.ranks[peer] not in messages))
            round.arriving = {peer: buffers for peer, buffers in arriving if round.ranks[peer] in messages}
            for rank, (envelope, *values) in messages.items():
                self.heard[rank] = round.number
                envelope.copy_(exchange.envelope(scale * envelope[0], round.number, values))
                unmerged += float(envelope[0])
            round.flight = None
        return unmerged


def never_arrived(told: Told, members: Iterable[int], due: int) -> dict[int, float]:
    """The weight that each survivor gave and no survivor has; `due` rounds of all `members` were in flight at once."""
    heard = {rank: dict(each["heard"]) for rank, each in told.items()}
    # A dead rank had merged the rounds that were due when it posted its last known round; no more is known.
    dead = [rank for rank in members if rank not in told]
    merged = {rank: max((heard[other].get(rank, -1) for other in told), default=-1) - due for rank in dead}
    lost = dict.fromkeys(told, 0.0)
    for rank, each in told.items():
        for number, peer, weight in each["given"]:
            if number > (heard[peer].get(rank, -1) if peer in told else merged[peer]):
                lost[rank] += weight
    return lost
