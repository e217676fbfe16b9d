"""Random choices that every rank makes alike: a number for each (seed, round, index), computed and never remembered.

Rank and round go in, so any rank can ask for any round without the rounds before it, and without a message. The
arithmetic is of whole numbers of 32 bits, the same for Python's and for numpy's, on every machine. Good enough for
choosing peers, and not for secrets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from topologies.edges import Ranks

Words = npt.NDArray[np.uint64]

MASK = 0xFFFFFFFF
STEPS = 8
"""Steps of the Feistel network: fewer leave some permutations of few ranks rarer than others."""


def draw(seed: int, *indices: int) -> int:
    """A number from 0 to 2^32 - 1 for the seed and the indices, each an integer of at least 0.

    >>> draw(0, 1) == draw(0, 1) != draw(0, 2)
    True
    """
    word: int = _scramble(seed & MASK ^ _scramble(seed >> 32 & MASK))
    for index in indices:
        word = _scramble(word ^ index & MASK)
        if index > MASK:
            word = _scramble(word ^ index >> 32 & MASK)
    return word


def draws(word: int, indices: Ranks) -> Words:
    """`draw(seed, *first, index)` for each index below 2^32 of an array, where `word` is draw(seed, *first)."""
    drawn: Words = _scramble(np.uint64(word) ^ indices.astype(np.uint64))
    return drawn


def below(bound: int, word: int) -> int:
    """The word of a draw, brought into 0 … bound - 1."""
    return word * bound >> 32


class Shuffle:
    """A random permutation of 0 … n - 1 that is computed place by place and never laid out.

    A Feistel network permutes 0 … 4^b - 1, the smallest such range that holds n numbers; what falls outside goes
    through again until it falls inside. `place` and `inverse` take one number or an array of them.

    >>> shuffle = Shuffle(5, draw(0))
    >>> sorted(shuffle.place(x) for x in range(5)), shuffle.inverse(shuffle.place(3))
    ([0, 1, 2, 3, 4], 3)

    Black, Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
    """

    def __init__(self, size: int, word: int) -> None:
        """`size`: n; `word`: the number drawn for this permutation."""
        self.size = size
        self.half = max(1, ((size - 1).bit_length() + 1) // 2)
        self.low = (1 << self.half) - 1
        self.keys = [_scramble(word ^ step * 0x9E3779B9 & MASK) for step in range(1, STEPS + 1)]

    def place(self, x: int) -> int:
        """Where x goes."""
        x = int(self._forward(x))
        while x >= self.size:
            x = self._forward(x)
        return x

    def inverse(self, y: int) -> int:
        """What goes to y."""
        y = int(self._backward(y))
        while y >= self.size:
            y = self._backward(y)
        return y

    def places(self, x: Ranks) -> Ranks:
        """`place` of each."""
        words: Words = self._forward(x.astype(np.uint64))
        while (out := words >= self.size).any():
            words[out] = self._forward(words[out])
        found: Ranks = words.astype(np.int64)
        return found

    def inverses(self, y: Ranks) -> Ranks:
        """`inverse` of each."""
        words: Words = self._backward(y.astype(np.uint64))
        while (out := words >= self.size).any():
            words[out] = self._backward(words[out])
        found: Ranks = words.astype(np.int64)
        return found

    def _forward(self, x: Any) -> Any:
        left, right = x >> self.half, x & self.low
        for key in self.keys:
            # (l, r) -> (r, l ⊕ f(r))
            left, right = right, left ^ _scramble(right ^ key) & self.low
        return left << self.half | right

    def _backward(self, y: Any) -> Any:
        left, right = y >> self.half, y & self.low
        for key in reversed(self.keys):
            # (l, r) -> (r ⊕ f(l), l)
            left, right = right ^ _scramble(left ^ key) & self.low, left
        return left << self.half | right


def _scramble(x: Any) -> Any:
    # A bijection of 32 bits in which every bit of the input moves about half of those of the output.
    x = x ^ x >> 16
    x = x * 0x21F0AAAD & MASK
    x = x ^ x >> 15
    x = x * 0x735A2D97 & MASK
    return x ^ x >> 15
