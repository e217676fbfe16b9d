"""An optimizer takes its memory, threads and channels with it when it goes."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import spawn
import torch
from workers.leaks import MAKERS, OVER_WIRES, STEPS, Measured, load_torch, one_after_another, outlived, train

import gossip
import slowmo
import topologies
from gossip import testing


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The garbage collector frees reference cycles, so it does not run here."""
    load_torch()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.usefixtures("no_collector")
def test_a_deleted_optimizer_and_its_model_are_freed_at_once(kind: str) -> None:
    assert testing.run(2, lambda world: outlived(world, MAKERS[kind])) == [[], []]


def test_outer_steps_go_on_without_the_deleted_wrapper() -> None:
    """The outer step belongs to the base optimizer, whose steps stay the same algorithm."""
    parameter = torch.zeros(1, requires_grad=True)
    base = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=1.0), gossip.NoAverage())
    wrapper = slowmo.lookahead(base, period=2, lr=0.5)
    del wrapper
    for _ in range(2):
        parameter.grad = -torch.ones(1)
        base.step()
    assert parameter.item() == 1.0  # half of the way that two steps made


@pytest.mark.parametrize("kind", ["streaming", "shrink"])
def test_optimizers_one_after_another_leave_nothing_behind(kind: str) -> None:
    """No object, thread or table for each of them, though each takes channels of its own."""

    def run(world: gossip.World) -> list[Measured]:
        return one_after_another(world, MAKERS[kind], 30)

    check_flat(testing.run(2, run)[0], 15, 10)


def test_a_deleted_optimizer_does_not_go_on_after_a_death() -> None:
    """The others do, also where some rank still has it."""

    def run(world: gossip.World) -> list[int]:
        kept, model = [], torch.nn.Linear(2, 2)
        for number in range(3):
            optimizer = MAKERS["shrink"](world, torch.nn.Linear(2, 2) if number < 2 else model)
            optimizer.step()
            optimizer.settle()
            if number == 1 and world.rank == 1:
                kept.append(optimizer)
        if world.rank == 2:
            raise testing.Killed
        optimizer.step()
        optimizer.settle()
        return [len(each.deaths) for each in (*kept, optimizer)]

    assert testing.run(3, run, timeout=20) == [[1], [0, 1]]


def test_a_timeline_keeps_no_file_open_and_no_model(tmp_path: Path) -> None:
    """Those of its optimizers go on in it, one after another."""

    def run(world: gossip.World) -> list[str]:
        kept = []
        for number in (0, 1, 2, 3, 3):
            model = torch.nn.Linear(2, 2)
            averager = gossip.PushSum(world, topologies.exponential(world.size))
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            optimizer = gossip.GossipOptimizer(sgd, averager, trace_folder=tmp_path / str(number))
            train(optimizer, model, torch.ones(1, 2))
            del optimizer, model, averager, sgd
            world.barrier()
            if world.rank == 0:
                kept += [name for name in open_files() if name.startswith(str(tmp_path))]
            world.barrier()
        return kept

    assert testing.run(2, run) == [[], []]
    for rank in range(2):
        events = json.loads((tmp_path / "3" / f"rank-{rank}.json").read_text())
        assert sum(event["name"] == "step" for event in events) == 2 * STEPS


def open_files() -> list[str]:
    return [os.path.realpath(file.path) for file in os.scandir("/proc/self/fd")]


def check_flat(measured: Sequence[Measured], count: int, memory: float) -> None:
    """The last `count` optimizers have left no threads and not `memory` MB.

    An MPI remembers how long the last batches of some hundred kinds took, and a channel has two kinds or three.
    """
    before, after = measured[-2:]
    assert after.objects - before.objects < 4 * count
    assert after.threads - before.threads < count / 4  # over Gloo two may be needed at once that were not before
    assert after.memory - before.memory < memory


# -- channels ----------------------------------------------------------------------------------------------------------


