"""Peers do what their papers and manuals say when the benchmark drives them; absent peers are left out with a word.

In each test g_i is the gradient of rank i, the same in every step. γ is the learning rate, and z_i(t) are the
parameters after t steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from spawn import mpirun, run_mpirun
from workers.peers import NBYTES, PERIOD, STEPS

import gossip
from bench.measuring.models import Layers, sleep
from bench.peers import PEERS, YARDSTICK
from bench.shared.methods import METHODS
from bench.update import columns, matrix
from bench.update import command as update
from gossip import UsageError, World
from gossip.launching.launchers import Launcher

Array = npt.NDArray[np.float64]

γ = 1e-3
τ = PERIOD
CLOSE = 1e-5
"""Of float32 parameters around 1 after a few sums; what is told apart below differs by about 1e-3."""


class Ran(NamedTuple):
    """The ranks' results: z[i, t] are parameters, g[i] gradients, and counters of each rank."""

    z: Array
    g: Array
    bytes_sent: list[float]
    waits: list[float]


def ran(folder: Path, size: int, *names: str) -> dict[str, Ran]:
    for name in names:
        package = PEERS[name].package
        if package is not None:
            pytest.importorskip(package.replace("-", "_"), reason=f"{package} comes with the extra `peers`")
    ranks = mpirun(size, "workers.peers", folder, *names)
    found = {}
    for name in names:
        z, g, counted = (np.stack([rank[f"{name}/{what}"] for rank in ranks]) for what in ("z", "gradient", "counted"))
        assert (counted[:, 0] == STEPS).all()
        found[name] = Ran(z, g, counted[:, 1].tolist(), counted[:, 2].tolist())
    return found


def close(z: Array, expected: Array) -> None:
    np.testing.assert_allclose(z, np.broadcast_to(expected, z.shape), atol=CLOSE, rtol=0)


def agree(z: Array) -> bool:
    return bool(np.abs(z - z.mean(axis=0)).max() < CLOSE)


@pytest.mark.slow
def test_torchs_own(tmp_path: Path) -> None:
    found = ran(tmp_path, 2, "ddp", "ddp-overlap", "post-local-sgd")
    for name in ("ddp", "ddp-overlap"):
        z, g, sent, waits = found[name]
        for t in range(STEPS + 1):
            # z(t) = z(0) − γ t ḡ on every rank
            close(z[:, t], z[0, 0] - γ * t * g.mean(axis=0))
        assert sent == [STEPS * NBYTES] * 2
        assert min(waits) > 0
    z, g, sent, waits = found["post-local-sgd"]
    for t in range(1, STEPS + 1):
        # an average in the first step and each τ-th after it, steps of its own on each rank from there
        last = (t - 1) // τ * τ + 1
        close(z[:, t], z[0, 0] - γ * last * g.mean(axis=0) - γ * (t - last) * g)
        assert agree(z[:, t]) == (t == last)
    assert sent == [STEPS / τ * NBYTES] * 2
    assert min(waits) > 0


def test_decent_dp_averages_pairs_while_it_computes(tmp_path: Path) -> None:
    for name, (z, g, sent, _) in ran(tmp_path, 4, "decent-dp", "decent-dp-ring").items():
        met: list[set[int]] = [set() for _ in range(4)]
        for t in range(STEPS):
            # z_i(t+1) = (z_i(t) + z_p(t)) / 2 − γ g_i: what travelled was there before this update
            came_from = z[:, t + 1] + γ * g
            for i in range(4):
                apart = [np.abs((z[i, t] + z[p, t]) / 2 - came_from[i]).max() for p in range(4)]
                peer = int(np.argmin(apart))
                assert apart[peer] < CLOSE, (name, t, i, apart)
                met[i].add(peer)
            close(z[:, t + 1].mean(axis=0), z[:, t].mean(axis=0) - γ * g.mean(axis=0))
        assert met == ([{1, 2}, {0, 3}, {3, 0}, {2, 1}] if name == "decent-dp" else [{1, 3}, {0, 2}, {3, 1}, {2, 0}])
        assert sent == [STEPS * NBYTES] * 4


