"""Parameters whose memory is shared, moved or replaced once the optimizer is made: followed, or named in an error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from spawn import mpirun

import gossip
import slowmo
import topologies
from gossip import testing


def step_on(optimizer: torch.optim.Optimizer, gradient: float = 1.0) -> None:
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        parameter.grad = torch.full(parameter.shape, gradient)
    optimizer.step()


# -- memory ------------------------------------------------------------------------------------------------------------


def test_what_a_flight_reads_stays_where_it_is() -> None:
    """While the parameters themselves move into shared memory, and what was theirs would be freed."""

    def run(world: gossip.World) -> None:
        model = torch.nn.Linear(3, 4)
        optimizer = MAKERS["OSGP"](world, torch.optim.SGD(model.parameters(), lr=0.0))
        step_on(optimizer)
        before = model.weight.data_ptr()
        model.share_memory()
        [flight] = optimizer.mass.reading
        [(_, values)] = flight.sends.values()
        assert values.data_ptr() == before != model.weight.data_ptr()
        assert not values.is_shared()
        optimizer.settle()

    testing.run(2, run)


@pytest.mark.slow
def test_a_model_that_is_shared_while_a_round_is_in_flight(tmp_path: Path) -> None:
    """Peers get the values that were sent, and not what lies in freed memory; over MPI and Gloo."""
    for seen in mpirun(2, "workers.shared", tmp_path):
        for transport in ("mpi", "gloo"):
            assert (seen[transport] == 1).all(), transport


MAKERS: dict[str, Callable[[gossip.World, torch.optim.Optimizer], Any]] = {
    "OSGP": lambda world, base: gossip.GossipOptimizer(
        base, gossip.PushSum(world, topologies.exponential(world.size), overlap=1), master_weights=True
    ),
    "exact": lambda world, base: gossip.GossipOptimizer(base, gossip.ExactAverage(world), master_weights=True),
    "sharded": lambda world, base: slowmo.ShardedSlowMo(
        gossip.GossipOptimizer(base, gossip.NoAverage(), master_weights=True), world, period=2
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["", "masters"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("shared", ["before", "after", "by one parameter"])
def test_a_shared_model_trains_as_any_other(
    make: Callable[[gossip.World, torch.optim.Optimizer], Any], dtype: torch.dtype, shared: str
) -> None:
    """It stays shared where it was before; later the other process gets a copy, and a warning says so."""

    def run(world: gossip.World, shared: str) -> list[torch.Tensor]:
        torch.manual_seed(world.rank)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4, dtype=dtype), torch.nn.Linear(4, 2, dtype=dtype))
        model.empty = torch.nn.Parameter(torch.zeros(0, dtype=dtype))
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + number)
        if shared == "before":
            model.share_memory()
        optimizer = make(world, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(5):
            if step == 2 and shared == "after":
                model.share_memory()
            if step == 2 and shared == "by one parameter":
                model[1].bias.untyped_storage().share_memory_()
            step_on(optimizer, float(world.rank + step))
        optimizer.settle()
        full = [parameter for parameter in model.parameters() if parameter.numel()]
        assert all(parameter.is_shared() == (shared == "before") for parameter in full)
        return [parameter.detach().clone() for parameter in model.parameters()]

    with pytest.warns(UserWarning, match="shared memory"):
        those = testing.run(2, lambda world: run(world, shared))
    for ours, theirs in zip(those, testing.run(2, lambda world: run(world, "never")), strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_a_model_that_was_shared_before_says_that_it_moves() -> None:
    """A process that has it already does not see the new memory."""
    model = torch.nn.Linear(3, 4).share_memory()
    with pytest.warns(
        UserWarning, match=r"parameter 'weight' and 1 more lie in shared memory.* Make the optimizer before"
    ):
        gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage(), module=model)


def test_storage_of_parameters_cannot_be_freed() -> None:
    model = torch.nn.Linear(3, 4)
    gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage())
    with pytest.raises(RuntimeError, match="not resizable"):
        model.weight.untyped_storage().resize_(0)


@pytest.mark.parametrize("call", ["step", "settle"])
@pytest.mark.parametrize(
    "move",
    [
        lambda model: torch.nn.utils.vector_to_parameters(torch.zeros(16), model.parameters()),
        lambda model: model.double(),
        lambda model: model.weight.set_(torch.zeros(4, 3)),
        lambda model: setattr(model.weight, "data", torch.zeros(40, 30)),
        lambda model: setattr(model.weight, "data", torch.zeros(3, 4).share_memory_().t()),
    ],
    ids=["vector_to_parameters", "double", "set_", "another size", "shared, in another order of its elements"],
)
def test_parameters_that_left_their_bucket_are_named_by_the_next_call(
    move: Callable[[torch.nn.Module], Any], call: str
) -> None:
    """Landing messages would not reach these parameters."""
    model, world = torch.nn.Linear(3, 4), gossip.init()
    averager = gossip.PushSum(world, topologies.exponential(1), overlap=1)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), averager, module=model)
    optimizer.step()
    with torch.no_grad():
        move(model)
    with pytest.raises(gossip.GossipError, match="parameter 'weight' has left its bucket"):
        getattr(optimizer, call)()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["", "masters"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_model_that_moved_away_and_back_trains_on(
    make: Callable[[gossip.World, torch.optim.Optimizer], Any], dtype: torch.dtype
) -> None:
    """As by `.to()` to another device and back; also while a round is in flight, for the values are the same."""

    def run(world: gossip.World, moves: bool) -> list[torch.Tensor]:
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.Linear(4, 2)).to(dtype)
        model.to(memory_format=torch.channels_last).empty = torch.nn.Parameter(torch.zeros(0, dtype=dtype))
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + number)
        optimizer = make(world, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(5):
            if moves and step in (0, 2):
                optimizer.zero_grad()
                model.double().to(dtype)
            step_on(optimizer, float(world.rank + step))
        optimizer.settle()
        base = optimizer if isinstance(optimizer, gossip.GossipOptimizer) else optimizer.optimizer
        assert all(slot.parameter.data_ptr() == slot.address for each in base.mass.buckets for slot in each.slots)
        return [parameter.detach().clone() for parameter in model.parameters()]

    pairs = zip(*(testing.run(2, lambda world, m=moves: run(world, m)) for moves in (True, False)), strict=True)
    assert all(torch.equal(one, other) for ours, theirs in pairs for one, other in zip(ours, theirs, strict=True))


def test_the_mean_reaches_a_model_that_moved_away_and_back() -> None:
    """Also before the next step takes it back."""

    def run(world: gossip.World) -> list[float]:
        model = torch.nn.Linear(1, 1, bias=False)
        optimizer = MAKERS["exact"](world, torch.optim.SGD(model.parameters(), lr=1.0))
        with torch.no_grad():
            model.weight.fill_(world.rank)
        model.double().float()
        with optimizer.mean(model):
            mean = model.weight.item()
        return [mean, model.weight.item()]

    assert testing.run(2, run) == [[0.5, 0.0], [0.5, 1.0]]


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_model_that_came_back_with_other_values(in_flight: bool) -> None:
    """Such as those that were loaded meanwhile. They are taken, but not while a message carries the old ones."""

    def run(world: gossip.World) -> list[float]:
        parameters = [torch.nn.Parameter(torch.full((2,), each)) for each in (1.0, 2.0)]
        model = torch.nn.ParameterList(parameters)
        optimizer = MAKERS["OSGP"](world, torch.optim.SGD(model.parameters(), lr=0.0))
        step_on(optimizer)
        if not in_flight:
            optimizer.settle()
        model.double()
        with torch.no_grad():
            parameters[0].fill_(5)
        model.float()
        if in_flight:
            with pytest.raises(gossip.GossipError, match="has left its bucket: its data was replaced"):
                step_on(optimizer)
            return []
        step_on(optimizer)
        optimizer.settle()
        values: list[float] = optimizer.mass.buckets[0].values.tolist()
        return values

    for values in testing.run(2, run):
        assert set(values) == (set() if in_flight else {5.0, 2.0, 0.0})


# -- what takes the place of something ---------------------------------------------------------------------------------


def wrapped(model: torch.nn.Module) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage(), module=model)


def test_a_module_that_was_replaced_is_named() -> None:
    """A new head, whose parameters no optimizer trains; the old one's would go on being averaged."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.Linear(4, 2)))
    for place, name in ((model[1], "1.0.weight"), (model, "0.weight")):
        optimizer = wrapped(model)
        step_on(optimizer)
        place[0] = torch.nn.Linear(*place[0].weight.shape[::-1])
        with pytest.raises(gossip.GossipError, match=f"parameter '{name}' is no longer the module's"):
            optimizer.step()


