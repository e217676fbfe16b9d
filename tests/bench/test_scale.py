"""The model of `bench scale`: closed forms where nothing is random, laws, a slow twin, fits, a paper, the command."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import code_of
from hypothesis import given, settings
from hypothesis import strategies as st

import topologies
from bench.scale import Cluster, Machine, Overhead, Point, calibrate, compare, read, simulate, traffics
from bench.scale import options as asked
from bench.scale.machine import COLLECTIVES
from bench.scale.report import fit_sentence, published
from bench.shared.methods import Traffic
from bench.shared.paper import IMAGENET
from gossip import UsageError
from gossip.transports.collective.sums import RING
from topologies.analysis.cost import Link, allreduce_seconds

ROOT = Path(__file__).resolve().parents[2]
NBYTES = 1_024_000
QUIET = Machine(compute=0.271, rate=100e6, latency=4e-4, merge=1e-9)
NOISY = replace(QUIET, jitter=0.05, tail=3.0)
τ = 6


def updates(
    machine: Machine, size: int, names: Sequence[str], *, spec: str = "exponential", level: bool = False, seed: int = 0
) -> dict[str, Any]:
    chosen = {name: traffics(τ)[name] for name in names}
    graph = topologies.load(spec, size)
    return simulate(chosen, Cluster(machine, size, seed), graph, NBYTES, steps=20 * τ, warmup=5 * τ, level=level)


def mean(machine: Machine, size: int, name: str, **more: Any) -> float:
    return float(updates(machine, size, [name], **more)[name].seconds.mean)


# -- closed forms ------------------------------------------------------------------------------------------------------

machines = st.builds(
    Machine,
    compute=st.sampled_from([0.0, 0.05, 0.271]),
    rate=st.sampled_from([1e8, 1e9, 1e10]),
    latency=st.sampled_from([0.0, 5e-5, 4e-3]),
    merge=st.sampled_from([0.0, 1e-9]),
)


@settings(deadline=None, max_examples=25)
@given(machine=machines, size=st.integers(2, 33))
def test_without_jitter_times_are_those_of_bytes_and_steps(machine: Machine, size: int) -> None:
    c, α, γB = machine.compute, machine.latency, machine.merge * NBYTES
    transfer = 8 * NBYTES / machine.rate
    volume = 2 * (size - 1) / size * transfer + γB * (size - 1) / size
    own = 2 * (size - 1 if size <= RING else math.ceil(math.log2(size))) * α + volume
    expected = {
        "none": c,
        "ar": c + own,
        "ar-ring": c + 2 * (size - 1) * α + volume,
        "exact": c + own,
        "local": c + own / τ,
        "sgp": c + α + transfer + γB,
        "osgp": max(c, α + transfer) + γB,
        "sgp-noaverage": c + α + transfer + γB,
        "sgp-slowmo": c + α + transfer + γB + own / τ,
        "osgp-slowmo": max(c, α + transfer) + γB + own / τ,
    }
    found = updates(machine, size, list(expected))
    for name, seconds in expected.items():
        assert found[name].seconds.mean == pytest.approx(seconds, rel=1e-9, abs=1e-12), name
        assert found[name].seconds.median == pytest.approx(seconds, rel=1e-9, abs=1e-12), name
        assert found[name].exposed == pytest.approx(seconds - c, rel=1e-9, abs=1e-9), name


@given(size=st.integers(2, 5000), α=st.sampled_from([0.0, 1e-5, 1e-2]))
def test_ring_and_tree_are_those_of_the_analysis(size: int, α: float) -> None:
    cluster = Cluster(Machine(0.0, rate=1e9, latency=α), size)
    ring, tree = (COLLECTIVES[name](cluster, NBYTES) for name in ("ring", "tree"))
    assert min(ring, tree) == pytest.approx(allreduce_seconds(size, Link(1e9, α), NBYTES))


@given(size=st.integers(2, 5000))
def test_the_circulant_has_few_rounds_and_the_least_bytes_for_any_number_of_ranks(size: int) -> None:
    def seconds(name: str, **one: float) -> float:
        machine = Machine(0.0, **{"rate": math.inf, "latency": 0.0, "merge": 0.0, **one})  # type: ignore[arg-type]
        return COLLECTIVES[name](Cluster(machine, size), NBYTES)

    assert seconds("circulant", latency=1.0) == 2 * math.ceil(math.log2(size))
    for volume in ({"rate": 8.0}, {"merge": 1.0}):
        assert seconds("circulant", **volume) == pytest.approx(seconds("ring", **volume))


@pytest.mark.parametrize(("size", "host"), [(16, 4), (12, 3), (12, 4), (8, 2), (24, 8), (10, 5)])
def test_bytes_of_the_circulant_through_a_hosts_link_are_counted(size: int, host: int) -> None:
    through, held = 0, size
    while held > 1:
        hop = -(-held // 2)
        leaving = sum((rank + hop) % size // host != 0 for rank in range(host))
        through, held = through + leaving * (held - hop), hop
    cluster = Cluster(Machine(0.0, rate=8.0, inside_rate=80.0, ranks_per_host=host), size)
    assert COLLECTIVES["circulant"](cluster, size) == pytest.approx(2 * through)


@given(power=st.integers(1, 12))
def test_collectives_on_powers_of_two(power: int) -> None:
    size, α, transfer = 2**power, 1e-4, 8 * NBYTES / 1e9
    cluster = Cluster(Machine(0.0, rate=1e9, latency=α, group=8), size)
    least = 2 * (size - 1) / size * transfer
    found = {name: each(cluster, NBYTES) for name, each in COLLECTIVES.items()}
    g = min(8, size)
    assert found["circulant"] == pytest.approx(2 * power * α + least)
    assert found["tree"] == pytest.approx(2 * power * α + least)
    assert found["binomial"] == pytest.approx(2 * power * (α + transfer))
    # In groups the ring's bytes take fewer steps.
    assert found["hierarchical"] == pytest.approx(2 * (g - 1 + size // g - 1) * α + least)


def test_ranks_of_a_host_share_its_link() -> None:
    machine = Machine(0.0, rate=1e9, inside_rate=8e9, ranks_per_host=4)
    transfer = 8 * NBYTES / 1e9
    cluster = Cluster(machine, 16)
    # B/4 in each of four rings of hosts, all through one link; inside, three of four parts there and back.
    expected = 2 * 3 / 4 * transfer / 8 + 2 * 3 / 4 * transfer
    assert COLLECTIVES["hierarchical"](cluster, NBYTES) == pytest.approx(expected)
    assert COLLECTIVES["tree"](cluster, NBYTES) == pytest.approx(expected)
    assert COLLECTIVES["ring"](cluster, NBYTES) == pytest.approx(2 * 15 / 16 * transfer)
    # One host alone never uses its link.
    assert mean(machine, 4, "ar") == pytest.approx(2 * 3 / 4 * transfer / 8)
    # Rounds of exponential(16): hops of 1 leave a host once, of 2 twice, of 4 and 8 four times at a time.
    assert mean(machine, 16, "sgp", level=True) == pytest.approx(_shared_rounds(transfer), rel=0.02)


def _shared_rounds(transfer: float) -> float:
    # Means over ranks: of four, the hop of 1 makes two wait for the link (one sends, one receives), of 2 all four.
    inside = transfer / 8
    return (2 / 4 * inside + 2 / 4 * transfer + 2 * transfer + 4 * transfer + 4 * transfer) / 4


# -- laws --------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(size=st.integers(2, 40), seed=st.integers(0, 99), tail=st.sampled_from([None, 2.5]))
def test_methods_that_wait_for_more_are_never_faster(size: int, seed: int, tail: float | None) -> None:
    machine = Machine(0.271, rate=1e8, jitter=0.1, tail=tail)
    found = updates(machine, size, ["none", "osgp", "sgp", "sgp-slowmo", "exact", "osgp-slowmo", "local"], seed=seed)
    took = {name: each.seconds.mean for name, each in found.items()}
    slack = 1 + 1e-12
    assert took["none"] <= took["osgp"] * slack
    assert took["osgp"] <= took["sgp"] * slack
    assert took["sgp"] <= took["sgp-slowmo"] * slack
    assert took["sgp"] <= took["exact"] * slack
    assert took["osgp"] <= took["osgp-slowmo"] * slack <= took["sgp-slowmo"] * slack**2
    assert took["none"] <= took["local"] * slack <= took["exact"] * slack**2


@pytest.mark.parametrize("name", ["ar", "local", "sgp", "osgp"])
@pytest.mark.parametrize("tail", [None, 4.0])
def test_more_jitter_makes_nothing_faster(name: str, tail: float | None) -> None:
    took = [mean(replace(QUIET, jitter=jitter, tail=tail), 64, name) for jitter in (0.0, 0.03, 0.1, 0.3)]
    assert took == sorted(took)
    assert took[-1] > took[0] * 1.02


@pytest.mark.parametrize("name", ["ar", "ar-tree", "sgp", "osgp", "osgp-slowmo"])
def test_slower_hosts_links_and_latencies_make_nothing_faster(name: str) -> None:
    base = mean(NOISY, 16, name)
    for slower in (
        replace(NOISY, rate=NOISY.rate / 2),
        replace(NOISY, latency=0.01),
        replace(NOISY, merge=1e-8),
        replace(NOISY, slow_share=1 / 16, slow_compute=1.5),
        replace(NOISY, slow_share=1 / 16, slow_rate=4),
    ):
        assert mean(slower, 16, name) >= base
    assert mean(replace(NOISY, eager=True), 16, name) <= base * (1 + 1e-12)


def test_one_slow_host_sets_the_pace_of_ranks_that_wait_for_it() -> None:
    machine = replace(QUIET, latency=0.0, merge=0.0, slow_share=1 / 8, slow_compute=2.0)
    transfer = 8 * NBYTES / QUIET.rate
    assert mean(machine, 8, "ar") == pytest.approx(2 * 0.271 + 7 / 4 * transfer)
    assert mean(machine, 8, "sgp") == pytest.approx(2 * 0.271 + transfer)
    assert mean(machine, 8, "osgp") == pytest.approx(2 * 0.271)
    # Alone the others go on.
    assert mean(machine, 8, "none") == pytest.approx(0.271 * 9 / 8)


def test_a_slow_link_costs_the_methods_what_they_send_through_it() -> None:
    machine = replace(QUIET, latency=0.0, merge=0.0, slow_share=1 / 8, slow_rate=4.0)
    transfer = 4 * 8 * NBYTES / QUIET.rate
    assert mean(machine, 8, "ar") == pytest.approx(0.271 + 7 / 4 * transfer)
    assert mean(machine, 8, "sgp") == pytest.approx(0.271 + transfer, rel=1e-3)
    assert mean(machine, 8, "osgp") == pytest.approx(transfer, rel=1e-3)


@pytest.mark.parametrize(("share", "slow"), [(0.0, 0), (0.01, 0), (0.07, 1), (0.125, 1), (0.5, 4), (1.0, 8)])
def test_slow_hosts_are_whole_hosts(share: float, slow: int) -> None:
    cluster = Cluster(replace(QUIET, slow_share=share, slow_rate=2.0, ranks_per_host=2), 16)
    assert (cluster.rates < QUIET.rate).sum() == slow


@pytest.mark.parametrize("tail", [None, 2.5, 4.0])
def test_compute_has_the_mean_the_jitter_and_the_tail_that_were_asked_for(tail: float | None) -> None:
    machine = Machine(0.2, rate=1e9, jitter=0.05, tail=tail)
    drawn = np.concatenate(list(islice(Cluster(machine, 100_000, seed=3).computes(), 5)))
    assert drawn.mean() == pytest.approx(0.2, rel=1e-3)
    if tail != 2.5:  # whose variance hardly converges
        assert drawn.std() == pytest.approx(0.01, rel=0.1)
    assert drawn.min() > 0
    # Half a million normal draws stay within 5.5 standard deviations; a Pareto tail goes far beyond.
    assert (drawn.max() > 0.2 + 0.01 * 12) == (tail is not None)


def test_from_a_barrier_nobody_waits_for_compute() -> None:
    found = updates(NOISY, 16, ["none", "sgp", "ar"], level=True)
    line = QUIET.latency + 8 * NBYTES / QUIET.rate + QUIET.merge * NBYTES
    assert found["sgp"].exposed == pytest.approx(line)
    assert updates(NOISY, 16, ["sgp"])["sgp"].exposed > line * 1.1


def test_bytes_are_counted() -> None:
    found = updates(QUIET, 8, ["none", "ar", "sgp", "osgp-slowmo", "local"])
    ring = 2 * 7 / 8 * NBYTES
    sent = {name: each.sent for name, each in found.items()}
    expected = {"none": 0, "ar": ring, "sgp": NBYTES, "osgp-slowmo": NBYTES + ring / τ, "local": ring / τ}
    assert sent == pytest.approx(expected)
    assert updates(QUIET, 16, ["sgp"], spec="exponential,peers=3")["sgp"].sent == pytest.approx(3 * NBYTES)


def test_the_seed_fixes_everything() -> None:
    names = ["ar", "sgp", "osgp"]
    first = updates(NOISY, 24, names, seed=7)
    assert updates(NOISY, 24, names, seed=7) == first
    assert updates(NOISY, 24, ["osgp"], seed=7)["osgp"] == first["osgp"]
    assert updates(NOISY, 24, names, seed=8) != first


# -- a slow twin -------------------------------------------------------------------------------------------------------


def slowly(machine: Machine, size: int, method: Traffic, graph: topologies.Topology, steps: int) -> list[list[float]]:
    """Done times by update and rank, one message at a time; links of one rank each, exact averages as the runtime's."""
    cluster = Cluster(machine, size)
    rate, B, γ = cluster.rates.tolist(), NBYTES, machine.merge
    ready, landed, free = [0.0] * size, [0.0] * size, [0.0] * size
    merges = [0] * size
    rounds = 0
    history = []

    def flights(posted: list[float]) -> None:
        nonlocal rounds
        turns = [graph.turn(rank, rounds) for rank in range(size)]
        ends = list(posted)
        came = list(free)
        for j, turn in enumerate(turns):
            for i in turn.sends:
                start = max(posted[j], free[i] if machine.eager else posted[i])
                bits = 8 * B * max(len(turn.sends) / rate[j], len(turns[i].receives) / rate[i])
                arrival = start + machine.latency + bits
                ends[i], ends[j] = max(ends[i], arrival), max(ends[j], arrival)
                came[i] = max(came[i], arrival)
        free[:] = came
        landed[:] = ends
        merges[:] = [len(turn.receives) for turn in turns]
        rounds += 1

    for step, seconds in enumerate(islice(cluster.computes(), steps)):
        done = [ready[i] + float(seconds[i]) for i in range(size)]
        if method.overlap == 0:
            flights(done)
            done = [landed[i] + merges[i] * γ * B for i in range(size)]
        if method.overlap == 1:
            done = [max(done[i], landed[i]) + merges[i] * γ * B for i in range(size)]
        if any((step + 1) % every == 0 for every in method.averages):
            sent = (size - 1) / size * B
            rounds_of_sum = 2 * (size - 1)  # a ring, as far as these sizes go
            average = rounds_of_sum * machine.latency + 2 * 8 * sent / min(rate) + γ * sent
            done = [max(done) + average] * size
        if method.overlap == 1:
            flights(done)
        ready = done
        history.append(ready)
    return history


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    ("spec", "size"), [("exponential", 8), ("ring", 5), ("base_graph", 6), ("static_exponential", 9)]
)
@pytest.mark.parametrize("name", ["local", "sgp", "osgp", "sgp-slowmo", "osgp-slowmo"])
def test_clocks_are_those_of_the_slow_twin(name: str, spec: str, size: int, eager: bool) -> None:
    machine = replace(NOISY, compute=0.1, jitter=0.3, slow_share=0.2, slow_rate=2.0, slow_compute=1.2, eager=eager)
    graph, method = topologies.load(spec, size), traffics(τ)[name]
    ready = np.array([[0.0] * size, *slowly(machine, size, method, graph, 7 * τ)])
    took = np.diff(ready, axis=0)[τ:]
    found = simulate({"": method}, Cluster(machine, size), graph, NBYTES, steps=6 * τ, warmup=τ)[""]
    windows = took.reshape(-1, method.window, size).mean(axis=1)
    assert found.seconds.mean == pytest.approx(took.mean(), rel=1e-9)
    assert found.seconds.median == pytest.approx(np.median(windows), rel=1e-9)
    assert found.seconds.p90 == pytest.approx(np.percentile(windows, 90), rel=1e-9)