def test_torchft_averages_every_period(tmp_path: Path) -> None:
    found = ran(tmp_path, 2, "torchft", "torchft-diloco")
    z, g, *_ = found["torchft"]
    for t in range(STEPS + 1):
        last = t // τ * τ
        close(z[:, t], z[0, 0] - γ * last * g.mean(axis=0) - γ * (t - last) * g)
        assert agree(z[:, t]) == (t == last)
    z, g, *_ = found["torchft-diloco"]
    close(z[:, τ - 1], z[0, 0] - γ * (τ - 1) * g)
    # d = γτḡ; the first Nesterov step is 0.7 (1 + 0.9) d, and in the second the momentum is (1 + 0.9) d
    d = γ * τ * g.mean(axis=0)
    close(z[:, τ], z[0, 0] - 0.7 * 1.9 * d)
    close(z[:, 2 * τ], z[0, 0] - 0.7 * (1.9 + 1 + 0.9 * 1.9) * d)
    for each in found.values():
        assert each.bytes_sent == [STEPS / τ * NBYTES] * 2
        assert min(each.waits) > 0


def test_fairscale_gossips_and_its_slow_momentum_keeps_ranks_apart(tmp_path: Path) -> None:
    found = ran(tmp_path, 2, "fairscale-sgp", "fairscale-slowmo", "fairscale-local-slowmo")
    z, g, sent, waits = found["fairscale-sgp"]
    for t in range(STEPS + 1):
        # between two ranks a round of SGP is an exact average
        close(z[:, t], z[0, 0] - γ * t * g.mean(axis=0))
    assert sent == [STEPS * NBYTES] * 2
    assert min(waits) > 0
    for name in ("fairscale-slowmo", "fairscale-local-slowmo"):
        z, g, sent, _ = found[name]
        mean = g.mean(axis=0)
        close(z[:, τ - 1], z[0, 0] - γ * (τ - 1) * (g if "local" in name else mean))
        close(z[:, τ], z[0, 0] - γ * τ * mean)
        # u_1 = (x_0 − x_τ)/γ with the anchor after the first local step, z(0) − γ g_i: it differs between ranks, and
        # with it x_2τ = x_τ − γ (β u_1 + τ ḡ)
        close(z[:, 2 * τ], z[0, 0] - γ * (2 * τ * mean + 0.5 * (τ * mean - g)))
        assert not agree(z[:, 2 * τ])
        assert sent == [(STEPS / τ if "local" in name else STEPS) * NBYTES] * 2


def test_a_pass_restores_the_gradients_and_sleeps() -> None:
    def on_rank(world: World) -> None:
        task = sleep(4_000, world, 0.0)
        slopes = [parameter.grad for parameter in task.module.parameters()]
        passes, order = Layers(task.module.parameters(), 0.05), []
        for number, parameter in enumerate(task.module.parameters()):
            assert parameter.grad is None
            parameter.register_post_accumulate_grad_hook(lambda _, number=number: order.append(number))
        with torch.profiler.profile() as seen:
            loss = passes()
            assert not order
            loss.backward()
        assert order == list(range(len(slopes)))[::-1]
        for parameter, slope in zip(task.module.parameters(), slopes, strict=True):
            assert slope is not None
            assert parameter.grad is not None
            assert parameter.grad.data_ptr() == slope.data_ptr()
        assert max(event.time_range.end for event in seen.events() or ()) >= 50_000

    gossip.testing.run(1, on_rank)


