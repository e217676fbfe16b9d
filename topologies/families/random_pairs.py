"""Random pairs: all ranks meet in pairs, drawn anew in each round."""

from __future__ import annotations

import numpy as np

from topologies.arrays.draws import Shuffle, draw
from topologies.checks import natural, positive
from topologies.kinds.pairing import Pairing, R
from topologies.validation import validated


class RandomPairs(Pairing):
    """The schedule that `random_pairs` returns."""

    def __init__(self, size: int, seed: int) -> None:
        self.seed = seed
        super().__init__(size, period=None if size > 1 else 1)

    def partner(self, rank: R, round: int) -> R:
        shuffle = Shuffle(self.size, draw(self.seed, round))
        # Places 0 and 1 meet, 2 and 3, …; the last of an odd number of places has no partner.
        if isinstance(rank, np.ndarray):
            beside = shuffle.places(rank) ^ 1
            return shuffle.inverses(np.where(beside < self.size, beside, beside ^ 1))
        beside = shuffle.place(rank) ^ 1
        return shuffle.inverse(beside if beside < self.size else beside ^ 1)

    def _diagonal_is_constant(self, round: int) -> bool:
        # On an odd number of ranks one rests in each round and keeps all.
        return self.size % 2 == 0 or self.size == 1

    def __repr__(self) -> str:
        return f"RandomPairs(size={self.size}, seed={self.seed})"


def random_pairs(size: int, seed: int = 0) -> RandomPairs:
    """Random pairs: in each round all ranks are paired at random, and partners average; aperiodic.

        partner(r, t) = π⁻¹(π(r) xor 1),    π a random permutation of the ranks, another one in each round t

    On an odd number of ranks one rests. Every rank computes the permutation from (seed, round), so it knows all pairs
    without a message. The rounds are independent. In the mean a round leaves half of the squared disagreement if n is
    odd, and (n - 2)/(2n - 2) of it if n is even. Asynchronous gossip and NoLoCo use this schedule.

    Args:
        size: number of ranks n, from 1.
        seed: an integer of at least 0, the same on every rank.

    Raises:
        TopologyError: other values.

    >>> pairs = random_pairs(6, seed=3)
    >>> all(pairs.partner(pairs.partner(rank, 17), 17) == rank for rank in range(6))
    True

    Source: Boyd, Ghosh, Prabhakar, Shah: Randomized Gossip Algorithms, IEEE Transactions on Information Theory 52(6),
    2006; Lian, Zhang, Zhang, Liu: Asynchronous Decentralized Parallel SGD, ICML 2018, arXiv 1710.06952.
    """
    size = positive(size, "the size of random pairs")
    return validated(RandomPairs(size, natural(seed, "the seed of random pairs")))
