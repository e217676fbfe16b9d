"""A random peer: every rank sends to one other, which it draws for itself in each round."""

from __future__ import annotations

import numpy as np

from topologies.arrays.draws import below, draw, draws
from topologies.arrays.edges import Edges, Ranks
from topologies.checks import check_rank, natural, positive
from topologies.errors import TopologyError
from topologies.families.exponential import powers
from topologies.topology import Topology, Turn
from topologies.validation import validated

CANDIDATES = 32
"""The number of hops that a round offers. A rank checks as many ranks to find its in-peers."""

HOPS = ("exponential", "any")


class RandomPeer(Topology):
    """The schedule that `random_peer` returns."""

    def __init__(self, size: int, hops: str, seed: int) -> None:
        self.hops, self.seed = hops, seed
        super().__init__(size, period=None if size > 1 else 1)
        # "any": the hops 1 … n - 1 are cut into runs, and a round offers one hop of each run.
        runs = max(1, min(size - 1, CANDIDATES))
        cuts = 1 + np.arange(runs + 1) * (size - 1) // runs
        self._first: Ranks = np.array(powers(2, size)) if hops == "exponential" else cuts[:-1]
        self._length: Ranks = np.ones_like(self._first) if hops == "exponential" else np.diff(cuts)
        self._places = np.arange(len(self._first))

    def turn(self, rank: int, round: int) -> Turn:
        size = self.size
        check_rank(rank, size)
        if size == 1:
            return Turn(1.0, {}, {})
        rank = int(rank)
        word, hops = self._choices(round), self._candidates(round)
        own = int(hops[below(len(hops), int(draws(word, rank)))])
        # Rank i sends here if the hop that i has drawn leads from i to here.
        possible = (rank - hops) % size
        senders = possible[below(len(hops), draws(word, possible)) == self._places].tolist()
        return Turn(0.5, {(rank + own) % size: 0.5}, dict.fromkeys(senders, 0.5))

    def edges(self, round: int) -> Edges:
        ranks = np.arange(self.size)
        if self.size == 1:
            return Edges(np.ones(1), ranks[:0], ranks[:0], np.empty(0))
        hops = self._candidates(round)
        own = hops[below(len(hops), draws(self._choices(round), ranks))]
        half = np.full(self.size, 0.5)
        return Edges(half, ranks, (ranks + own) % self.size, half)

    def _choices(self, round: int) -> int:
        # The candidates and the choices among them are two streams of draws.
        return draw(self.seed, 0, round)

    def _candidates(self, round: int) -> Ranks:
        return self._first + (draws(draw(self.seed, 1, round), self._places) * self._length >> 32)

    def __repr__(self) -> str:
        return f"RandomPeer(size={self.size}, hops={self.hops!r}, seed={self.seed})"


def random_peer(size: int, hops: str = "exponential", seed: int = 0) -> RandomPeer:
    """Random peer, directed: every rank sends half to one peer that it draws for itself in each round; aperiodic.

        P(t)[j, j] = 1/2,    P(t)[(j + h_j(t)) mod n, j] = 1/2,    h_j(t) drawn for each j and t

    Several ranks may choose the same peer, so columns sum to 1 and rows do not. Weights vary, and only push-sum keeps
    the mean. The schedule shows the cost of one peer without any agreement between ranks: a rank sends one message and
    receives 0 to O(log n) of them. On 32 ranks 5 rounds leave .43 of the worst squared disagreement in the mean if hops
    are exponential, .20 if they are any. `exponential` leaves nothing.

    Args:
        size: number of ranks n, from 1.
        hops: "exponential", a power of two below n, or "any" of 1 … n - 1. Beyond 33 ranks each round offers 32 hops,
            spread over all, so that a rank finds its in-peers without asking every rank.
        seed: an integer of at least 0, the same on every rank.

    Raises:
        TopologyError: other values.

    >>> random_peer(8, seed=5).turn(rank=0, round=3)
    Turn(keep=0.5, sends={2: 0.5}, receives={7: 0.5, 4: 0.5})

    Source: Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019, arXiv 1811.10792, appendix A.
    """
    size = positive(size, "the size of a random peer schedule")
    if not isinstance(hops, str) or hops not in HOPS:
        raise TopologyError(f"the hops of a random peer schedule are {' or '.join(map(repr, HOPS))}, not {hops!r}")
    return validated(RandomPeer(size, hops, natural(seed, "the seed of a random peer schedule")))