def test_thousands_of_optimizers_are_served_over_few_tags() -> None:
    """Over an MPI that has no more tags than its standard promises, one after another and at the same time."""

    def run(world: gossip.World) -> list[int]:
        world.base.backend.most_numbers = 32767 // 2
        group, peer, room = world.group([1, 0]), 1 - world.rank, torch.zeros(1)
        channels = [channel for _ in range(4000) for channel in (world.channel(), group.channel())]
        for channel in channels[::500]:
            its = channel.number if channel.members[0] == 0 else -channel.number
            channel.post({peer: [torch.tensor([float(its)])]}, {peer: [room]}, "a number").wait()
            assert int(room) == its, "it came out of another channel"
        numbers = [channel.number for channel in channels]
        with pytest.raises(gossip.UsageError, match="start a new process"):
            numbers.extend(group.channel().number for _ in range(20_000))
        return numbers

    one, other = testing.run(2, run)
    assert one == other, "ranks number channels alike"
    assert len(one) == len(set(one)) > 16_000
    assert max(one) < 32767 // 2


def test_an_optimizer_for_each_parameter() -> None:
    """Each steps in backward, as soon as its gradient is there."""

    def run(world: gossip.World) -> float:
        parameters = [torch.nn.Parameter(torch.full((2,), float(world.rank))) for _ in range(80)]
        optimizers = {}
        for each in parameters:
            averager = gossip.PushSum(world, topologies.exponential(world.size))
            optimizers[each] = gossip.GossipOptimizer(torch.optim.SGD([each], lr=0.1), averager)
            each.data.fill_(world.rank)
            each.register_post_accumulate_grad_hook(lambda each: optimizers[each].step())
        torch.stack(parameters).sum().backward()
        return torch.stack(parameters).mean().item()

    assert testing.run(2, run) == [pytest.approx(0.4)] * 2


def test_many_streaming_optimizers_in_one_world() -> None:
    def run(world: gossip.World) -> int:
        made = []
        for _ in range(12):
            sgd = torch.optim.SGD([torch.zeros(96, requires_grad=True)], lr=0.1)
            made.append(slowmo.StreamingSlowMo(sgd, world, period=48, delay=12))
            made[-1].step()
        return len(made)

    assert testing.run(2, run) == [12, 12]


# -- over real wires ---------------------------------------------------------------------------------------------------


def over(names: Sequence[str], folder: Path, count: int, width: int, memory: float) -> spawn.Outcome:
    """Nothing of `count` optimizers of `width`² parameters is left on either rank; then rank 1 ends, and is missed."""
    command = ["-m", "workers.leaks", str(folder), str(count), str(width), *names]
    outcome = spawn.run_mpirun(2, command, timeout=spawn.LIMIT + 3 * count)
    assert outcome.code == 1, outcome.output
    for rank in range(2):
        saved = np.load(folder / f"{rank}.npz")
        for name in names:
            outlived_by = {kind: saved[f"{name} outlived by {kind}"].tolist() for kind in OVER_WIRES}
            assert outlived_by == {kind: [] for kind in OVER_WIRES}
            check_flat([Measured(*each) for each in saved[f"{name} measured"]], count // 2, memory)
    return outcome


def test_nothing_outlives_an_optimizer_over_mpi_and_gloo(tmp_path: Path) -> None:
    """And a rank whose script has ended is missed before the deadline, though its process waits in MPI's own end."""
    outcome = over(["mpi", "gloo"], tmp_path, 40, 500, memory=10)
    assert re.search(
        r"gossip: rank 0 heard nothing from rank 1 in round 7 \(rank 1, .*at the end of its script for .*, and it will",
        outcome.output,
    ), outcome.output


@pytest.mark.slow
@pytest.mark.timeout(800)
@pytest.mark.parametrize("name", ["memory", "mpi", "gloo"])
def test_two_hundred_optimizers_leave_no_memory_and_no_threads(name: str, tmp_path: Path) -> None:
    """Of 4 MB each."""
    if name == "memory":
        measured = testing.run(2, lambda world: one_after_another(world, MAKERS["osgp"], 200, 1000))
        check_flat(measured[0], 100, memory=20)
    else:
        over([name], tmp_path, 200, 1000, memory=20)
