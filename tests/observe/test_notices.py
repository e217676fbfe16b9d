"""A word about runs that do not do what their script says, and none in a healthy run of the same shape."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import spawn
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

import gossip
import slowmo
import topologies
from gossip import testing

Wrap = Callable[[gossip.World, torch.optim.Optimizer, torch.nn.Module], Any]


def osgp(world: gossip.World, sgd: torch.optim.Optimizer, model: torch.nn.Module) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(
        sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1), module=model
    )


def slow(world: gossip.World, sgd: torch.optim.Optimizer, model: torch.nn.Module) -> slowmo.SlowMo:
    return slowmo.SlowMo(osgp(world, sgd, model), gossip.ExactAverage(world), period=6)


WRAPS: dict[str, Wrap] = {
    "osgp": osgp,
    "slowmo": slow,
    "ar": lambda world, sgd, model: gossip.GossipOptimizer(sgd, gossip.NoAverage(), gradients=world, module=model),
    "any": lambda world, sgd, model: gossip.GossipOptimizer(
        sgd, gossip.PushSum(world, topologies.exponential(world.size), landing="any"), module=model
    ),
    "hosts": lambda world, sgd, model: gossip.GossipOptimizer(
        sgd, gossip.PushSum(world.across, topologies.exponential(world.across.size)), gradients=world.node
    ),
}
HOSTS = {"hosts": ["a", "a", "b", "b"]}


def words(
    method: str,
    data: Callable[[int], float],
    act: Callable[[Any, torch.optim.Optimizer], object] = lambda *_: None,
    steps: int = 7,
) -> list[str]:
    """The warnings of a run on 4 ranks, whose rank r trains on the value data(r), and that does `act` afterwards."""
    start = torch.nn.Linear(3, 1)

    def run(world: gossip.World) -> None:
        model = copy.deepcopy(start)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = WRAPS[method](world, sgd, model)
        for step in range(steps):
            optimizer.zero_grad()
            model(torch.full((3,), data(world.rank) + step)).sum().backward()
            optimizer.step()
        act(optimizer, sgd)
        optimizer.settle()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        testing.run(4, run, hosts=HOSTS.get(method))
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("method", WRAPS)
def test_equal_gradients(method: str) -> None:
    """Once, of all ranks, or of counterparts on other hosts; not where no rank waits for another."""
    count = 2 if method == "hosts" else 4
    said = words(method, lambda rank: 1.0)
    assert len(said) == (0 if method == "any" else 4 // count)
    assert all(f"all {count} ranks had the same gradients in their first step" in each for each in said)
    assert words(method, lambda rank: 1.0 + rank) == []


def test_equal_gradients_of_a_node() -> None:
    """Ranks of a host may share their data; hosts may not."""
    assert words("hosts", lambda rank: float(rank // 2)) == []


def test_overflows_are_no_equal_gradients() -> None:
    """The first step of a GradScaler often has them."""
    assert words("osgp", lambda rank: math.inf) == []


def equal_steps(world: gossip.World, state: Any, has_closure: bool) -> Any:
    """Steps on the same data everywhere, from `state`."""
    model = torch.nn.Linear(3, 1)
    optimizer = osgp(world, torch.optim.SGD(model.parameters(), lr=0.1), model)
    if state is not None:
        optimizer.load_state_dict(state)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(torch.ones(3)).sum()
        value.backward()
        return value

    for _ in range(9):
        if has_closure:
            optimizer.step(loss)
        else:
            loss()
            optimizer.step()
    optimizer.settle()
    return optimizer.state_dict()


def test_equal_gradients_of_a_resumed_run() -> None:
    with pytest.warns(UserWarning, match="all 2 ranks had the same gradients"):
        states = testing.run(2, lambda world: equal_steps(world, None, has_closure=False))
    with pytest.warns(UserWarning, match="all 2 ranks had the same gradients"):
        testing.run(2, lambda world: equal_steps(world, states[world.rank], has_closure=False))


def test_ranks_without_data_are_no_equal_ranks() -> None:
    assert words("osgp", lambda rank: 0.0 if rank else 1.0) == []


@pytest.fixture
def group_of_one() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_is_named(group_of_one: None) -> None:
    def run(world: gossip.World) -> None:
        model = torch.nn.Linear(2, 1)
        with torch.no_grad():
            model.weight.fill_(1.0)
        ddp = torch.nn.Sequential(model)
        ddp.append(torch.nn.Identity())
        ddp.inner = DistributedDataParallel(model)
        optimizer = osgp(world, torch.optim.SGD(model.parameters(), lr=0.1), ddp)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.settle()

    with pytest.warns(UserWarning, match="the model is inside DistributedDataParallel, which averages them already"):
        testing.run(2, run)


@pytest.mark.parametrize("method", ["osgp", "slowmo"])
def test_the_wrapped_optimizer_stepped_directly(method: str) -> None:
    def twice(optimizer: Any, sgd: torch.optim.Optimizer) -> None:
        optimizer.settle()
        sgd.step()
        sgd.step()

    said = words(method, float, twice)
    direct = [each for each in said if each.startswith("SGD.step() was called, and not step() of the GossipOptimizer")]
    assert len(direct) == 4, "once on each rank"


def test_a_state_for_a_distributed_checkpoint_is_no_step() -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model = torch.nn.Linear(2, 1)
    optimizer = gossip.GossipOptimizer(torch.optim.AdamW(model.parameters()), gossip.NoAverage())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_state_dict(model, optimizer)


def test_a_wrapped_optimizer_without_its_wrapper_is_free() -> None:
    model = torch.nn.Linear(2, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = gossip.GossipOptimizer(sgd, gossip.NoAverage())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    del optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgd.step()
    assert not sgd._optimizer_step_post_hooks


@pytest.mark.parametrize(("steps", "speaks"), [(5, True), (6, False)])
def test_a_period_that_never_came(steps: int, speaks: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert words("slowmo", float, steps=steps) == []
    said = capsys.readouterr().err
    assert (
        said.count("SlowMo made no outer step: the run had 5 steps, and the outer step comes after every 6") == speaks
    )


def test_a_resumed_run_may_end_before_its_period(capsys: pytest.CaptureFixture[str]) -> None:
    def run(world: gossip.World, steps: int, state: Any) -> Any:
        model = torch.nn.Linear(3, 1)
        optimizer = slow(world, torch.optim.SGD(model.parameters(), lr=0.1), model)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            model(torch.full((3,), float(world.rank))).sum().backward()
            optimizer.step()
        optimizer.settle()
        return optimizer.state_dict()

    states = testing.run(2, lambda world: run(world, 8, None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(2, lambda world: run(world, 3, states[world.rank]))
    assert "no outer step" not in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(world: gossip.World) -> None:
        model = torch.nn.Linear(3, 1)
        optimizer = osgp(world, torch.optim.SGD(model.parameters(), lr=0.1), model)
        found = gossip.checkpoint.load(tmp_path / "run", world, model=model, optimizer=optimizer)
        if found is None:
            gossip.checkpoint.save(tmp_path / "run", world, 0, model=model, optimizer=optimizer)

    testing.run(2, run)
    assert (
        capsys.readouterr().err
        == f"gossip: {tmp_path}/run holds no checkpoint, so the run begins with its first step\n"
    )
    testing.run(2, run)
    assert capsys.readouterr().err == ""


SCRIPT = "import gossip; print(gossip.init().size)"


@pytest.mark.parametrize(
    ("name", "value", "speaks"),
    [("SLURM_NTASKS", "4", True), ("SLURM_NTASKS", "1", False), ("FLUX_JOB_SIZE", "2", True)],
)
def test_a_world_of_one_in_a_job_of_more(name: str, value: str, speaks: bool) -> None:
    variables = {**spawn.variables({}), name: value}
    outcome = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=variables, check=True)
    assert outcome.stdout == "1\n"
    assert (f"made a world of one rank, and {name}={value}: this process trains alone" in outcome.stderr) == speaks


def test_ranks_of_a_launcher_hear_nothing() -> None:
    outcome = spawn.run_mpirun(2, ["-c", SCRIPT], env={"SLURM_NTASKS": "4"} if "SLURM_JOB_ID" in os.environ else {})
    assert outcome.code == 0
    assert "trains alone" not in outcome.output
