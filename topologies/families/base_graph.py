"""Base-(k+1) graphs: the exact average on any number of ranks, with at most k peers a round."""

from __future__ import annotations

import math
import operator
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from topologies.arrays.edges import Edges
from topologies.checks import check_rank, positive
from topologies.families.base_graph_parts import Cliques, Meeting, Part, joined
from topologies.topology import Topology, Turn
from topologies.validation import validated


class Step(NamedTuple):
    """One round: equal rows of ranks, and every row is cut into the same parts."""

    rows: int
    parts: tuple[Part, ...]
    """From the first place of a row to the last."""


class BaseGraph(Topology):
    """The schedule that `base_graph` returns: O(log² n) numbers, from which a turn follows in O(log n + peers)."""

    def __init__(self, size: int, peers: int) -> None:
        self.peers = peers
        self.steps = _shortest(size, peers + 1) or [Step(1, (Cliques(size, 1, 1),))]
        super().__init__(size, period=len(self.steps))

    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        rows, parts = self.steps[round % len(self.steps)]
        place = rank % (self.size // rows)
        for part in parts:
            if place < part.size:
                break
            place -= part.size
        keep, peers = part.turn(place)
        shares = {rank - place + peer: share for peer, share in peers.items()}
        return Turn(keep, shares, dict(shares))

    def edges(self, round: int) -> Edges:
        rows, parts = self.steps[round % len(self.steps)]
        row = joined([part.edges() for part in parts])
        first = np.arange(rows)[:, None] * (self.size // rows)
        return Edges(
            np.tile(row.keep, rows),
            (first + row.source).ravel(),
            (first + row.target).ravel(),
            np.tile(row.share, rows),
        )

    def __repr__(self) -> str:
        # Checkpoints hold this text, and a run goes on only if it is the same.
        return f"Base(size={self.size}, peers={self.peers}, period={self.period})"


def base_graph(size: int, peers: int = 1) -> BaseGraph:
    """Base-(k+1) graph: at most k = `peers` peers a round, undirected, and the exact average on any number of ranks.

    There are three schedules, and each is built from the one before it:

    - *H* serves n = r_1 · r_2 ⋯ r_L with all r_m <= k + 1. In round m the r_m ranks that differ in digit m only take
      their average. H has L rounds.
    - *Simple* serves every other n = Σ_l a_l (k+1)^p_l, the digits of n to the base k + 1, greatest p_l first. The
      ranks form blocks V_l, each of a_l groups of (k+1)^p_l ranks. First every block averages by H. Then comes one
      round for each block V_j except the last. In it every rank of the later blocks meets one rank of each group of
      V_j. Both give the share n_j / (S_j a_j), where n_j = |V_j| and S_j = n_j + n_{j+1} + …. Afterwards each rank of
      the later blocks holds the mean of all ranks, and so does each group of V_j on average. From then on the groups of
      V_j run H. Simple has 2 p_1 + 1 rounds, and one more where a_1 > 1.
    - *Base* writes n = s · q, where q holds the prime factors up to k + 1. Simple runs in rows of s ranks and then H
      down the columns, or Simple on all ranks if that is shorter.

    On powers of k + 1 it takes log(n) rounds, as `exponential` does. On other n it takes O(log n) rounds: with one peer
    6 rounds for 24 ranks, 9 for 25, 11 for 33. Ranks rest in some rounds. Every matrix is symmetric, so weights stay
    equal.

    Args:
        size: number of ranks n, from 1.
        peers: k, from 1; values beyond n - 1 change nothing.

    Raises:
        TopologyError: other values.

    >>> base_graph(3).turn(rank=0, round=1)
    Turn(keep=0.333..., sends={2: 0.666...}, receives={2: 0.666...})
    >>> [base_graph(size).period for size in (24, 25, 33)]
    [6, 9, 11]

    Source: Takezawa, Sato, Bao, Niwa, Yamada: Beyond Exponential Graph, NeurIPS 2023, arXiv 2305.11420, section 4.

    CECA (Ding et al., ICML 2023) takes ⌈log₂ n⌉ rounds for every n, and needs two values a rank, the mean x of m + 1
    ranks and the mean y of the m others among them. A rank sends one of the two and changes both on receipt.
    In a round that sends y, x_i ← ((m + 1) x_i + m y_j)/(2m + 1). This keeps Σx only while Σy equals it, so every
    update of the optimizer has to reach y as well. Thus y is a second copy of the parameters, and its share of the
    weight differs from round to round. Gossip here has one value a rank, the parameters themselves, so CECA is not
    among the families.
    """
    size = positive(size, "the size of a base graph")
    peers = positive(peers, "the number of peers of a base graph")
    return validated(BaseGraph(size, peers))


def _shortest(size: int, base: int) -> list[Step]:
    """The rounds of Base(n): rows of s and then columns of q, or Simple(n) where that is shorter."""
    rest, smooth = size, 1
    for prime in range(2, base + 1):
        # A composite `prime` divides nothing, because its factors were taken out before it.
        while rest % prime == 0:
            rest, smooth = rest // prime, smooth * prime
    rows = [Step(smooth, parts) for parts in _simple(rest, base)]
    columns = [Step(1, (Cliques(size, rest * stride, radix),)) for stride, radix in _digits(smooth, base) or []]
    simple = _simple(size, base)
    return [Step(1, parts) for parts in simple] if len(simple) < len(rows) + len(columns) else rows + columns


def _simple(size: int, base: int) -> list[tuple[Part, ...]]:
    """The parts of each round of Simple(n), or of H(n) where no prime factor of n exceeds the base."""
    digits = _digits(size, base)
    if digits is not None:
        return [(Cliques(size, stride, radix),) for stride, radix in digits]
    blocks = _blocks(size, base)
    groups, width = blocks[0]
    # m_1 = |H(V_1)|
    meetings = len(_digits(groups * width, base) or [])
    return [_round(blocks, round - meetings, base) for round in range(meetings + 1 + len(_digits(width, base) or []))]


def _round(blocks: list[tuple[int, int]], meeting: int, base: int) -> tuple[Part, ...]:
    """The parts of Simple(n) in the round in which block `meeting` meets the later ones; below 0 it is earlier."""
    parts: list[Part] = []
    for number, (groups, width) in enumerate(blocks):
        rest = sum(groups * width for groups, width in blocks[number + 1 :])
        if number == meeting and rest:
            return (*parts, Meeting(groups, width, rest))
        among = width if meeting >= 0 and width > 1 else groups * width
        digits = _digits(among, base) or [(1, 1)]
        parts.append(Cliques(groups * width, *digits[(meeting - number - 1) % len(digits)]))
    return tuple(parts)


def _blocks(size: int, base: int) -> list[tuple[int, int]]:
    """The nonzero digits of n, greatest first, each with its power of the base.

    >>> _blocks(17, 3)
    [(1, 9), (2, 3), (2, 1)]
    """
    blocks: list[tuple[int, int]] = []
    power = 1
    while size:
        size, digit = divmod(size, base)
        if digit:
            blocks.insert(0, (digit, power))
        power *= base
    return blocks


def _digits(size: int, base: int) -> list[tuple[int, int]] | None:
    """Stride and radix of each digit of a mixed-radix number below n: the fewest digits with radices up to the base.

    None if n has a prime factor above the base.

    >>> _digits(36, 6), _digits(36, 3), _digits(10, 3)
    ([(1, 6), (6, 6)], [(1, 3), (3, 3), (9, 2), (18, 2)], None)
    """
    low = [number for number in range(1, math.isqrt(size) + 1) if size % number == 0]
    divisors = sorted({*low, *(size // number for number in low)})
    shortest: dict[int, tuple[int, ...]] = {1: ()}
    for number in divisors[1:]:
        candidates = [
            (*shortest[number // radix], radix)
            for radix in divisors
            if 1 < radix <= base and number % radix == 0 and number // radix in shortest
        ]
        if candidates:
            shortest[number] = min(candidates, key=len)
    if size not in shortest:
        return None
    radices = shortest[size]
    return list(zip(accumulate(radices, operator.mul, initial=1), radices, strict=False))
