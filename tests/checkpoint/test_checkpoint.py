"""Checkpoints restore the same bits on the same ranks and the weighted mean on others, also after a killed save."""

from __future__ import annotations

import copy
import os
import random
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from killing import KILL_STEPS, kept, killed, resumed, same
from workers.checkpointed import WRAP, load, run, save
from workers.resume import STEPS, WRAPS, begin, straight

import gossip
import topologies
from gossip import checkpoint, testing
from gossip.checkpoint import files
from gossip.checkpoint.__main__ import main
from gossip.checkpoint.files import Manifest
from gossip.checkpoint.plain import plain

SIZE = 3
EVERY_WRAP = pytest.mark.parametrize("wrap", WRAPS)


def alone(model: torch.nn.Module) -> tuple[gossip.World, gossip.GossipOptimizer]:
    """A world of one rank, and its optimizer."""
    world = gossip.init()
    return world, gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage())


# The same ranks


@EVERY_WRAP
def test_resumed_run_ends_in_the_same_bits(wrap: str, tmp_path: Path) -> None:
    """New objects with other first values load the checkpoint, with messages in flight."""

    def interrupted(world: gossip.World) -> dict[str, Any]:
        first = begin(world, wrap, "adamw")
        first.train(world.rank, range(7))
        save(tmp_path, world, 7, first, position=[7, world.rank])
        first.train(world.rank, range(7, 9))  # what comes after a checkpoint does not count
        first.optimizer.settle()
        second = begin(world, wrap, "adamw", seed=1)
        assert load(tmp_path, world, second) == (7, SIZE, {"position": [7, world.rank]})
        second.train(world.rank, range(7, STEPS))
        return second.bits()

    assert testing.run(SIZE, interrupted) == testing.run(SIZE, lambda world: straight(world, wrap, "adamw"))


def test_one_script_starts_and_resumes(tmp_path: Path) -> None:
    """The folder is empty at first, then holds the two newest."""
    once = testing.run(SIZE, lambda world: run(world, 9, tmp_path / "once"))
    assert kept(tmp_path / "once") == [9, 8]
    testing.run(SIZE, lambda world: run(world, 4, tmp_path / "twice"))
    assert testing.run(SIZE, lambda world: run(world, 9, tmp_path / "twice")) == once
    assert sorted(path.name for path in (tmp_path / "twice").iterdir()) == ["step-00000008", "step-00000009"]


def test_random_states_are_restored_on_the_same_number_of_ranks(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))]

    model = torch.nn.Linear(2, 2)
    world, optimizer = alone(model)
    draws()  # each keeps a second normal number for later
    checkpoint.save(tmp_path, world, 1, model=model, optimizer=optimizer)
    then = draws()
    draws()
    checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
    assert draws() == then


def test_other_saved_values_come_back(tmp_path: Path) -> None:
    """They are loaded into the named objects; values without an object are returned."""
    model = torch.nn.Linear(2, 2)
    world, optimizer = alone(model)
    rates, scaler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]), torch.amp.GradScaler("cpu")
    optimizer.step()
    rates.step()
    data = {"epoch": np.int64(3), "seen": torch.arange(10)[2:5], "names": ("a", b"b", None, True), 7: 0.5}
    checkpoint.save(tmp_path, world, 1, model=model, optimizer=optimizer, rates=rates, scaler=scaler, data=data)
    expected = rates.state_dict()
    rates.step()
    saved = checkpoint.load(tmp_path, world, model=model, optimizer=optimizer, rates=rates)
    assert saved is not None
    assert rates.state_dict() == expected
    assert list(saved.more) == ["scaler", "data"]
    assert saved.more["scaler"] == scaler.state_dict()
    assert saved.more["data"].pop("seen").tolist() == [2, 3, 4]
    assert saved.more["data"] == {"epoch": 3, "names": ("a", b"b", None, True), 7: 0.5}


