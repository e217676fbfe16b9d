"""A rank dies, wherever it stands: those that are left go on, with all the weight that is left, and agree."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from workers.deaths import METHODS, push, train, wrapped

import gossip
import topologies
from gossip import testing
from gossip.recovery.push_sum import never_arrived
from gossip.testing import Killed, Network
from gossip.transports import Carrier


def checked(outcome: list[Any], left: set[int]) -> None:
    ranks, gathered, weights, values, deaths = zip(*outcome, strict=True)
    assert set(ranks) == left
    assert all(set(each) >= left for each in gathered), "somebody gathered without the living"
    assert sum(weights) == pytest.approx(len(left), abs=1e-9)
    assert min(weights) > 0
    assert all(value.min() >= -1 and value.max() <= 5 for value in values), "outside of what ranks began and aim at"
    assert len({tuple(death.ranks for death in each) for each in deaths}) == 1, "ranks tell of different deaths"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("victims", [{0, 3}, {1, 2, 3, 4}], ids=str)
def test_between_steps(method: str, victims: set[int]) -> None:
    def die(rank: int, step: int) -> None:
        if rank in victims and step == 5 + rank:
            raise Killed

    outcome = testing.run(5, lambda world: train(world, METHODS[method], die=die), timeout=10)
    checked(outcome, set(range(5)) - victims)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_at_any_message(method: str, seed: int) -> None:
    """In the middle of a round, of an exact average, of the meeting after another death."""
    draw = random.Random(seed)
    size = draw.randint(2, 5)
    last = {victim: draw.randint(30, 200) for victim in draw.sample(range(size), draw.randint(1, size - 1))}
    sent: Counter[int] = Counter()
    died = set()

    def delay(source: int, target: int, number: int) -> float:
        sent[source] += 1
        if sent[source] == last.get(source):
            died.add(source)
            raise Killed
        return 0.0

    outcome = testing.run(size, lambda world: train(world, METHODS[method]), timeout=10, network=Network(delay=delay))
    checked(outcome, set(range(size)) - died)


@pytest.mark.parametrize("method", ["slowmo", pytest.param("staged/overlap 2", marks=pytest.mark.slow)])
def test_mpirun(method: str, tmp_path: Path) -> None:
    """Real processes, SIGKILL at any moment: one of them rank 0, two at once."""
    plans = ["2@0.3s", "0@0.6s", "3@0.6s"]
    command = ["-m", "workers.deaths", str(tmp_path), method, "1500", *plans]
    outcome = spawn.run_mpirun(5, command, options=("--with-ft", "ulfm"))
    assert outcome.code == 0, outcome.output[-4000:]
    left = {int(file.stem): np.load(file) for file in tmp_path.glob("*.npz")}
    assert set(left) == {1, 4}, outcome.output[-4000:]
    for saved in left.values():
        assert sorted(saved["died"]) == [0, 2, 3]
        assert set(saved["gathered"]) == {1, 4}
    assert sum(float(saved["weight"]) for saved in left.values()) == pytest.approx(2, abs=1e-9)
    assert "died, seen in step" in outcome.output


# Only gossip.launch can know the meaning of sys.exit.
@pytest.mark.parametrize(
    ("launcher", "end"),
    [
        ([], "raise ValueError('mine')"),
        pytest.param(["-m", "gossip.launch"], "sys.exit('mine')", marks=pytest.mark.slow),
    ],
)
def test_an_error_ends_a_job_that_outlives_deaths(launcher: list[str], end: str, tmp_path: Path) -> None:
    """It is no death: nobody goes on, nor waits for a deadline."""
    script = tmp_path / "fails.py"
    script.write_text(f"import sys, gossip\nworld = gossip.init()\nif world.rank == 2: {end}\nworld.barrier()\n")
    outcome = spawn.run_mpirun(4, [*launcher, str(script)], options=("--with-ft", "ulfm"))
    assert outcome.code, outcome.output[-4000:]
    assert "mine" in outcome.output


@pytest.mark.slow
def test_without_fault_tolerance(tmp_path: Path) -> None:
    """It is refused before anything is trained."""
    outcome = spawn.run_mpirun(2, ["-m", "workers.deaths", str(tmp_path), "osgp", "5"])
    assert outcome.code
    assert "on_failure='shrink' needs a transport that outlives a process" in outcome.output
    assert "mpirun --with-ft ulfm" in outcome.output


def told(**ranks: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The reports of ranks on their rounds."""
    empty = {"rounds": 6, "next": 6, "heard": [], "given": [], "unmerged": 0.0}
    return {int(name[1:]): {**empty, **each} for name, each in ranks.items()}


def test_what_is_taken_back() -> None:
    """Survivors take back the weight that other survivors have not heard of.

    Of the weight that went to dead ranks, they take back only the part that these had not merged when last heard.
    """

    survivors = told(
        r0={"given": [(3, 1, 0.25), (4, 2, 0.125)], "heard": [(3, 5)]},
        r1={"given": [(3, 3, 0.5), (4, 3, 0.25), (5, 3, 0.125)], "heard": [(0, 2)]},
        r2={"heard": [(0, 4)]},
    )
    # Rank 3 was heard in round 5, so it had merged rounds up to 4.
    assert never_arrived(survivors, range(4), due=1) == {0: 0.25, 1: 0.125, 2: 0.0}


