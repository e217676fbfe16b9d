"""What a rank gave in its last rounds and last heard of each other: what becomes of weight when a rank dies."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..transports import Told

REMEMBERED = 16
"""Rounds whose weight is taken back when it turns out that they never arrived: by so many a rank may be ahead."""


class Ledger:
    """Of one rank; ranks are as the job numbers them.

    Attributes:
        given: (number of a round, to which rank, weight) of the last rounds.
        heard: rank -> the last of its rounds that was merged here.
    """

    def __init__(self) -> None:
        self.given: deque[tuple[int, int, float]] = deque()
        self.heard: dict[int, int] = {}

    def give(self, number: int, weights: Mapping[int, float]) -> None:
        """Note what goes to each rank in a round."""
        self.given.extend((number, rank, weight) for rank, weight in weights.items())
        while self.given and self.given[0][0] <= number - REMEMBERED:
            self.given.popleft()

    def clear(self) -> None:
        """Begin anew."""
        self.given.clear()
        self.heard.clear()

    def tell(self, aloft: Iterable[tuple[int, Collection[int]]]) -> dict[str, Any]:
        """For the others, `aloft` being the number of each round in flight and whose messages of it have come."""
        heard = dict(self.heard)
        for number, ranks in aloft:
            heard |= dict.fromkeys(ranks, number)
        return {"heard": list(heard.items()), "given": list(self.given)}


def never_arrived(told: Told, members: Iterable[int], due: int) -> dict[int, float]:
    """The weight that each rank that is left gave and nobody has.

    Args:
        told: what each of them tells of its ledger.
        members: all ranks before.
        due: rounds in flight at once, at least 1.
    """
    heard = {rank: dict(each["heard"]) for rank, each in told.items()}
    # A dead rank had merged what was due when it posted the last round that is known of it, and no more is known.
    merged = {
        rank: max((heard[other].get(rank, -1) for other in told), default=-1) - due
        for rank in members
        if rank not in told
    }
    return {
        rank: sum(
            weight
            for number, peer, weight in each["given"]
            if number > (heard[peer].get(rank, -1) if peer in told else merged[peer])
        )
        for rank, each in told.items()
    }
