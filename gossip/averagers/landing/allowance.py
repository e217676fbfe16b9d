"""How much of its weight a rank may give while messages are late, so that 1/w stays bounded."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from topologies import Topology, Turn

LEAST = 0.5
"""The part of its weight that late messages leave a rank: an update's change is at most doubled."""


class Allowance:
    """The shares that one rank gives, reduced where weight that is still in flight cannot be given on.

        w̄ <- P(t) w̄             the weights if nothing were late, 1 at first and after an exact average
        λ = (1 − c/w) / Σ_i P[i,j], from 0 to 1,    c = min(P[j,j], 1/2) w̄_j
        P[i,j] <- λ P[i,j]

    With every message on time λ = 1, over any graph.
    """

    def __init__(self, topology: Topology, rank: int) -> None:
        self._topology, self._rank = topology, rank
        self.begin()

    def begin(self) -> None:
        """Begin with w̄ = 1: all ranks hold 1."""
        self._prompt, self._is_level = np.ones(self._topology.size), True

    def state_dict(self) -> dict[str, Any]:
        """w̄."""
        return {"prompt": self._prompt.tolist()}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from `state`; without it, from w̄ = 1."""
        if state is not None:
            self._prompt = np.array(state["prompt"])
            self._is_level = bool((self._prompt == 1).all())

    def cut(self, turn: Turn, number: int, weight: float, busy: Collection[int] = ()) -> Turn:
        """The shares that are given in round `number`, with no message to the peers that are `busy`."""
        least = min(turn.keep, LEAST) * self._prompt[self._rank]
        self._is_level = self._is_level and self._topology.doubly_stochastic(number)
        if not self._is_level:
            self._prompt = self._topology.mix(self._prompt, number)
        shares = {peer: share for peer, share in turn.sends.items() if peer not in busy}
        given = sum(shares.values())
        if given and weight * (1 - given) < least:
            λ = max(0.0, 1 - least / weight) / given
            shares = {peer: λ * share for peer, share in shares.items()}
        elif len(shares) == len(turn.sends):
            return turn
        return Turn(1 - sum(shares.values()), shares, turn.receives)