# -- size --------------------------------------------------------------------------------------------------------------


def test_65536_ranks_take_seconds_and_little_memory() -> None:
    size = 65_536
    chosen = {name: traffics(τ)[name] for name in ("none", "ar-ring", "sgp", "osgp", "osgp-slowmo")}
    machine = Machine(0.271, rate=1e10, latency=5e-5, jitter=0.03, tail=4.0)
    tracemalloc.start()
    began = time.perf_counter()
    found = simulate(chosen, Cluster(machine, size), topologies.exponential(size), 102_400_000, steps=96, warmup=24)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 30
    assert peak < 200e6
    assert found["osgp"].seconds.mean < found["sgp"].seconds.mean < found["ar-ring"].seconds.mean
    assert found["ar-ring"].seconds.mean > 0.271 + 2 * (size - 1) * 5e-5


# -- measured files ----------------------------------------------------------------------------------------------------

MEASURED = Machine(compute=0.0, rate=94e6, latency=7e-4, merge=8e-10, jitter=0.004)
OVERHEAD = Overhead(fixed=4e-4, per_byte=2e-10)
NAMES = ["none", "line", "ar", "exact", "sgp", "osgp", "local", "sgp-slowmo", "osgp-slowmo", "sgp-noaverage"]


def figures(seconds: float, spread: float = 0.0) -> dict[str, float]:
    return {
        "median": seconds,
        "p10": seconds * (1 - 1.2816 * spread),
        "p90": seconds * (1 + 1.2816 * spread),
        "mean": seconds,
    }