@pytest.mark.parametrize("first", [True, False])
def test_an_average_that_counted_is_not_done_again(first: bool) -> None:
    """In whichever order it stands with gossip that breaks off after it."""

    def make(world: gossip.World, model: torch.nn.Module) -> Any:
        members = [gossip.ExactAverage(world), push(world)]
        return wrapped(gossip.Chain(*(members if first else reversed(members))), model)

    for seed in range(8):
        sent: Counter[int] = Counter()

        def delay(source: int, target: int, number: int, seed: int = seed, sent: Counter[int] = sent) -> float:
            sent[source] += 1
            if source == 1 and sent[source] == 60 + seed:
                raise Killed
            return 0.0

        outcome = testing.run(4, lambda world: train(world, make), timeout=10, network=Network(delay=delay))
        checked(outcome, {0, 2, 3})


def test_all_agree_after_an_exact_average() -> None:
    def make(world: gossip.World, model: torch.nn.Module) -> Any:
        return wrapped(gossip.Chain(push(world), gossip.Every(7, gossip.ExactAverage(world))), model)

    def die(rank: int, step: int) -> None:
        if rank == 2 and step == 5:
            raise Killed

    values = [outcome[3] for outcome in testing.run(5, lambda world: train(world, make, 14, die), timeout=10)]
    assert len(values) == 4
    assert all(torch.equal(value, values[0]) for value in values)


def test_checkpoint_after_a_death(tmp_path: Path) -> None:
    """Survivors save a checkpoint, and as many ranks or another number begin from it."""

    def save(world: gossip.World) -> None:
        model = linear()
        optimizer = wrapped(push(world, 1), model, module=model)
        for step in range(9):
            if world.rank == 1 and step == 4:
                raise Killed
            optimizer.zero_grad()
            model(torch.full((1, 2), float(world.rank))).sum().backward()
            optimizer.step()
            if step == 7:
                gossip.checkpoint.save(tmp_path, world, step + 1, model=model, optimizer=optimizer)

    testing.run(4, save, timeout=10)

    def load(world: gossip.World) -> torch.Tensor:
        model = linear()
        optimizer = wrapped(push(world, 1), model)
        saved = gossip.checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
        assert saved is not None
        assert (saved.step, saved.size) == (8, 3)
        optimizer.step()
        optimizer.settle()
        return model.weight.detach().clone()

    consensus = gossip.checkpoint.consensus(tmp_path)["weight"]
    for size in (2, 3, 4):
        for weight in testing.run(size, load, timeout=10):
            torch.testing.assert_close(weight, consensus, rtol=0, atol=1e-5)


REFUSED: dict[str, tuple[Callable[[gossip.World], object], str]] = {
    "part of the world": (
        lambda world: wrapped(push(world.group([0])) if world.rank == 0 else push(world.group([1])), linear()),
        "works over the whole world, and here are averages over 1 of its 2 ranks",
    ),
    "early": (
        lambda world: wrapped(gossip.PushSum(world, topologies.exponential(2), 2, "early"), linear()),
        "needs landing='due'",
    ),
    "a word": (lambda world: wrapped(push(world), linear(), "ignore"), "there are 'raise' and 'shrink'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(gossip.UsageError, match=sentence):
        testing.run(2, make, timeout=5)


def test_a_transport_that_outlives_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Carrier, "outlives", False)
    with pytest.raises(gossip.UsageError, match="on_failure='shrink' needs a transport that outlives a process"):
        testing.run(2, lambda world: wrapped(push(world), linear(), "shrink"))


def linear() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def test_without_shrink_a_death_is_an_error() -> None:
    def run(world: gossip.World) -> None:
        optimizer = wrapped(push(world), linear(), "raise")
        for step in range(4):
            if world.rank == 1 and step == 2:
                raise Killed
            optimizer.step()

    with pytest.raises(gossip.PeerDied, match="rank 1 died while rank"):
        testing.run(3, run, timeout=5)


def test_as_soon_as_the_optimizer_is_made() -> None:
    """Rank 4 is late in all that ranks do together, and still in the making when the death is noticed."""

    def run(world: gossip.World) -> float:
        optimizer = wrapped(push(world), linear(), "shrink")
        if world.rank == 2:
            raise Killed
        optimizer.step()
        optimizer.settle()
        return optimizer.weight

    late = Network(delay=lambda source, target, number: 0.05 if target == 4 else 0.0)
    assert sum(testing.run(5, run, timeout=10, network=late)) == pytest.approx(4)


def test_those_of_a_closed_world_are_forgotten() -> None:
    """Where all worlds of a process share a carrier, as over MPI: the next one begins anew."""

    def run(world: gossip.World) -> tuple[int, int]:
        first, second = (world.group(range(world.size)) for _ in range(2))
        wrapped(push(first.group(range(world.size))), linear(), "shrink")  # in a part of it, which ends with it
        wrapped(push(second), linear(), "shrink")
        first.close()
        left = len(world.base.carrier.meetings)
        second.close()
        wrapped(push(world), linear(), "raise")  # refused beside others that go on
        return left, len(world.base.carrier.meetings)

    assert testing.run(2, run, timeout=5) == [(1, 0)] * 2
