"""Repeated and resumed runs have the same bits as an uninterrupted run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from workers.resume import BASES, RUNS, SPAWNED, STEPS, WRAPS, begin, interrupted, straight

import gossip
import slowmo
import topologies
from gossip import testing

SIZE = 3
EVERY_BASE = pytest.mark.parametrize("base", BASES)
EVERY_WRAP = pytest.mark.parametrize("wrap", WRAPS)


@EVERY_WRAP
@EVERY_BASE
def test_repeated_run_has_the_same_bits(wrap: str, base: str) -> None:
    """The second run makes a state_dict after each step, which changes nothing."""
    once = testing.run(SIZE, lambda world: straight(world, wrap, base))
    again = testing.run(SIZE, lambda world: straight(world, wrap, base, ask=True))
    assert once == again
    assert np.isfinite(once[0]["now"]).all()


@EVERY_WRAP
@EVERY_BASE
@pytest.mark.parametrize("at", [1, 7, 10])
def test_resumed_run_has_the_same_bits(wrap: str, base: str, at: int, tmp_path: Path) -> None:
    """Through a file, within an outer iteration and at its end, with messages in flight."""
    once = testing.run(SIZE, lambda world: straight(world, wrap, base))
    resumed = testing.run(SIZE, lambda world: interrupted(world, wrap, base, at, tmp_path))
    assert once == resumed


@pytest.mark.parametrize("wrap", ["slowmo, overlap 1", "slowmo, overlap 2", "every third"])
def test_state_dict_holds_messages_in_flight(wrap: str) -> None:
    """Weight is in flight at these steps, so a resumed run without it would differ."""

    def run(world: gossip.World) -> tuple[float, float]:
        training = begin(world, wrap, "sgd")
        training.train(world.rank, range(7))
        held = training.optimizer.weight
        training.state()
        assert training.optimizer.weight == held
        training.optimizer.settle()
        return held, training.optimizer.weight

    held, settled = (sum(weights) for weights in zip(*testing.run(SIZE, run), strict=True))
    assert held < 0.9 * SIZE
    assert settled == pytest.approx(SIZE, abs=1e-12)


@EVERY_WRAP
def test_state_of_the_same_run_can_be_loaded(wrap: str) -> None:
    """The run itself may load its older state; messages in flight are then dropped."""

    def run(world: gossip.World) -> dict[str, Any]:
        training = begin(world, wrap, "sgd")
        training.train(world.rank, range(6))
        saved = copy.deepcopy(training.state())
        training.train(world.rank, range(6, 11))
        training.load(saved)
        training.train(world.rank, range(6, STEPS))
        return training.bits()

    assert testing.run(SIZE, run) == testing.run(SIZE, lambda world: straight(world, wrap, "sgd"))


def linear(value: float) -> torch.nn.Module:
    model = torch.nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 4, generator=torch.Generator().manual_seed(number))).square().mean().backward()
    optimizer.step()


def slow_osgp(world: gossip.World, base: torch.optim.Optimizer) -> slowmo.SlowMo:
    osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    return slowmo.SlowMo(gossip.GossipOptimizer(base, osgp), gossip.NoAverage(), period=3, momentum=0)


@pytest.mark.filterwarnings("ignore:this state holds no 'gossip'")
@EVERY_BASE
def test_state_of_the_plain_optimizer_can_be_loaded(base: str) -> None:
    """The wrappers continue from the optimizer's own state; on one rank they change no bit."""
    plain = linear(0.5)
    optimizer = BASES[base](plain.parameters())
    for number in range(4):
        step(plain, optimizer, number)
    saved = copy.deepcopy([plain.state_dict(), optimizer.state_dict()])
    for number in range(4, 8):
        step(plain, optimizer, number)

    def run(world: gossip.World) -> torch.Tensor:
        model = linear(0.0)
        wrapped = slow_osgp(world, BASES[base](model.parameters()))
        model.load_state_dict(saved[0])
        wrapped.load_state_dict(copy.deepcopy(saved[1]))
        for number in range(4, 8):
            step(model, wrapped, number)
        wrapped.settle()
        return model.weight.detach().clone()

    [alone] = testing.run(1, run)
    assert torch.equal(alone, plain.weight)
    for weight in testing.run(4, run, timeout=10):
        torch.testing.assert_close(weight, alone)


@pytest.mark.filterwarnings("ignore:this state holds no 'gossip'")
@pytest.mark.parametrize("model_first", [True, False])
def test_loading_drops_messages_in_flight(model_first: bool) -> None:
    """They belong to the run before, and do not reach the loaded parameters."""

    def run(world: gossip.World) -> tuple[torch.Tensor, float]:
        model = linear(0.0)
        base = BASES["sgd"](model.parameters())
        saved = copy.deepcopy([linear(0.5).state_dict(), base.state_dict()])
        wrapped = slow_osgp(world, base)
        for number in range(2):
            step(model, wrapped, number + 10 * world.rank)
        for part, state in list(zip((model, wrapped), saved, strict=True))[:: 1 if model_first else -1]:
            part.load_state_dict(state)
        wrapped.settle()
        return model.weight.detach().clone(), wrapped.weight

    for weight, mass in testing.run(4, run, timeout=10):
        assert torch.equal(weight, torch.full((3, 4), 0.5))
        assert mass == 1


def test_state_of_another_model_is_refused() -> None:
    """Torch refuses it too, for the wrapped optimizer."""
    one, other = (
        slowmo.SlowMo(torch.optim.SGD([torch.zeros(size, requires_grad=True)], lr=0.1), gossip.NoAverage())
        for size in (3, 30)
    )
    one.step()
    other.step()
    with pytest.raises(gossip.UsageError, match="it belongs to another model"):
        other.load_state_dict(one.state_dict())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    return spawn.mpirun(3, "workers.resume", tmp_path_factory.mktemp("resume"), "mpi", "gloo")


@pytest.mark.parametrize(("wrap", "base"), SPAWNED)
@pytest.mark.parametrize("run", ["again", "resumed", "rewound", "grown"])
@pytest.mark.parametrize("transport", ["mpi", "gloo"])
def test_processes_and_threads_have_the_same_bits(
    transport: str, run: str, wrap: str, base: str, ranks: list[spawn.Saved], tmp_path: Path
) -> None:
    """The run of threads is not interrupted."""
    act = RUNS["grown" if run == "grown" else "once"]
    threads = testing.run(3, lambda world: act(world, wrap, base, tmp_path))
    for rank, saved in enumerate(ranks):
        for when in ("now", "settled"):
            assert np.array_equal(saved[f"{transport}/{wrap}/{base}/{run}/{when}"], threads[rank][when])