def write_record(path: Path, ranks: int, results: list[dict[str, Any]], compute: float, period: int = τ) -> Path:
    asked_for = {"compute": compute, "period": period, "topology": "exponential"}
    path.write_text(json.dumps({"benchmark": "update", "ranks": ranks, "settings": asked_for, "results": results}))
    return path


def measured(folder: Path, ranks: int, *, noise: float = 0.005, compute: float = 0.15, off: float = 1.0) -> Path:
    """A record as `bench update` would write it on such hosts; `off` times as long for SGP with SlowMo."""
    rng = np.random.default_rng(ranks)
    results = []
    for nbytes in (NBYTES, 4 * NBYTES):
        for name in NAMES:
            line = name == "line"
            machine = replace(MEASURED, compute=0.0 if line else compute + OVERHEAD.seconds(nbytes))
            machine = replace(machine, merge=0.0) if line else machine
            method = traffics(τ)["sgp" if line else name]
            graph = topologies.exponential(ranks)
            found = simulate({"": method}, Cluster(machine, ranks, 5), graph, nbytes, 20 * τ, τ, level=method.blocking)
            seconds = found[""].seconds.median * (1 + noise * rng.standard_normal())
            seconds *= off if name == "sgp-slowmo" else 1.0
            each = {"algorithm": name, "bytes": nbytes, "seconds": figures(seconds, MEASURED.jitter)}
            results.append(each)
    results.append({"algorithm": "torch-allreduce", "bytes": NBYTES, "seconds": figures(1.0)})
    return write_record(folder / f"measured-{ranks}.json", ranks, results, compute)