def test_parameter_is_saved_without_its_bucket(tmp_path: Path) -> None:
    """Each parameter is written once, tied ones too."""
    model = torch.nn.ModuleList([torch.nn.Linear(300, 300, bias=False) for _ in range(3)])
    model[2].weight = model[0].weight
    world, optimizer = alone(model)
    checkpoint.save(tmp_path, world, 1, model=model, optimizer=optimizer, one=model[1].weight[:1])
    [manifest] = files.manifests(tmp_path)[0]
    assert 2 * 360_000 < manifest.shards[0].bytes < 2 * 360_000 + 30_000


# Other numbers of ranks


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mean_of(states: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    return {
        name: sum(weight * state[name] for weight, state in zip(weights, states, strict=True)) / sum(weights)
        for name in states[0]
    }


@EVERY_WRAP
@pytest.mark.parametrize("sizes", [(3, 2), (2, 4), (4, 1)])
@pytest.mark.usefixtures("doubles")
def test_another_number_of_ranks_continues_from_the_means(wrap: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    """All ranks begin at the weighted mean, messages in flight included; SlowMo and the moments continue."""

    def old(world: gossip.World) -> tuple[dict[str, Any], float, dict[str, Any]]:
        training = begin(world, wrap, "adamw")
        training.train(world.rank, range(7))
        save(tmp_path, world, 7, training, mine=world.rank)
        state = copy.deepcopy(training.optimizer.state_dict())
        training.optimizer.settle()  # moves mass between ranks, and makes none
        return {k: v.clone() for k, v in training.model.state_dict().items()}, training.optimizer.weight, state

    def new(world: gossip.World) -> tuple[dict[str, Any], dict[str, Any], int, list[float]]:
        training = begin(world, wrap, "adamw", seed=1)
        saved = load(tmp_path, world, training)
        assert saved is not None
        assert saved[:2] == (7, sizes[0])
        assert training.optimizer.weight == 1.0
        assert training.optimizer.weight_report().lost == pytest.approx(0, abs=1e-12)
        start = {k: v.clone() for k, v in training.model.state_dict().items()}
        state = copy.deepcopy(training.optimizer.state_dict())
        training.train(world.rank, range(7, STEPS))
        training.optimizer.settle()
        return start, state, saved.more["mine"], training.numbers()

    models, weights, states = zip(*testing.run(sizes[0], old), strict=True)
    expected = mean_of(list(models), list(weights))
    for rank, (start, state, mine, numbers) in enumerate(testing.run(sizes[1], new)):
        assert mine == rank % sizes[0]
        for name, value in expected.items():
            torch.testing.assert_close(start[name], value, rtol=1e-12, atol=1e-12)
        assert state["gossip"]["steps"] == 7
        assert rounds(state) == rounds(states[0])
        for number, entries in state["state"].items():
            ones = [theirs["state"][number] for theirs in states]
            assert entries["step"] == ones[0]["step"]
            for moment in ("exp_avg", "exp_avg_sq"):
                value = sum(one[moment] for one in ones) / len(ones)
                torch.testing.assert_close(entries[moment], value, rtol=1e-12, atol=1e-15)
        for what in ("anchors", "momenta") if "slowmo" in state else ():
            ones = [theirs["slowmo"][what][0] for theirs in states]
            torch.testing.assert_close(state["slowmo"][what][0], sum(ones) / len(ones), rtol=1e-12, atol=1e-15)
            if wrap.startswith("slowmo, overlap"):
                assert torch.equal(state["slowmo"][what][0], ones[0]), "equal ones keep their bits"
        if "slowmo" in state:
            assert state["slowmo"]["steps"] == 7
            assert state["slowmo"]["rates"] == states[0]["slowmo"]["rates"]
        assert np.isfinite(numbers).all()
    exported = checkpoint.consensus(tmp_path)
    assert all(torch.equal(exported[name], start[name]) for name in expected)


def rounds(state: Any) -> list[int]:
    """The counts of rounds of every averager in an optimizer's state."""
    if not isinstance(state, dict):
        return []
    return [state["rounds"]] if "rounds" in state else [found for part in state.values() for found in rounds(part)]


def test_other_modules_and_frozen_parameters_are_saved(tmp_path: Path) -> None:
    """Statistics are averaged, counts are rank 0's, and tied parameters stay tied, in any dtype."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)
            self.one = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
            self.two = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
            self.two.weight = self.one.weight
            self.frozen = torch.nn.Parameter(torch.tensor([0.1, 0.2]), requires_grad=False)

    def made(world: gossip.World) -> tuple[Net, gossip.GossipOptimizer]:
        net = Net()
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        return net, gossip.GossipOptimizer(torch.optim.SGD(trained, lr=0.1), gossip.ExactAverage(world))

    def old(world: gossip.World) -> None:
        net, optimizer = made(world)
        with torch.no_grad():
            net.norm.running_mean.fill_(world.rank)
            net.norm.num_batches_tracked.fill_(10 + world.rank)
            net.one.weight.fill_(world.rank)
        checkpoint.save(tmp_path, world, 1, model=net, optimizer=optimizer)

    def new(world: gossip.World) -> None:
        net, optimizer = made(world)
        checkpoint.load(tmp_path, world, model=net, optimizer=optimizer)
        assert net.norm.running_mean.tolist() == [1, 1]
        assert net.norm.num_batches_tracked == 10
        assert net.two.weight is net.one.weight
        assert net.two.weight.tolist() == [[1, 1], [1, 1]]
        assert torch.equal(net.frozen, torch.tensor([0.1, 0.2]))

    testing.run(3, old)
    testing.run(2, new)
    exported = checkpoint.consensus(tmp_path)
    Net().load_state_dict(exported)
    assert exported["two.weight"].dtype == torch.bfloat16
    assert exported["two.weight"].tolist() == [[1, 1], [1, 1]]


# Broken files


def shard(folder: Path, step: int, rank: int) -> Path:
    [path] = (files.place(folder, step)).glob(f"rank-{rank:05d}-*.pt")
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def swap(path: Path, other: Path) -> None:
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def older_manifest(folder: Path) -> None:
    shutil.copy(files.place(folder, 1) / files.MANIFEST, files.place(folder, 2))


BROKEN: dict[str, Callable[[Path], object]] = {
    "a bit": lambda folder: flip(shard(folder, 2, 1)),
    "a byte too few": lambda folder: cut(shard(folder, 2, 2)),
    "empty": lambda folder: shard(folder, 2, 0).write_bytes(b""),
    "gone": lambda folder: shard(folder, 2, 1).unlink(),
    "another rank's": lambda folder: swap(shard(folder, 2, 0), shard(folder, 2, 1)),
    "an older one": lambda folder: shutil.copy(shard(folder, 1, 1), shard(folder, 2, 1)),
    "a bit of the manifest": lambda folder: flip(files.place(folder, 2) / files.MANIFEST),
    "half a manifest": lambda folder: cut(files.place(folder, 2) / files.MANIFEST),
    "an older manifest": older_manifest,
    "an older one renamed": lambda folder: (
        shutil.rmtree(files.place(folder, 2)),
        shutil.copytree(files.place(folder, 1), files.place(folder, 2)),
    ),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[float]]]:
    """A folder with steps 1 and 2 of a job, and every number of each rank at step 1."""
    folder = tmp_path_factory.mktemp("two")

    def job(world: gossip.World) -> list[float]:
        training = begin(world, WRAP, "sgd")
        training.train(world.rank, range(1))
        save(folder, world, 1, training)
        numbers = training.numbers()
        training.train(world.rank, range(1, 2))
        save(folder, world, 2, training)
        return numbers

    return folder, testing.run(SIZE, job)


def loaded(world: gossip.World, folder: Path) -> list[float]:
    training = begin(world, WRAP, "sgd", seed=1)
    saved = load(folder, world, training)
    assert saved is not None
    assert saved.step == 1
    return training.numbers()


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_checkpoint_is_passed_over(broken: str, two: tuple[Path, list[list[float]]], tmp_path: Path) -> None:
    """Every rank takes the one before, whichever rank's file is broken, and saves from there."""
    folder = tmp_path / "run"
    shutil.copytree(two[0], folder)
    BROKEN[broken](folder)
    with pytest.warns(
        UserWarning, match=r"going on from step 1 .* since newer checkpoints cannot be read: .*step-00000002"
    ):
        assert testing.run(SIZE, lambda world: loaded(world, folder)) == two[1]
    assert kept(folder) == [1]
    testing.run(SIZE, lambda world: save(folder, world, 2, begin(world, WRAP, "sgd")))
    assert kept(folder) == [2, 1]
    assert all(len(list(files.place(folder, step).iterdir())) == SIZE + 1 for step in (1, 2))


@pytest.mark.parametrize("size", [SIZE, 2])
def test_all_checkpoints_broken_raises(size: int, two: tuple[Path, list[list[float]]], tmp_path: Path) -> None:
    """Every rank raises the same sentence, with every reason in it."""
    folder = tmp_path / "run"
    shutil.copytree(two[0], folder)
    flip(shard(folder, 1, 0))
    shard(folder, 2, 1).unlink()

    def refused(world: gossip.World) -> tuple[str, bool]:
        with pytest.raises(gossip.CheckpointError) as error:
            load(folder, world, begin(world, WRAP, "sgd"))
        return str(error.value), error.value.speaks

    said, speaks = zip(*testing.run(size, refused), strict=True)
    assert len(set(said)) == 1
    assert speaks == (True, *(size - 1) * (False,))
    assert "its digest is not the one in the manifest" in said[0]
    assert "No such file" in said[0]
    assert ("a folder in which every host sees all shards" in said[0]) == (size != SIZE)
    assert kept(folder) == [2, 1], "nothing is thrown away"
    with pytest.raises(gossip.CheckpointError, match="holds no sound checkpoint"):
        checkpoint.consensus(folder)


def test_an_unfinished_shard_is_ignored(two: tuple[Path, list[list[float]]], tmp_path: Path) -> None:
    """There is no warning, and the next save removes it."""
    folder = tmp_path / "run"
    shutil.copytree(two[0], folder)
    (files.place(folder, 2) / files.MANIFEST).unlink()
    (files.place(folder, 1) / ".rank-00001.tmp").write_bytes(b"torn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert testing.run(SIZE, lambda world: loaded(world, folder)) == two[1]
    testing.run(SIZE, lambda world: save(folder, world, 3, begin(world, WRAP, "sgd")))
    assert kept(folder) == [3, 1]
    assert not files.place(folder, 2).exists()
    assert not list(folder.rglob("*.tmp"))


def test_each_host_has_its_own_disk(two: tuple[Path, list[list[float]]], tmp_path: Path) -> None:
    """A host holds the shards of its ranks alone. One was killed before it wrote its manifest, and load writes it."""
    hosts = ("a", "a", "b")
    for host, missing in (("a", (2,)), ("b", (0, 1))):
        shutil.copytree(files.place(two[0], 1), files.place(tmp_path / host, 1))
        for rank in missing:
            shard(tmp_path / host, 1, rank).unlink()
    manifest = files.place(tmp_path / "b", 1) / files.MANIFEST
    manifest.unlink()

    def job(world: gossip.World) -> list[float]:
        return loaded(world, tmp_path / hosts[world.rank])

    assert testing.run(SIZE, job, hosts=hosts) == two[1]
    assert manifest.exists()
    with pytest.raises(gossip.CheckpointError, match="with 2 ranks needs a folder in which every host sees all shards"):
        testing.run(2, job, hosts=hosts[1:])


def test_hosts_share_a_folder(tmp_path: Path) -> None:
    """Each host writes the manifest, and removes old checkpoints."""
    hosts = ("a", "b", "c")
    once = testing.run(SIZE, lambda world: run(world, 6, tmp_path), hosts=hosts)
    assert kept(tmp_path) == [6, 5]
    assert testing.run(SIZE, lambda world: run(world, 6, tmp_path)) == once


class Runs:
    """Notes that it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_loading_runs_no_code(tmp_path: Path) -> None:
    """The digests fit: anyone with write access can make them."""
    state = {"format": 1, "rank": 0, "size": 1, "step": 1, "more": Runs(tmp_path / "ran")}
    made = files.write(files.place(tmp_path, 1), 0, state)
    files.commit(tmp_path, 0, Manifest(1, (made,)))
    model = torch.nn.Linear(2, 2)
    world, optimizer = alone(model)
    with pytest.raises(gossip.CheckpointError, match="is no shard"):
        checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
    with pytest.raises(gossip.CheckpointError, match="is no shard"):
        checkpoint.consensus(tmp_path)
    assert not (tmp_path / "ran").exists()


def mutations(folder: Path, count: int, seed: int) -> str:
    command = [sys.executable, "-m", "workers.mutated", str(folder), str(count), str(seed)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": f"{spawn.ROOT}:{spawn.SUPPORT}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mutated_files_are_refused(tmp_path: Path) -> None:
    """No file crashes the interpreter, hangs it, runs code or is taken for another."""
    assert "altered, loaded step 1" in mutations(tmp_path, 200, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_10000_mutated_files_are_refused(tmp_path: Path) -> None:
    print(mutations(tmp_path, 10_000, 1))


# Refused values


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (lambda: None, r"thing is a builtins\.function"),
        ({"deep": [1, {2}]}, r"thing\['deep'\]\[1\] is a builtins\.set"),
        ({Path("x"): 1}, r"a key of thing is a pathlib\.\w+"),
        (np.zeros(3), r"thing is a numpy\.ndarray"),
        (torch.zeros(3).to_sparse(), r"thing is a torch\.Tensor"),
        (checkpoint.Saved(1, 1, {}), r"thing is a gossip\.checkpoint"),
    ],
)
def test_values_that_could_not_be_loaded_are_refused(thing: Any, said: str, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    world, optimizer = alone(model)
    with pytest.raises(gossip.UsageError, match=said):
        checkpoint.save(tmp_path, world, 1, model=model, optimizer=optimizer, thing=thing)
    assert kept(tmp_path) == []


def test_numbers_of_numpy_and_enums_become_plain() -> None:
    assert repr(plain({"a": np.float32(0.5), "b": np.bool_(True), "c": [np.str_("x")]}, "it")) == (
        "{'a': 0.5, 'b': True, 'c': ['x']}"
    )


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    world, optimizer = alone(model)
    parts = {"model": model, "optimizer": optimizer}
    with pytest.raises(gossip.UsageError, match=r"a checkpoint needs a gossip\.GossipOptimizer"):
        checkpoint.save(tmp_path, world, 1, model=model, optimizer=optimizer.optimizer)
    with pytest.raises(gossip.UsageError, match="is the optimizer's and not in the model's state_dict"):
        checkpoint.save(tmp_path, world, 1, model=torch.nn.Linear(2, 2), optimizer=optimizer)
    with pytest.raises(gossip.UsageError, match=r"step is 1\.0"):
        checkpoint.save(tmp_path, world, 1.0, **parts)  # type: ignore[arg-type]
    assert checkpoint.load(tmp_path / "absent", world, **parts) is None
    checkpoint.save(tmp_path, world, 5, **parts, position=3)
    with pytest.raises(gossip.UsageError, match="holds a checkpoint of step 5, and this is one of step 4"):
        checkpoint.save(tmp_path, world, 4, **parts)
    with pytest.raises(gossip.UsageError, match="holds no rates: beside model and optimizer it holds position"):
        checkpoint.load(tmp_path, world, **parts, rates=torch.optim.lr_scheduler.LinearLR(optimizer))
    with pytest.raises(gossip.UsageError, match="position is a int, into which nothing can be loaded"):
        checkpoint.load(tmp_path, world, **parts, position=3)
    other = torch.nn.Linear(3, 2)
    with pytest.raises(gossip.CheckpointError, match="the model saved at step 5 does not fit this Linear"):
        checkpoint.load(tmp_path, world, model=other, optimizer=alone(other)[1])
    with pytest.raises(gossip.UsageError, match="is a file, and checkpoints lie in a folder"):
        checkpoint.load(shard(tmp_path, 5, 0), world, **parts)
    with pytest.raises(gossip.UsageError, match="no folder for checkpoints"):
        checkpoint.load(None, world, **parts)
    monkeypatch.setenv("GOSSIP_RESUME", str(tmp_path))
    assert checkpoint.load(None, world, **parts) == (5, 1, {"position": 3})
    with pytest.raises(gossip.UsageError, match="the script keeps its checkpoints in elsewhere, and --resume names"):
        checkpoint.load("elsewhere", world, **parts)


def test_ranks_that_differ_all_raise(tmp_path: Path) -> None:
    """The other ranks do not wait for the failed one, and the checkpoint before is whole."""

    def steps(world: gossip.World) -> None:
        save(tmp_path, world, 1, begin(world, WRAP, "sgd"))
        with pytest.raises(gossip.Disagreement, match="rank 0 has step 2, where rank 1 has step 3"):
            save(tmp_path, world, 2 + world.rank, begin(world, WRAP, "sgd"))
        with pytest.raises(gossip.UsageError, match=r"thing is a builtins\.builtin_function") as error:
            save(tmp_path, world, 2, begin(world, WRAP, "sgd"), thing=print if world.rank == 1 else 0)
        assert error.value.speaks == (world.rank == 1)

    testing.run(2, steps)
    assert kept(tmp_path) == [1]


def test_parameters_may_have_other_names(tmp_path: Path) -> None:
    """Saved messages in flight fit, also if parameters have since been named after their module."""

    def job(world: gossip.World) -> None:
        for named in (False, True):
            model = torch.nn.Linear(2, 2)
            push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = gossip.GossipOptimizer(sgd, push_sum, module=model if named else None)
            if named:
                assert checkpoint.load(tmp_path, world, model=model, optimizer=optimizer) is not None
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.ones(2)).sum().backward()
                optimizer.step()
            if not named:
                checkpoint.save(tmp_path, world, 3, model=model, optimizer=optimizer)
            optimizer.settle()

    testing.run(2, job, timeout=10)


def test_a_full_disk_raises_on_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank raises the same sentence, and no partial file is left."""
    sync = os.fsync

    def full(descriptor: int) -> None:
        if "rank-00001" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    def job(world: gossip.World) -> None:
        save(tmp_path, world, 1, begin(world, WRAP, "sgd"))
        world.barrier()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(gossip.CheckpointError, match="rank 1: No space left on device"):
            save(tmp_path, world, 2, begin(world, WRAP, "sgd"))

    testing.run(2, job)
    assert kept(tmp_path) == [1]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failing_device_raises_on_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank raises torch's sentence."""

    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def job(world: gossip.World) -> None:
        with pytest.raises(gossip.CheckpointError, match="rank 0: RuntimeError: CUDA error: an illegal memory access"):
            save(tmp_path, world, 2, begin(world, WRAP, "sgd"))

    monkeypatch.setattr(torch, "save", fails)
    testing.run(2, job)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_old_checkpoint_that_cannot_be_removed_raises_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rank continues alone."""
    prune = files.prune

    def kept_by_one(folder: Path) -> None:
        if threading.current_thread().name == "rank 1":
            raise PermissionError(13, "Permission denied")
        prune(folder)

    def job(world: gossip.World) -> None:
        with pytest.raises(gossip.CheckpointError, match="rank 1: Permission denied"):
            save(tmp_path, world, 2, begin(world, WRAP, "sgd"))
        world.barrier()

    monkeypatch.setattr(files, "prune", kept_by_one)
    testing.run(2, job, hosts=["a", "b"])
    assert kept(tmp_path) == [2]


# Killed saves


class Killed(BaseException):
    """The process ends here: it writes no more."""


def test_kill_at_any_file_operation_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save also removes an old checkpoint; afterwards the new one or the one before is there."""
    left = [10**9]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*args, **kwargs)

        return operation

    for module, name in ((os, "fsync"), (os, "replace"), (os, "mkdir"), (os, "unlink"), (os, "rmdir"), (torch, "save")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    undisturbed = testing.run(2, lambda world: run(world, 5, tmp_path / "undisturbed"))
    testing.run(2, lambda world: run(world, 3, tmp_path / "start"))
    found = []
    for number in range(1000):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", folder)
        left[0] = number
        ended = True
        try:
            testing.run(2, lambda world, folder=folder: run(world, 4, folder))
        except (Killed, gossip.GossipError):
            ended = False
        left[0] = 10**9
        found.append(kept(folder)[0])
        assert testing.run(2, lambda world, folder=folder: run(world, 5, folder)) == undisturbed
        assert kept(folder) == [5, 4]
        assert not list(folder.rglob("*.tmp"))
        if ended:
            break
    assert len(found) > 15
    assert found == sorted(found)
    assert set(found) == {3, 4}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_that_is_killed_twice_ends_in_the_same_bits(tmp_path: Path, undisturbed: list[spawn.Saved]) -> None:
    """The same command line resumes it each time."""
    checkpoints, draw = tmp_path / "run", random.Random(0)
    checkpoints.mkdir()
    newest = 0
    for _ in range(2):
        at = killed(checkpoints, draw, range(newest, newest + KILL_STEPS // 4))
        assert newest <= at < KILL_STEPS
        newest = at
    assert newest > 0
    assert same(resumed(checkpoints), undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", range(30))
def test_kill_at_30_moments_leaves_a_checkpoint(moment: int, tmp_path: Path, undisturbed: list[spawn.Saved]) -> None:
    """One kill in each job, anywhere from its first step to its last; the partial files are printed."""
    checkpoints = tmp_path / "run"
    checkpoints.mkdir()
    newest = killed(checkpoints, random.Random(moment), range(KILL_STEPS - 5))
    half = [path for _, path in files.steps(checkpoints) if not (path / files.MANIFEST).exists()]
    print(f"killed with step {newest} on disk,", {path.name: os.listdir(path) for path in half} or "nothing on the way")
    assert same(resumed(checkpoints), undisturbed)


# Out of the folder


def test_command_line_checks_and_exports(
    two: tuple[Path, list[list[float]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def code(*arguments: str) -> object:
        monkeypatch.setattr(sys, "argv", ["gossip.checkpoint", *arguments])
        try:
            return main()
        except SystemExit as ended:
            return ended.code

    folder = tmp_path / "run"
    assert code(str(folder)) == 2
    assert code(str(folder), "--export", str(tmp_path / "model.pt")) == 2
    assert "holds no sound checkpoint" in capsys.readouterr().err
    shutil.copytree(two[0], folder)
    assert code(str(folder), "--export", str(tmp_path / "model.pt")) is None
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(model[name], value) for name, value in checkpoint.consensus(folder).items())
    flip(shard(folder, 2, 1))
    capsys.readouterr()
    assert code(str(folder)) == 0
    newer, older = capsys.readouterr().out.splitlines()
    assert newer.startswith("step 2: 3 ranks, 0.1 MB, ")
    assert newer.endswith("its digest is not the one in the manifest")
    assert older == "step 1: 3 ranks, 0.1 MB, sound"
