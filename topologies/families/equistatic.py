"""EquiStatic graphs: a few random hops, the same ones in every round."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from topologies.arrays.draws import below, draw
from topologies.checks import flag, natural
from topologies.kinds.circulants import Columns
from topologies.topology import positive
from topologies.validation import validate


class EquiStatic(Columns):
    """The schedule that `equistatic` returns."""


def equistatic(size: int, hops: int | None = None, directed: bool = True, seed: int = 0) -> EquiStatic:
    """EquiStatic graph: M random hops, the same ones in every round, which agree at a rate that does not fall with n.

        W = 1/M Σ_m W(a_m),    W(a) = I/n + (n - 1)/n · S^a,    S[(j + 1) mod n, j] = 1,    a_m uniform on 1 .. n - 1
        P = W    or, not directed,    P = (W + Wᵀ)/2

    A rank keeps 1/n only, so it trusts its out-peers far more than itself. Hops that are drawn twice count twice. Hops
    that do not connect all ranks are drawn again.

    size: number of ranks n, from 1. hops: M, how many are drawn, from 1; None stands for ⌈log₂ n⌉. directed:
    D-EquiStatic, or else U-EquiStatic, symmetric, with up to twice as many messages. seed: an integer from 0. Raises
    `TopologyError` for other values.

    >>> equistatic(5, hops=1, directed=False, seed=1).turn(rank=0, round=0)
    Turn(keep=0.2, sends={...: 0.4, ...: 0.4}, receives={...: 0.4, ...: 0.4})

    Song, Li, Jin, Shi, Yan, Yin, Yuan, Communication-Efficient Topologies for Decentralized Learning with O(1)
    Consensus Rate, NeurIPS 2022, arXiv 2210.07881, sections 3 and 4.
    """
    size = positive(size, "the size of an EquiStatic graph")
    count = (size - 1).bit_length() if hops is None else positive(hops, "the number of hops of an EquiStatic graph")
    drawn = _connecting(size, count, natural(seed, "the seed of an EquiStatic graph"))
    directed = flag(directed, "the option directed of an EquiStatic graph")
    both = drawn if directed else [*drawn, *(size - hop for hop in drawn)]
    # P[j, j] = 1/n ;  P[j + a, j] = (n - 1)/n · (how often a was drawn)/(how many were)
    shares = {hop: (size - 1) / size * often / len(both) for hop, often in Counter(both).items()}
    topology = EquiStatic(size, [{0: 1 / size, **shares}])
    validate(topology)
    return topology


def _connecting(size: int, count: int, seed: int) -> list[int]:
    """The first `count` hops drawn together that lead from every rank to every other one."""
    if size == 1:
        return []
    tries = (
        [1 + below(size - 1, draw(seed, attempt, place)) for place in range(count)] for attempt in itertools.count()
    )
    # It ends, as hop 1 alone would do.
    return next(hops for hops in tries if math.gcd(size, *hops) == 1)