def test_calibration_recovers_the_parameters(tmp_path: Path) -> None:
    points = [point for ranks in (2, 4, 8) for point in read(measured(tmp_path, ranks, noise=0.001))[0]]
    fitted = calibrate(points, QUIET)
    assert fitted.rate == pytest.approx(MEASURED.rate, rel=0.01)
    assert fitted.latency == pytest.approx(MEASURED.latency, rel=0.15)
    assert fitted.merge == pytest.approx(MEASURED.merge, rel=0.5)
    for nbytes in (NBYTES, 4 * NBYTES):
        assert fitted.overhead.seconds(nbytes) == pytest.approx(OVERHEAD.seconds(nbytes), abs=2e-4)
    assert fitted.jitter == pytest.approx(MEASURED.jitter, rel=0.05)
    assert fitted.error is not None
    assert fitted.error < 0.003
    assert {point.algorithm for point in fitted.points} == {"none", "line", "exact", "sgp"}


def test_calibration_of_exact_figures_is_exact(tmp_path: Path) -> None:
    machine = replace(MEASURED, jitter=0.0)
    points = []
    for ranks in (2, 8):
        for name, nbytes in product(("none", "exact", "sgp"), (NBYTES, 3 * NBYTES)):
            asked_for = Point(tmp_path, name, ranks, nbytes, 0.1, None, τ, "exponential", 1.0, 0.0, True)
            points += [
                asked_for._replace(seconds=each.predicted) for each in compare([asked_for], machine, overhead=OVERHEAD)
            ]
    fitted = calibrate(points, QUIET)
    assert fitted.rate == pytest.approx(MEASURED.rate)
    assert fitted.latency == pytest.approx(MEASURED.latency)
    assert fitted.merge == pytest.approx(MEASURED.merge)
    assert fitted.overhead._asdict() == pytest.approx(OVERHEAD._asdict())
    assert fitted.error is not None
    assert fitted.error < 1e-9


