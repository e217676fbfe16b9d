"""Random choices that agree on all ranks: a number for each (seed, round, index), computed and never stored.

Any rank can compute the draws of any rank and round without the rounds before it, and without a message. The arithmetic
is that of 32-bit integers, the same in Python and in numpy on every machine. The draws are good enough to choose peers,
and not for secrets.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeVar

from topologies.arrays.edges import Ranks

Keys = Sequence[tuple[int, int]]
R = TypeVar("R", int, Ranks)

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
"""2^32 divided by the golden ratio, because its multiples lie far apart."""
PASSES, STEPS = 2, 6
"""The passes of `Shuffle` through its network, and the steps of a pass; with fewer some permutations are rare."""


def draw(seed: int, *indices: int) -> int:
    """A number from 0 to 2^32 - 1 for the seed and the indices, each an integer of at least 0.

    >>> draw(0, 1) == draw(0, 1) != draw(0, 2)
    True
    """
    # `_scramble` maps 0 to 0, so from word 0 the seed 0 would draw 0 in round 0 for rank 0.
    word = GOLDEN
    # numpy's integers would wrap or refuse words of 32 bits.
    for index in map(operator.index, (seed, *indices)):
        word = _scramble(word ^ index & MASK)
        while index > MASK:
            index >>= 32
            # Scramble once more, or the high word of one index would equal the low word of another.
            word = _scramble(_scramble(word) ^ index & MASK)
    return word


def draws(word: int, index: R) -> R:
    """`draw(seed, *first, index)` for an index below 2^32, or each of an array; `word` is draw(seed, *first)."""
    return _scramble(word ^ index)


def below(bound: int, word: R) -> R:
    """The word of a draw, or each of an array of words, mapped to 0 … bound - 1, for a bound below 2^31."""
    return word * bound >> 32


class Shuffle:
    """A random permutation of 0 … n - 1 that is computed place by place and never stored.

    A Feistel network permutes 0 … 2^b - 1, the smallest such range that holds n numbers. A result outside 0 … n - 1
    goes through the network again until it falls inside. A shift modulo n follows, and both are done twice.

    >>> shuffle = Shuffle(5, draw(0))
    >>> sorted(shuffle.place(x) for x in range(5)), shuffle.inverse(shuffle.place(3))
    ([0, 1, 2, 3, 4], 3)

    Source: Black, Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
    """

    def __init__(self, size: int, word: int) -> None:
        """`size`: n; `word`: the number drawn for this permutation."""
        self.size = size
        bits = (size - 1).bit_length()
        self.half = (bits + 1) // 2
        self.low = (1 << self.half) - 1
        self.high = (1 << bits - self.half) - 1
        keys = [_scramble(word ^ number * GOLDEN & MASK) for number in range(1, PASSES * (STEPS + 1) + 1)]
        self.shifts = [below(size, key) for key in keys[:PASSES]]
        pairs = list(zip(keys[PASSES::2], keys[PASSES + 1 :: 2], strict=True))
        self.keys = [pairs[first::PASSES] for first in range(PASSES)]

    def place(self, x: int) -> int:
        """The image of x."""
        for keys, shift in zip(self.keys, self.shifts, strict=True):
            x = self._forward(x, keys)
            while x >= self.size:
                x = self._forward(x, keys)
            x = (x + shift) % self.size
        return x

    def inverse(self, y: int) -> int:
        """The number whose image is y."""
        for keys, shift in zip(reversed(self.keys), reversed(self.shifts), strict=True):
            y = self._backward((y - shift) % self.size, keys)
            while y >= self.size:
                y = self._backward(y, keys)
        return y

    def places(self, x: Ranks) -> Ranks:
        """The images of an array."""
        for keys, shift in zip(self.keys, self.shifts, strict=True):
            x = self._forward(x, keys)
            while (out := x >= self.size).any():
                x[out] = self._forward(x[out], keys)
            x = (x + shift) % self.size
        return x

    def inverses(self, y: Ranks) -> Ranks:
        """The numbers whose images are the entries of an array."""
        for keys, shift in zip(reversed(self.keys), reversed(self.shifts), strict=True):
            y = self._backward((y - shift) % self.size, keys)
            while (out := y >= self.size).any():
                y[out] = self._backward(y[out], keys)
        return y

    # The key of a step is both a mask and, made odd, a factor. For n < 2^64 a half has at most 32 bits, and a step uses
    # only the low 48 bits of a product. So numpy may wrap it, and Python and numpy agree.

    def _forward(self, x: R, keys: Keys) -> R:
        left, right = x >> self.half, x & self.low
        for first, second in keys:
            # r <- r ⊕ f(l);  l <- l ⊕ g(r)
            right = right ^ (left ^ first) * (first | 1) >> 16 & self.low
            left = left ^ (right ^ second) * (second | 1) >> 16 & self.high
        return left << self.half | right

    def _backward(self, y: R, keys: Keys) -> R:
        left, right = y >> self.half, y & self.low
        for first, second in reversed(keys):
            # l <- l ⊕ g(r);  r <- r ⊕ f(l)
            left = left ^ (right ^ second) * (second | 1) >> 16 & self.high
            right = right ^ (left ^ first) * (first | 1) >> 16 & self.low
        return left << self.half | right


def _scramble(x: R) -> R:
    # A bijection of 32 bits in which every input bit flips about half of the output bits. Both factors are below 2^31,
    # so no product overflows numpy's 64 bits.
    x = x ^ x >> 16
    x = x * 0x21F0AAAD & MASK
    x = x ^ x >> 15
    x = x * 0x735A2D97 & MASK
    return x ^ x >> 15