def test_a_module_around_another_is_followed() -> None:
    """Compiled, wrapped or put elsewhere: its parameters are the same. And what leaves it later is named again."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = wrapped(model)
    model[0] = torch.nn.Sequential(model[0])
    optimizer.step()
    model[0][0] = torch.nn.Linear(3, 4)
    with pytest.raises(gossip.GossipError, match=r"parameter '0\.weight' is no longer the module's"):
        optimizer.step()


@pytest.mark.parametrize("way", ["register_buffer", "assignment", "to"])
def test_a_buffer_that_was_replaced_is_averaged(way: str) -> None:
    def run(world: gossip.World) -> list[float]:
        model = torch.nn.BatchNorm1d(2)
        averager = gossip.Every(2, gossip.ExactAverage(world))
        sgd = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer = gossip.GossipOptimizer(sgd, averager, module=model, module_buffers="average")
        new = torch.full((2,), float(world.rank))
        if way == "register_buffer":
            model.register_buffer("running_mean", new)
        elif way == "assignment":
            model.running_mean = new
        else:
            model._apply(lambda tensor: new.clone() if tensor is model.running_mean else tensor)
        step_on(optimizer)
        step_on(optimizer)
        return model.running_mean.tolist()

    assert testing.run(3, run) == [[1.0, 1.0]] * 3


@pytest.mark.parametrize("change", ["gone", "another shape", "another dtype"])
def test_a_buffer_that_cannot_be_followed_is_named(change: str) -> None:
    model = torch.nn.BatchNorm1d(2)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    averager = gossip.ExactAverage(gossip.init())
    optimizer = gossip.GossipOptimizer(sgd, averager, module=model, module_buffers="average")
    new = {"gone": None, "another shape": torch.zeros(3), "another dtype": torch.zeros(2, dtype=torch.float64)}
    model.running_var = new[change]
    with pytest.raises(gossip.GossipError, match=r"buffer 'running_var' .* module_buffers='local'"):
        step_on(optimizer)


def test_a_buffer_that_joins_stays_each_ranks_own_and_says_so() -> None:
    model = torch.nn.BatchNorm1d(2)
    sgd = torch.optim.SGD(model.parameters(), lr=0.0)
    averager = gossip.ExactAverage(gossip.init())
    optimizer = gossip.GossipOptimizer(sgd, averager, module=model, module_buffers="average")
    model.register_buffer("late", torch.zeros(3))
    with pytest.warns(UserWarning, match="buffer 'late' joined"):
        step_on(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step_on(optimizer)


def test_slow_momentum_follows_a_parameter_into_another_group() -> None:
    """Each is moved with the rate of its own group."""

    def run(move: bool) -> list[float]:
        first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
        ends = [{"params": [second], "lr": 0.1}, {"params": [first], "lr": 1.0}]
        begins = [{**ends[0], "params": [first]}, {**ends[1], "params": [second]}] if move else ends
        optimizer = slowmo.SlowMo(torch.optim.SGD(begins, lr=0.0), gossip.NoAverage(), period=1, momentum=0.5)
        if move:
            one, other = optimizer.param_groups
            one["params"], other["params"] = other["params"], one["params"]
        for step in range(4):
            if step == 2:
                optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.3, 0.5
            step_on(optimizer)
        return [first.item(), second.item()]

    assert run(move=True) == run(move=False)


def test_a_group_that_was_taken_out_leaves_no_parameter_behind() -> None:
    """Its parameters went to another group before."""
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    sgd = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.1)
    optimizer = slowmo.SlowMo(sgd, gossip.NoAverage(), period=2)
    step_on(optimizer)
    sgd.param_groups[0]["params"].append(sgd.param_groups.pop()["params"][0])
    for _ in range(3):
        step_on(optimizer)
    assert first.item() == second.item()


def test_a_module_that_drops_a_part_goes_on() -> None:
    """Such as an auxiliary head: nothing was put in its place that nobody would train."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = wrapped(model)
    step_on(optimizer)
    del model[1]
    optimizer.zero_grad()
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert optimizer.steps == 2