def test_parameters_that_points_do_not_determine_are_zero(tmp_path: Path) -> None:
    results = [
        {"algorithm": "none", "bytes": NBYTES, "seconds": figures(0.1)},
        {"algorithm": "sgp", "bytes": NBYTES, "seconds": figures(0.2)},
    ]
    fitted = calibrate(read(write_record(tmp_path / "few.json", 4, results, 0.1))[0], QUIET)
    assert (fitted.latency, fitted.merge) == (0, 0)
    assert fitted.rate == pytest.approx(8 * NBYTES / 0.1)
    assert fitted.error is None
    assert "nothing says how well it fits" in fit_sentence(fitted)


def test_figures_of_eight_hosts_at_100_mbit(tmp_path: Path) -> None:
    """An emulated cluster, 1.024 MB, 271 ms by sleep: three figures tell the parameters, and these the others."""
    line, alone, exact = 0.0830, 0.2714, 0.4207
    results = [
        {"algorithm": "none", "bytes": NBYTES, "seconds": figures(alone)},
        {"algorithm": "line", "bytes": NBYTES, "seconds": figures(line)},
        {"algorithm": "exact", "bytes": NBYTES, "seconds": figures(exact)},
    ]
    fitted = calibrate(read(write_record(tmp_path / "8.json", 8, results, 0.271, period=48))[0], QUIET)
    assert fitted.rate == pytest.approx(100e6, rel=0.02)
    machine = fitted.onto(QUIET)
    others = {"sgp": 0.3548, "osgp": 0.2722, "osgp-slowmo": 0.2759, "osgp-noaverage": 0.2724, "exact": exact}
    points = [
        Point(tmp_path, name, 8, NBYTES, 0.271, alone, 48, "exponential", seconds, 0.0, True)
        for name, seconds in others.items()
    ]
    for each in compare(points, machine, fitted.overhead):
        assert abs(each.error) < 0.01, each


