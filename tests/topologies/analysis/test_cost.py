"""Rounds turned into seconds, and the advice that follows from them."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies import SpecError, Topology, TopologyError, complete, exponential, from_networkx, ring
from topologies.analysis import (
    Link,
    advise,
    allreduce_seconds,
    consensus,
    contraction,
    elapsed,
    round_seconds,
    rounds_to,
)
from topologies.catalogue import CATALOGUE

ETHERNET = Link(rate=10e9, latency=50e-6)
RESNET = 102_400_000

links = st.builds(Link, rate=st.floats(1e6, 1e12), latency=st.floats(0, 1e-2))


def test_a_model_of_100_megabytes_takes_82_ms_over_ethernet():
    """The times per iteration of Wang et al., SlowMo, ICLR 2020, follow: 82 ms one way, 159 ms for an all-reduce."""
    line = Link(rate=10e9)
    assert round_seconds(exponential(32), line, RESNET) == pytest.approx(0.0819, abs=5e-5)
    assert allreduce_seconds(32, line, RESNET) == pytest.approx(0.159, abs=5e-4)


@given(st.integers(2, 40), links, st.integers(1, 10**9))
def test_messages_of_a_round_share_one_network_card_and_latency(size, link, nbytes):
    wire = nbytes * 8 / link.rate
    assert round_seconds(exponential(size), link, nbytes) == pytest.approx(link.latency + wire)
    assert round_seconds(complete(size), link, nbytes) == pytest.approx(link.latency + (size - 1) * wire)
    hub = from_networkx(nx.star_graph(size - 1))
    assert round_seconds(hub, link, nbytes) == pytest.approx(link.latency + (size - 1) * wire)


def test_a_round_lasts_as_long_as_the_rank_that_receives_most():
    to_the_hub = from_networkx(nx.DiGraph([(1, 0), (2, 0), (3, 0), (0, 1), (1, 2), (2, 3)]))
    assert round_seconds(to_the_hub, Link(rate=8e6), 1_000_000) == pytest.approx(3.0)


def test_a_round_without_messages_costs_nothing():
    alternating = from_networkx([nx.empty_graph(4), nx.cycle_graph(4)])
    assert round_seconds(alternating, Link(rate=8e6, latency=1.0), 1_000_000) == pytest.approx((0 + 3) / 2)
    assert elapsed(consensus(alternating, 4), Link(8e6, 1.0), 1_000_000).tolist() == [0, 0, 3, 3, 6]
    assert round_seconds(ring(1), ETHERNET, 1) == 0


@given(st.integers(1, 30), st.integers(1, 3), links, st.integers(1, 10**9))
def test_a_period_takes_as_long_as_its_rounds(size, peers, link, nbytes):
    topology = exponential(size, peers=min(peers, max(1, size - 1)))
    run = consensus(topology, topology.period)
    assert elapsed(run, link, nbytes)[-1] == pytest.approx(topology.period * round_seconds(topology, link, nbytes))


@given(st.integers(1, 2000), links, st.integers(1, 10**9))
def test_an_all_reduce_takes_no_longer_than_a_ring_and_no_less_than_its_bytes(size, link, nbytes):
    wire, seconds = nbytes * 8 / link.rate, allreduce_seconds(size, link, nbytes)
    assert seconds <= 2 * (size - 1) * link.latency + 2 * (size - 1) / size * wire
    assert seconds >= (2 * np.log2(size) - 2) * link.latency - 1e-12
    # A power of two below n averages at most half as much as n does, and the other ranks hand over whole values.
    assert seconds >= 2 * (size - 1) / size * wire * (1 - 1e-9)


def test_few_bytes_are_all_reduced_in_log_n_steps():
    assert allreduce_seconds(64, ETHERNET, 8) == pytest.approx(12 * 50e-6, rel=1e-3)
    assert allreduce_seconds(24, ETHERNET, 8) == pytest.approx(10 * 50e-6, rel=1e-3)
    assert allreduce_seconds(24, ETHERNET, 10**9) == pytest.approx(46 * 50e-6 + 46 / 24 * 0.8)
    assert allreduce_seconds(1, ETHERNET, 10**9) == 0


@pytest.mark.parametrize(
    ("rate", "latency", "message"),
    [
        (0, 0, "a rate of 0 carries nothing"),
        (-1.0, 0, "carries nothing"),
        (float("nan"), 0, "carries nothing"),
        (float("inf"), 0, "carries nothing"),
        (1e9, -1e-6, "a latency of -1e-06 cannot be"),
        (1e9, float("nan"), "cannot be"),
    ],
)
def test_wrong_links_are_refused(rate, latency, message):
    with pytest.raises(TopologyError, match=message):
        Link(rate, latency)


@pytest.mark.parametrize("nbytes", [0, -5, 1.5])
def test_wrong_message_sizes_are_refused(nbytes):
    for ask in (
        lambda: round_seconds(ring(4), ETHERNET, nbytes),
        lambda: elapsed(consensus(ring(4), 1), ETHERNET, nbytes),
        lambda: allreduce_seconds(4, ETHERNET, nbytes),
        lambda: advise(4, ETHERNET, nbytes),
    ):
        with pytest.raises(TopologyError, match="the number of bytes of"):
            ask()


# advice


def test_advice_for_24_ranks():
    rows = advise(24, ETHERNET, 100_000_000)
    by_label = {row.label: row for row in rows}
    assert len(by_label) == len(rows)
    assert set(CATALOGUE) <= set(by_label)
    taken = [row.seconds for row in rows if row.seconds is not None]
    assert taken == sorted(taken)
    assert all(row.seconds is not None for row in rows[: len(taken)])
    base = by_label["base_graph"]
    assert (base.kind, base.rounds, base.period, base.connected) == ("gossip", 6, 6, True)
    assert base.seconds == pytest.approx(6 * (0.08 + 50e-6))
    assert base.seconds_per_round == pytest.approx(0.08 + 50e-6)
    assert base.bytes_per_rank == 600_000_000
    assert base.reason == "exact after 6 rounds of one message each"
    assert by_label["exponential"].reason == "never exact at 24: 0.21 left after a sweep of 5 rounds"
    assert by_label["exponential,peers=2"].reason.endswith("2 messages a round share the network card")
    assert by_label["complete"].reason == "exact after 1 round of 23 messages, which share the network card"
    assert by_label["complete"].seconds == pytest.approx(23 * 0.08 + 50e-6)
    assert by_label["all-reduce"].seconds == allreduce_seconds(24, ETHERNET, 100_000_000)
    assert by_label["hypercube"].kind == "refused"
    assert "24 is no power of two" in by_label["hypercube"].reason
    assert by_label["hypercube"].seconds is None
    assert rows[-1].kind == "refused"


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_advice_for_any_size_is_json(size):
    for row in advise(size, ETHERNET, 1000):
        described = row.as_dict()
        assert json.loads(json.dumps(described, allow_nan=False)) == described
        assert described["label"] == row.label
        assert row.connected == (row.kind != "refused")
        assert (
            row.kind == "refused" or row.seconds is None or row.seconds <= 10_000 * row.seconds_per_round * 1.01 + 1e-9
        )


def test_advice_is_simulated_with_the_error_asked_for():
    for error in (0.3, 0.01, 1e-6):
        (row,) = [row for row in advise(12, ETHERNET, 1000, error, names=["ring"]) if row.name == "ring"]
        assert row.rounds == rounds_to(ring(12), error)
        assert row.contraction == pytest.approx(contraction(ring(12)))
        assert row.reason.startswith(f"one graph for all rounds: each leaves {contraction(ring(12)):.2g} of the")


def test_advice_names_graphs_that_never_agree_in_time():
    (row,) = [row for row in advise(2000, ETHERNET, 1000, names=["ring"]) if row.name == "ring"]
    assert (row.seconds, row.rounds, row.bytes_per_rank) == (None, None, None)
    assert row.seconds_per_round is not None
    assert "left after 10000 rounds, as many as are simulated" in row.reason


def lopsided(size: int) -> Topology:
    """A factory of the user."""
    return from_networkx(nx.path_graph(size))


def test_names_take_options_and_factories():
    rows = advise(12, ETHERNET, 1000, names=["base_graph,peers=2", "ring,directed=True", f"{__name__}:lopsided"])
    assert {row.label for row in rows} == {
        "all-reduce",
        "base_graph,peers=2",
        "ring,directed=True",
        f"{__name__}:lopsided",
    }
    assert next(row for row in rows if row.name == "base_graph").rounds == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rign", "did you mean ring"),
        ("base_graph(peers=2)", r"there is no topology 'base_graph\(peers=2\)'"),
        ("base_graph,peers", "there is no topology 'base_graph,peers'"),
        ("ring,colour=3", "colour"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(SpecError, match=message):
        advise(12, ETHERNET, 1000, names=[name])


@pytest.mark.parametrize("error", [0, 1, -0.1, float("nan")])
def test_an_error_outside_0_to_1_is_refused(error):
    with pytest.raises(TopologyError, match="cannot be aimed at"):
        advise(4, ETHERNET, 1000, error)
