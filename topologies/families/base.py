"""Base-(k+1) graphs: the exact average on any number of ranks, with at most k peers a round."""

from __future__ import annotations

import math
import operator
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from topologies.arrays.edges import Edges
from topologies.families.base_parts import Cliques, Meeting, Part, joined
from topologies.topology import Topology, Turn, positive, refuse_rank
from topologies.validation import validate


class Step(NamedTuple):
    """One round: rows of ranks that all do the same, each cut into parts."""

    rows: int
    parts: tuple[Part, ...]
    """From the first place of a row to the last."""


class Base(Topology):
    """The schedule that `base` returns: O(log² n) numbers, from which a turn follows in O(log n + peers)."""

    def __init__(self, size: int, peers: int) -> None:
        """`size`: n; `peers`: k, from 1."""
        self.peers = peers
        self.steps = _shortest(size, peers + 1) or [Step(1, (Cliques(size, 1, 1),))]
        super().__init__(size, period=len(self.steps))

    def turn(self, rank: int, round: int) -> Turn:
        if not 0 <= rank < self.size:
            raise refuse_rank(rank, self.size)
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
        return f"Base(size={self.size}, peers={self.peers}, period={self.period})"


def base(size: int, peers: int = 1) -> Base:
    """Base-(k+1) graph: at most k = `peers` peers a round, undirected, and the exact average on any number of ranks.

    Three schedules, each made of the one before it:

    - *H* on n = r_1 · r_2 ⋯ r_L ranks, all r_m <= k + 1: in round m the ranks that differ in digit m only, which are
      r_m, average. L rounds.
    - *Simple* on other n = Σ_l a_l (k+1)^p_l, the digits of n to the base k + 1, greatest p_l first: the ranks fall
      into blocks V_l, each of a_l groups of (k+1)^p_l. Every block averages by H. Then comes one round for each block
      V_j but the last, in which every rank of the later blocks meets one rank of each group of V_j with the share
      n_j / (S_j a_j), where n_j = |V_j| and S_j = n_j + n_{j+1} + …: now each of the former, and each group of V_j on
      average, has the mean of all. From then on the groups of V_j run H. 2 p_1 + 1 rounds, one more where a_1 > 1.
    - *Base*: n = s · q where q holds the prime factors up to k + 1: Simple in rows of s and then H down the columns,
      or Simple on all, whichever is shorter.

    On powers of k + 1 it takes log(n) rounds as `exponential` does, elsewhere O(log n): with one peer 6 rounds for 24
    ranks, 9 for 25, 11 for 33. Ranks rest in some rounds. Every matrix is symmetric, so weights stay equal.

    size: number of ranks n, from 1. peers: k, from 1; beyond n - 1 it changes nothing. Raises `TopologyError` for other
    values.

    >>> base(3).turn(rank=0, round=1)
    Turn(keep=0.333..., sends={2: 0.666...}, receives={2: 0.666...})
    >>> [base(size).period for size in (24, 25, 33)]
    [6, 9, 11]

    Takezawa, Sato, Bao, Niwa, Yamada: Beyond Exponential Graph, NeurIPS 2023, arXiv 2305.11420, section 4.

    CECA (Ding et al., ICML 2023) takes ⌈log₂ n⌉ rounds for every n but needs two values a rank: the mean x of m + 1
    ranks and the mean y of the m others among them. It sends one of the two and changes both on what it hears. In a
    round that sends y, x_i ← ((m + 1) x_i + m y_j)/(2m + 1), so Σx stays as it is only while Σy equals it, and every
    update of the optimizer has to reach y as well. y is a second copy of the parameters, it holds a part of the rank's
    weight that differs from round to round, and in some rounds it is what is sent. Gossip here has one value a rank,
    the parameters themselves, so CECA is not among the families.
    """
    size = positive(size, "the size of a base graph")
    peers = positive(peers, "the number of peers of a base graph")
    topology = Base(size, peers)
    validate(topology)
    return topology


def _shortest(size: int, base: int) -> list[Step]:
    """Base(n): rows of s and then columns of q, or Simple(n) where that is shorter."""
    rest, smooth = size, 1
    for prime in range(2, base + 1):
        # Where `prime` is composite, its factors have been taken out before it, and it divides nothing.
        while rest % prime == 0:
            rest, smooth = rest // prime, smooth * prime
    rows = [Step(smooth, parts) for parts in _simple(rest, base)]
    columns = [Step(1, (Cliques(size, rest * stride, radix),)) for stride, radix in _digits(smooth, base) or []]
    simple = _simple(size, base)
    return [Step(1, parts) for parts in simple] if len(simple) < len(rows) + len(columns) else rows + columns


def _simple(size: int, base: int) -> list[tuple[Part, ...]]:
    """Simple(n), which is H(n) where n has small factors only: the parts of each round."""
    digits = _digits(size, base)
    if digits is not None:
        return [(Cliques(size, stride, radix),) for stride, radix in digits]
    blocks = _blocks(size, base)
    groups, width = blocks[0]
    # m_1 = |H(V_1)|
    meetings = len(_digits(groups * width, base) or [])
    return [_round(blocks, round - meetings, base) for round in range(meetings + 1 + len(_digits(width, base) or []))]


def _round(blocks: list[tuple[int, int]], meeting: int, base: int) -> tuple[Part, ...]:
    """The parts of Simple(n) in the round in which block number `meeting` meets the later ones; before it where < 0."""
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
    """The digits of n that are not 0, greatest first, each with the power of the base that it counts.

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
    """Stride and radix of the digits of a mixed-radix number below n, as few as can be with radices up to the base.

    None where n has a prime factor above the base.

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