def test_the_papers_table_follows_from_bytes_over_bandwidth() -> None:
    found = {row["method"]: row for row in published()}
    assert set(found) == set(IMAGENET.seconds)
    for name, row in found.items():
        # The paper's SGP hides part of its transfer.
        assert (abs(row["error"]) <= 0.12) == (not name.startswith("sgp")), row
    assert found["ar"]["model"] == pytest.approx(0.271 + 2 * 31 / 32 * 0.08192)
    model = [found[name]["model"] for name in ("osgp", "local", "sgp", "ar")]
    assert model == sorted(model)


def test_records_of_bench_update_are_read() -> None:
    points, unknown = read(ROOT / "bench" / "results" / "update.json")
    assert {"none", "exact", "sgp", "osgp"} <= {point.algorithm for point in points}
    assert all(point.ranks > 1 and point.seconds > 0 and point.alone for point in points)
    assert "sgp" not in unknown


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nothing", "is no JSON"),
        ("[]", "was not written by `python -m bench update`"),
        ('{"benchmark": "digits"}', "was not written by `python -m bench update`"),
        ('{"benchmark": "update", "results": [], "settings": {}}', ""),
        ('{"benchmark": "update", "results": [{"bytes": 1}], "settings": {}}', "is not as `python -m bench update`"),
    ],
)
def test_other_files_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    if not sentence:
        assert read(path)[0] == []
        return
    with pytest.raises(UsageError, match=sentence):
        read(path)


