"""Known figures about graphs, from the literature or from its formulas and constructions, each computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from topologies.analysis.consensus import EXACT, rounds_to
from topologies.analysis.spectrum import after, contraction, spectral_gap
from topologies.families.alternating_exponential import alternating_exponential
from topologies.families.base_graph import base_graph
from topologies.families.circulant import circulant
from topologies.families.complete import complete
from topologies.families.exponential import exponential
from topologies.families.grid import grid, torus
from topologies.families.hypercube import hypercube
from topologies.families.random_peer import RandomPeer
from topologies.families.ring import ring
from topologies.families.star import star
from topologies.families.static_exponential import static_exponential
from topologies.topology import Topology

SEEDS = 400
"""The number of random schedules behind a mean."""

SGP = "Assran et al. 2019"
EXPONENTIAL = "Ying et al. 2021"
BASE = "Takezawa et al. 2023"
CODE = "the SGP code"

GAPS: dict[Callable[[int], Topology], dict[int, str]] = {
    ring: {8: ".195", 16: ".0507", 32: ".0128", 64: ".0032"},
    star: {8: ".125", 16: ".0625", 32: ".0312", 64: ".0156"},
    grid: {8: ".146", 16: ".131", 32: ".0342", 64: ".0323"},
    torus: {16: ".4", 32: ".117", 64: ".117"},
    hypercube: {8: ".5", 16: ".4", 32: ".333", 64: ".286"},
    static_exponential: {8: ".5", 16: ".4", 32: ".333", 64: ".286"},
    complete: {8: "1", 16: "1", 32: "1", 64: "1"},
}
"""Spectral gaps by family and size, with the known digits."""

POWERS = (8, 16, 32, 64)
"""Sizes on which powers of two are exact."""

SWEEPS = {6: ".22", 12: ".21", 24: ".21", 33: ".03"}
"""The part of the worst disagreement that a sweep of the one-peer exponential graph leaves, by size."""

LENGTHS = {
    1: {
        3: 3,
        5: 5,
        6: 4,
        7: 5,
        9: 7,
        10: 6,
        12: 5,
        15: 7,
        17: 9,
        24: 6,
        25: 9,
        31: 9,
        33: 11,
        8: 3,
        16: 4,
        32: 5,
        64: 6,
    },
    2: {3: 1, 5: 3, 6: 2, 7: 4, 9: 2, 12: 3, 17: 5, 25: 6, 33: 6, 64: 6},
}
"""Rounds to exact of the Base-(k+1) graph, by k and size."""


@dataclass(frozen=True)
class Figure:
    """A known number about a graph, and the number computed here."""

    what: str
    """The quantity."""
    source: str
    """The paper that has the graph, and often the figure too, in short."""
    reference: float
    """The known number."""
    computed: float
    """The number computed here; infinite if a schedule is not exact within 1000 rounds."""
    decimals: int
    """Digits of `reference` after the point; 0 for a count."""
    within: float = 0.0
    """The relative tolerance of a mean over random graphs; 0 if every digit must agree."""

    @property
    def agrees(self) -> bool:
        """Whether both are the same number, to the known digits."""
        # A number that ends in 5 may have been rounded either way.
        far = self.within * self.reference if self.within else 0.5 * 10.0**-self.decimals * (1 + 1e-9)
        return abs(self.computed - self.reference) <= far

    def as_dict(self) -> dict[str, Any]:
        """The figure for JSON."""
        computed = self.computed if math.isfinite(self.computed) else None
        return {**asdict(self), "computed": computed, "agrees": self.agrees}


@dataclass(frozen=True)
class Claim:
    """A known figure and the way to compute it; the fields are those of `Figure`."""

    what: str
    source: str
    reference: str
    compute: Callable[[], float]
    within: float = 0.0

    def checked(self) -> Figure:
        """The figure, computed now."""
        decimals = len(self.reference.partition(".")[2])
        return Figure(self.what, self.source, float(self.reference), self.compute(), decimals, self.within)


def figures() -> list[Figure]:
    """Every known figure with the number computed now, in a few seconds.

    >>> from topologies.analysis import figures
    >>> all(figure.agrees for figure in figures())
    True
    """
    return [claim.checked() for claim in FIGURES]


def _residual(topology: Topology) -> float:
    result = after(topology, rounds=5)
    # Energy: ‖Π (I - 1 1ᵀ/n)‖₂²,  which is σ₂² where Π is doubly stochastic.
    return float(np.linalg.norm(result - result.mean(axis=1, keepdims=True), 2) ** 2)


def _any_hop_in_turn(size: int) -> Topology:
    return circulant(size, range(1, size), one_by_one=True)


def _drawn(hops: str) -> float:
    # The class, not the function: checking 64 rounds of every schedule would take far longer than using 5 of them.
    return float(np.mean([_residual(RandomPeer(32, hops, seed)) for seed in range(SEEDS)]))


def _distance() -> float:
    sizes = range(4, 66, 2)
    # 2/(1 + ⌈log₂ n⌉)
    return max(abs(spectral_gap(static_exponential(n)) - 2 / (1 + (n - 1).bit_length())) for n in sizes)


def _length(topology: Topology) -> float:
    rounds = rounds_to(topology, EXACT, limit=1000)
    return math.inf if rounds is None else rounds


def _claims() -> Iterator[Claim]:
    left = "energy that 5 rounds of one peer leave on 32 ranks:"
    yield Claim(f"{left} exponential, in turn", SGP, "0.000", lambda: _residual(exponential(32)))
    yield Claim(f"{left} any hop, in turn", SGP, "0.579", lambda: _residual(_any_hop_in_turn(32)))
    yield Claim(f"{left} exponential, drawn", SGP, "0.442", lambda: _drawn("exponential"), within=0.02)
    yield Claim(f"{left} any hop, drawn", SGP, "0.210", lambda: _drawn("any"), within=0.02)
    for family, gaps in GAPS.items():
        for size, gap in gaps.items():
            what = f"spectral gap of {family.__name__}({size})"
            yield Claim(what, EXPONENTIAL, gap, _later(spectral_gap, family, size))
    what = "distance of the gap of static_exponential(n) from 2/(1 + ⌈log₂ n⌉), even n <= 64"
    yield Claim(what, EXPONENTIAL, "0.000000000", _distance)
    for size, swept in SWEEPS.items():
        what = f"worst disagreement that a sweep of exponential({size}) leaves"
        yield Claim(what, EXPONENTIAL, swept, _later(contraction, exponential, size))
    for size in POWERS:
        log = size.bit_length() - 1
        yield Claim(
            f"rounds to exact of exponential({size})", EXPONENTIAL, f"{log}", _later(_length, exponential, size)
        )
        what = f"rounds to exact of alternating_exponential({size})"
        yield Claim(what, CODE, f"{2 * log - 1}", _later(_length, alternating_exponential, size))
    for peers, lengths in LENGTHS.items():
        for size, length in lengths.items():
            what = f"rounds to exact of base_graph({size}, peers={peers})"
            yield Claim(what, BASE, f"{length}", _later(_length, partial(base_graph, peers=peers), size))


def _later(number: Callable[[Topology], float], family: Callable[[int], Topology], size: int) -> Callable[[], float]:
    return lambda: number(family(size))


FIGURES: tuple[Claim, ...] = tuple(_claims())
"""Every figure, not computed yet."""
