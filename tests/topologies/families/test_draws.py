"""Random choices that agree on all ranks: pure, the same on every machine, and uniform."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies.arrays.draws import Shuffle, below, draw, draws

WORD = 2**32
naturals = st.integers(0, 2**80)


def excess(counts: list[int], expected: float) -> float:
    """The distance of χ² from its mean, in standard deviations, for equally likely outcomes."""
    degrees = len(counts) - 1
    return (sum((count - expected) ** 2 / expected for count in counts) - degrees) / math.sqrt(2 * degrees)


@given(naturals, st.lists(naturals, max_size=3))
def test_a_draw_is_32_bits_and_repeats(seed, indices):
    assert 0 <= draw(seed, *indices) < WORD
    assert draw(seed, *indices) == draw(seed, *indices)


@given(naturals, naturals, st.lists(st.integers(0, WORD - 1), min_size=1, max_size=20))
def test_draws_of_an_array_equal_single_draws(seed, round, indices):
    word = draw(seed, round)
    expected = [draw(seed, round, index) for index in indices]
    assert draws(word, np.array(indices)).tolist() == expected
    assert [draws(word, index) for index in indices] == expected
    assert below(7, draws(word, np.array(indices))).tolist() == [below(7, drawn) for drawn in expected]


def test_seeds_and_rounds_of_any_size_count():
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64, 2**64 + 1, 2**70]
    assert len({draw(seed, round) for seed in seeds for round in seeds}) == len(seeds) ** 2


def test_no_seed_draws_only_zeros():
    # 0 is a fixed point of the mixing of bits.
    assert draw(0, 0) != 0
    assert draw(0, 0, 0) != draw(0, 0)


def test_draws_of_seeds_never_change():
    # Ranks may run different releases, so the draws of a seed never change.
    assert [draw(0), draw(0, 0), draw(7, 3, 5), draw(2**40, 1)] == [1684164658, 340428713, 1534561602, 4105683280]
    shuffle = Shuffle(10, draw(1, 2))
    assert [shuffle.place(x) for x in range(10)] == [1, 7, 3, 8, 6, 0, 4, 2, 5, 9]


@pytest.mark.parametrize("stream", ["indices", "rounds", "seeds"])
def test_draws_are_uniform(stream):
    sample = 12_800
    make = {
        "indices": lambda number: draw(3, 5, number),
        "rounds": lambda number: draw(3, number, 5),
        "seeds": lambda number: draw(number, 5, 3),
    }[stream]
    drawn = [make(number) for number in range(sample)]
    counts = Counter(below(64, word) for word in drawn)
    assert abs(excess([counts[value] for value in range(64)], sample / 64)) < 4
    # Successive draws are independent.
    pairs = Counter((below(8, one), below(8, other)) for one, other in itertools.pairwise(drawn))
    assert abs(excess([pairs[pair] for pair in itertools.product(range(8), repeat=2)], (sample - 1) / 64)) < 4


@given(st.integers(1, 200), naturals)
def test_a_shuffle_is_a_permutation(size, seed):
    shuffle = Shuffle(size, draw(seed))
    everyone = np.arange(size)
    places = shuffle.places(everyone)
    assert sorted(places.tolist()) == list(range(size))
    assert everyone.tolist() == list(range(size)), "the caller's array is not to be written to"
    np.testing.assert_array_equal(shuffle.inverses(places), everyone)
    assert [shuffle.place(x) for x in range(size)] == places.tolist()
    assert [shuffle.inverse(y) for y in places.tolist()] == everyone.tolist()


@given(st.integers(1, 2**31), naturals, st.integers(0, 2**31))
def test_a_large_shuffle_stores_nothing(size, seed, x):
    shuffle, x = Shuffle(size, draw(seed)), x % size
    place = shuffle.place(x)
    assert 0 <= place < size
    assert shuffle.inverse(place) == x
    assert shuffle.places(np.array([x])).tolist() == [place]
    assert shuffle.inverses(np.array([place])).tolist() == [x]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_permutations_of_few_ranks_are_equally_likely(size):
    orders = list(itertools.permutations(range(size)))
    counts: Counter[tuple[int, ...]] = Counter()
    for number in range(30 * len(orders)):
        counts[tuple(Shuffle(size, draw(11, number)).places(np.arange(size)).tolist())] += 1
    assert abs(excess([counts[order] for order in orders], 30)) < 4


@pytest.mark.parametrize("size", [6, 8, 9, 17])
def test_every_rank_takes_every_place_of_a_shuffle(size):
    sample = 800
    places = np.array([Shuffle(size, draw(12, number)).places(np.arange(size)) for number in range(sample)])
    where = np.array([np.bincount(places[:, rank], minlength=size) for rank in range(size)])
    # Rows and columns of the table have fixed sums, (n - 1)² degrees of freedom are left.
    chi = ((where - sample / size) ** 2).sum() / (sample / size)
    degrees = (size - 1) ** 2
    assert abs(chi - degrees) < 4 * math.sqrt(2 * degrees)
    met = [int((places[:, i] ^ 1 == places[:, j]).sum()) for i, j in itertools.combinations(range(size), 2)]
    assert max(met) < 1.6 * sum(met) / len(met)
    assert min(met) > 0.5 * sum(met) / len(met)


def test_draws_are_equal_in_other_processes():
    program = (
        "from topologies.arrays.draws import *\n"
        "print([draw(2**40, 3, 5), *[Shuffle(1000, draw(9)).place(x) for x in range(20)]])"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert told == [str([draw(2**40, 3, 5), *[Shuffle(1000, draw(9)).place(x) for x in range(20)]])] * 2
