"""Every published figure about graphs is reproduced, and the catalogue holds the shortest schedules."""

from __future__ import annotations

import json
import time

import pytest

from topologies import TopologyError
from topologies.analysis import EXACT, Figure, degrees, figures, rounds_to
from topologies.analysis.figures import FIGURES
from topologies.catalogue import CATALOGUE


@pytest.mark.parametrize("claim", FIGURES, ids=lambda claim: claim.what)
def test_a_published_figure(claim):
    figure = claim.checked()
    assert figure.agrees, f"{figure.what}: published {figure.reference}, computed {figure.computed}"


def test_all_figures_take_a_few_seconds_and_are_json():
    start = time.process_time()
    found = figures()
    assert time.process_time() - start < 10
    assert [figure.what for figure in found] == [claim.what for claim in FIGURES]
    assert len({figure.what for figure in found}) == len(found)
    for figure in found:
        described = figure.as_dict()
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        assert described["agrees"] is True


@pytest.mark.parametrize(
    ("published", "computed", "decimals", "within", "agrees"),
    [
        (0.21, 0.2149, 2, 0.0, True),
        (0.21, 0.2151, 2, 0.0, False),
        (0.0312, 0.03125, 4, 0.0, True),
        (6, 7, 0, 0.0, False),
        (6, float("inf"), 0, 0.0, False),
        (0.442, 0.43, 3, 0.05, True),
        (0.442, 0.40, 3, 0.05, False),
    ],
)
def test_figures_agree_to_the_published_digits(published, computed, decimals, within, agrees):
    assert Figure("a number", "a paper", published, computed, decimals, within).agrees is agrees


def shortest(size: int) -> tuple[int, list[str]]:
    """The fewest rounds to exact over all families whose ranks send and receive one message a round at most."""
    found: dict[str, int] = {}
    for name, family in CATALOGUE.items():
        try:
            topology = family(size)
        except TopologyError:
            continue
        peers = degrees(topology)
        if max(peers.out.high, peers.into.high) > 1:
            continue
        rounds = rounds_to(topology, EXACT, limit=64)
        if rounds is not None:
            found[name] = rounds
    best = min(found.values())
    return best, [name for name, rounds in found.items() if rounds == best]


@pytest.mark.parametrize(("size", "rounds"), [(24, 6), (25, 9), (33, 11)])
def test_the_best_schedule_of_one_peer_is_as_short_as_published(size, rounds):
    assert shortest(size) == (rounds, ["base_graph"])


@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 64])
def test_the_best_schedules_of_one_peer_take_log_n_rounds_on_powers_of_two(size):
    best, names = shortest(size)
    assert best == size.bit_length() - 1
    assert {"base_graph", "exponential", "one_peer_hypercube"} <= set(names)
