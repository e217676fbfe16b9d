"""EquiStatic graphs: a few random hops, the same ones in every round."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from topologies.arrays.draws import below, draw
from topologies.checks import flag, natural, positive
from topologies.kinds.circulants import Columns
from topologies.validation import validated


class EquiStatic(Columns):
    """The schedule that `equistatic` returns."""


def equistatic(size: int, hops: int | None = None, directed: bool = True, seed: int = 0) -> EquiStatic:
    """EquiStatic graph: M random hops, the same ones in every round, which agree at a rate that does not fall with n.

        W = 1/M Σ_m W(a_m),    W(a) = I/n + (n - 1)/n · S^a,    S[(j + 1) mod n, j] = 1,    a_m uniform on 1 … n - 1
        P = W    or, not directed,    P = (W + Wᵀ)/2

    A rank keeps only 1/n, so its out-peers count far more than its own value. A hop that is drawn twice counts twice.
    Hops that do not connect all ranks are drawn again.

    Args:
        size: number of ranks n, from 1.
        hops: M, the number of hops, from 1; None stands for ⌈log₂ n⌉.
        directed: True for D-EquiStatic; False for U-EquiStatic, which is symmetric and has up to twice as many
            messages.
        seed: an integer from 0.

    Raises:
        TopologyError: other values.

    >>> equistatic(5, hops=1, directed=False, seed=1).turn(rank=0, round=0)
    Turn(keep=0.2, sends={...: 0.4, ...: 0.4}, receives={...: 0.4, ...: 0.4})

    Source: Song, Li, Jin, Shi, Yan, Yin, Yuan, Communication-Efficient Topologies for Decentralized Learning with O(1)
    Consensus Rate, NeurIPS 2022, arXiv 2210.07881, sections 3 and 4.
    """
    size = positive(size, "the size of an EquiStatic graph")
    count = (size - 1).bit_length() if hops is None else positive(hops, "the number of hops of an EquiStatic graph")
    drawn = _connecting(size, count, natural(seed, "the seed of an EquiStatic graph"))
    directed = flag(directed, "the option directed of an EquiStatic graph")
    both = drawn if directed else [*drawn, *(size - hop for hop in drawn)]
    # P[j, j] = 1/n ;  P[j + a, j] = (n - 1)/n · (draws of a)/(all draws)
    shares = {hop: (size - 1) / size * often / len(both) for hop, often in Counter(both).items()}
    return validated(EquiStatic(size, [{0: 1 / size, **shares}]))


def _connecting(size: int, count: int, seed: int) -> list[int]:
    """The first draw of `count` hops that connects all ranks."""
    if size == 1:
        return []
    tries = (
        [1 + below(size - 1, draw(seed, attempt, place)) for place in range(count)] for attempt in itertools.count()
    )
    # The search ends, because hop 1 alone connects.
    return next(hops for hops in tries if math.gcd(size, *hops) == 1)