def checked(*arguments: str, ranks: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    update.add_options(parser)
    given = parser.parse_args(arguments, argparse.Namespace(command="update"))
    update.check(given, Launcher("openmpi", rank=1, size=ranks))
    return given


@pytest.fixture
def nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchft", "decent_dp", "fairscale"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("nothing_is_missing")
@pytest.mark.parametrize(
    ("ranks", "arguments", "sentence"),
    [
        (6, "decent-dp", "--algorithms decent-dp: its one-peer exponential graph .* power of two.*, and there are 6"),
        (1, "decent-dp", "power of two"),
        (3, "decent-dp-ring", "their number is even, and there are 3"),
        (1, "fairscale-sgp", "at least 2 ranks"),
        (1, "fairscale-local-slowmo", "nobody to average with"),
        (2, "sgp,ddp --model mlp", "--algorithms ddp is another library's"),
    ],
)
def test_options_that_a_peer_cannot_run_with_are_refused(ranks: int, arguments: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        checked("--algorithms", *arguments.split(), ranks=ranks)


@pytest.mark.usefixtures("nothing_is_missing")
def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="set CUDA_VISIBLE_DEVICES="):
        checked("--algorithms", "none,ddp", ranks=2)
    assert checked("--algorithms", f"none,{YARDSTICK}", ranks=2).left_out == []


def test_peers_that_are_not_installed_are_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchft", "decent_dp"):
        monkeypatch.setitem(sys.modules, name, None)
    # 6 ranks are no matter to one that is not there
    given = checked("--algorithms", "none,torchft,decent-dp,ddp", ranks=6)
    assert given.algorithms == ["none", "ddp"]
    assert [sentence.split()[0] for sentence in given.left_out] == ["torchft", "decent-dp"]
    assert all("pip install 'gossip-runtime[peers]'" in sentence for sentence in given.left_out)


def test_peers_have_names_of_their_own_and_say_their_limits() -> None:
    assert not set(PEERS) & set(METHODS)
    titles = [known.title for known in matrix.KNOWN.values()]
    assert len(set(titles)) == len(titles)
    sentences = columns.limits([{"algorithm": name} for name in ("none", "ddp", "ddp", *PEERS)])
    assert len(sentences) == len(PEERS)
    assert all(sentence.endswith(".") and len(sentence) > 60 for sentence in sentences)


def test_the_yardstick_is_measured_last_and_once() -> None:
    few = {"sizes": [4], "compute": [0.1], "topologies": ["a"], "period": 3}
    cells = matrix.cells(argparse.Namespace(algorithms=[YARDSTICK, "none", "torchft"], **few))
    assert [(cell.name, cell.window) for cell in cells] == [("none", 1), ("torchft", 3), (YARDSTICK, 1)]


@pytest.mark.slow
def test_peers_in_the_same_run_and_table(tmp_path: Path) -> None:
    present = [name for name in PEERS if not PEERS[name].missing and name != YARDSTICK]
    # torchft cannot be imported, whether or not it is installed.
    script = "import sys; sys.modules['torchft'] = None; from bench.__main__ import main; sys.exit(main(sys.argv[1:]))"
    few = ["--sizes", "40kB", "--compute", "0.003", "--steps", "4", "--warmup", "1", "--period", "2"]
    asked = ["none", "sgp", *present, *({"torchft"} - set(present))]
    outcome = run_mpirun(
        2, ["-c", script, "update", *few, "--algorithms", ",".join(asked), "--out", str(tmp_path)], 110
    )
    assert outcome.code == 0, outcome.output[-4000:]
    record = json.loads((tmp_path / "update.json").read_text())
    names = [name for name in asked if not name.startswith("torchft")]
    assert [found["algorithm"] for found in record["results"]] == [*names, YARDSTICK]
    text = (tmp_path / "update.md").read_text()
    for found in record["results"]:
        name = found["algorithm"]
        assert found["seconds"]["median"] >= found["computing"]["median"] >= 0.003
        assert text.count(f"| {matrix.title(name)} |") == 2  # in the table, and by rank
        if name in PEERS:
            assert found["consensus"] is None if name == YARDSTICK else found["consensus"] < 0.1
            assert found["bytes_sent"] > 0
            assert (found["merging"] is None) == (name != YARDSTICK)
            assert record["peers"][name]["limits"] == PEERS[name].limits
            assert record["peers"][name]["version"]
            assert f"- {PEERS[name].title}: {PEERS[name].limits}\n" in text
            assert PEERS[name].title + ":" in outcome.output
    [first, *_] = record["settings"]["left_out"]
    assert first.startswith("torchft is left out")
    assert outcome.output.count(first) == 1
    assert first in text
    assert set(record["peers"]) == {*names, YARDSTICK} - {"none", "sgp"}