# -- the command -------------------------------------------------------------------------------------------------------


def scale(folder: Path, *arguments: str) -> int:
    """The exit code."""
    quick = [
        "--steps",
        "48",
        "--warmup",
        "12",
        "--json",
        str(folder / "a" / "s.json"),
        "--picture",
        f"{folder}/b/s.png",
    ]
    return code_of("scale", *quick, *arguments)


def test_the_command_and_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale(tmp_path, "--ranks", "2..64", "--published") == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("AR ring", "OSGP-SlowMo", "exposed", "ImageNet", "part of its transfer", "10 Gbit/s")
    )
    record = json.loads((tmp_path / "a" / "s.json").read_text())
    assert record["benchmark"] == "scale"
    assert record["fitted"] is None
    assert record["model"]["rate"] == 10e9
    assert {result["ranks"] for result in record["results"]} == {2, 4, 8, 16, 32, 64}
    assert {result["method"] for result in record["results"]} == set(asked.DEFAULT.split(","))
    for result in record["results"]:
        assert set(result["seconds"]) == {"median", "p10", "p90", "mean"}
        assert result["seconds"]["mean"] == pytest.approx(0.271 + result["exposed"], rel=0.01)
    assert (tmp_path / "b" / "s.png").read_bytes().startswith(b"\x89PNG")
    assert len(record["published"]) == len(IMAGENET.seconds)
    first = record["results"]
    assert scale(tmp_path, "--ranks", "8,64", "--methods", "osgp,sgp", "--seed", "0") == 0
    again = json.loads((tmp_path / "a" / "s.json").read_text())["results"]
    assert all(result in first for result in again)


def test_predictions_are_compared_with_measured_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(measured(tmp_path, ranks)) for ranks in (2, 4, 8, 16)]
    few = ["--ranks", "2..8", "--compute", "0.15", "--size", "1.024MB"]
    assert scale(tmp_path, *few, "--measured", *files[:2], "--validate", *files) == 0
    said = capsys.readouterr().out
    assert "fitted to 16 points of 2 files" in said
    assert " %  missed" not in said
    assert "not in the model: torch-allreduce" in said
    record = json.loads((tmp_path / "a" / "s.json").read_text())
    assert record["model"]["rate"] == pytest.approx(MEASURED.rate, rel=0.02)
    assert record["model"]["compute"] == pytest.approx(0.15 + OVERHEAD.seconds(NBYTES), abs=1e-3)
    # Of four files of 20 points, all but those that were fitted to.
    assert len(record["validation"]) == 4 * 20 - 16
    assert max(abs(each["error"]) for each in record["validation"]) < 0.03

    # An option given by hand wins.
    assert scale(tmp_path, *few, "--measured", *files[:2], "--rate", "50mbit", "--validate", files[2]) == 1
    assert "points are missed by more than 10 %" in capsys.readouterr().err


def test_a_missed_point_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(measured(tmp_path, 4, off=1.2))
    few = ["--ranks", "2", "--measured", file, "--validate", file]
    assert scale(tmp_path, *few) == 1
    said = capsys.readouterr()
    assert said.out.count(" %  missed") == 2
    assert "2 of 12 points are missed by more than 10 %" in said.err
    assert (tmp_path / "a" / "s.json").exists()
    assert scale(tmp_path, *few, "--within", "25") == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ranks", "1"], "numbers of ranks go up from 2"),
        (["--ranks", "8..2"], "numbers of ranks go up from 2"),
        (["--ranks", "many"], "'many' is not a whole number"),
        (["--ranks", "2..9999999"], "numbers of ranks go up from 2 to 1048576"),
        (["--methods", "sgp,magic"], "'magic' is not one of none, ar"),
        (["--tail", "2"], "so heavy a tail has no standard deviation"),
        (["--jitter", "2"], "'2' is no share"),
        (["--slow-hosts", "-1"], "'-1' is no share"),
        (["--slow-rate", "0.5"], "'0.5' is below 1"),
        (["--slow-hosts", "0.1"], "--slow-hosts without --slow-compute or --slow-rate would change nothing"),
        (["--slow-rate", "4"], "--slow-compute and --slow-rate without --slow-hosts would change nothing"),
        (["--fit", "sgp"], "--fit without --measured would change nothing"),
        (["--within", "5"], "--within without --validate would change nothing"),
        (["--rate", "fast"], "'fast' is not a rate"),
        (["--latency", "50"], "'50' is not a time"),
        (["--period", "49"], "--steps 48 is less than one period, 49, of sgp-slowmo"),
        (["--ranks-per-host", "8"], "--ranks-per-host 8 needs --inside-rate"),
        (["--topology", "one_peer_hypercube", "--ranks", "6"], "--topology one_peer_hypercube: "),
        (["--topology", "complete", "--ranks", "8192"], "more than 4,194,304: ask for fewer --ranks"),
        (["--picture", "curves.doc"], "its name ends in none of .png"),
        (["--measured", "/nowhere/update.json"], "/nowhere/update.json cannot be read: No such file"),
        (["--validate", "/nowhere/update.json"], "/nowhere/update.json cannot be read: No such file"),
        (["--json", "/proc/nowhere/s.json"], "cannot make the folder /proc/nowhere"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scale(tmp_path, *arguments) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert not said.out


def test_files_without_points_to_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = write_record(
        tmp_path / "n.json", 4, [{"algorithm": "none", "bytes": 8, "seconds": figures(0.1)}], compute=0.1
    )
    assert scale(tmp_path, "--measured", str(alone)) == 2
    assert "nothing to fit a rate to" in capsys.readouterr().err
    file = measured(tmp_path, 2)
    inside = ["--ranks-per-host", "2", "--inside-rate", "1gbit"]
    assert scale(tmp_path, "--measured", str(file), *inside) == 2
    assert "the link of one rank a host" in capsys.readouterr().err
    only = read(file)[0][0].algorithm
    assert only == "none"
    everything = ["--fit", ",".join(NAMES), "--validate", str(alone), "--measured", str(file), str(alone)]
    assert scale(tmp_path, *everything) == 2
    assert "these files hold no point that was not fitted to" in capsys.readouterr().err


def test_an_unknown_graph_is_refused_before_simulating(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = {"algorithm": "sgp", "bytes": 8, "seconds": figures(0.1), "topology": "my_graphs:swing"}
    file = write_record(tmp_path / "own.json", 4, [result], compute=0.1)
    assert scale(tmp_path, "--validate", str(file)) == 2
    said = capsys.readouterr()
    assert f"{file} was measured on my_graphs:swing, which cannot be had" in said.err
    assert not said.out


def test_curves_of_nothing_are_drawn_too(tmp_path: Path) -> None:
    assert scale(tmp_path, "--compute", "0", "--ranks", "2,4") == 0
    assert scale(tmp_path, "--compute", "0", "--ranks", "2,4", "--methods", "none") == 0
    assert (tmp_path / "b" / "s.png").read_bytes().startswith(b"\x89PNG")


def test_it_wants_no_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", 0), ("SIZE", 2), ("LOCAL_RANK", 0), ("LOCAL_SIZE", 2)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    assert scale(tmp_path) == 2
    assert "start it as `python -m bench scale`, by itself" in capsys.readouterr().err
