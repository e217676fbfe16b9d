"""A state holds everything that matters, and one that was saved with other options is refused."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import gossip
import slowmo
import topologies
from gossip import checkpoint, testing

Made = tuple[torch.nn.Module, Any]


def uneven(size: int) -> topologies.Topology:
    """Weights are not 1 over it."""
    ring = [[0.5 if to in (rank, (rank + 1) % size) else 0.0 for rank in range(size)] for to in range(size)]
    ring[0][0], ring[1 % size][0] = (0.8, 0.2) if size > 1 else (1.0, 1.0)
    return topologies.from_matrix(ring)


def model_of(seed: int) -> torch.nn.Module:
    model = torch.nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def train(made: Made, world: gossip.World, steps: range) -> None:
    model, optimizer = made
    for step in steps:
        optimizer.zero_grad()
        model(
            torch.randn(4, 3, generator=torch.Generator().manual_seed(100 * step + world.rank))
        ).square().mean().backward()
        optimizer.step()


def bits(made: Made) -> list[Any]:
    held = [made[1].weight]
    made[1].settle()
    return [*held, made[1].weight, *(parameter.tolist() for parameter in made[0].parameters())]


def slow_osgp(world: gossip.World, seed: int = 0, base: str = "adam", **options: Any) -> Made:
    model = model_of(seed)
    inside = (torch.optim.AdamW if base == "adam" else torch.optim.SGD)(model.parameters(), lr=0.05)
    osgp = gossip.GossipOptimizer(inside, gossip.PushSum(world, uneven(world.size), overlap=1), module=model)
    return model, slowmo.SlowMo(osgp, gossip.NoAverage(), **{"period": 3, "momentum": 0.5, **options})


# Options


def base(world: gossip.World, **options: Any) -> gossip.GossipOptimizer:
    """With the averager in `options`, where there is one."""
    model = torch.nn.Sequential(model_of(0), torch.nn.BatchNorm1d(2))
    averager = options.pop("averager", None) or gossip.PushSum(world, uneven(world.size))
    inside = options.pop("optimizer", torch.optim.SGD)(model.parameters(), lr=0.1)
    if options.get("gradients") is True:
        options["gradients"] = world
    return gossip.GossipOptimizer(inside, averager, module=model, **options)


def pushing(world: gossip.World, **options: Any) -> gossip.GossipOptimizer:
    graph = options.pop("topology", uneven)
    return base(world, averager=gossip.PushSum(world, graph(world.size), **options))


OUTER = functools.partial(torch.optim.SGD, lr=0.7)
SLOW = {"period": 2, "momentum": 0.9, "lr": 0.7, "buffers": "reset", "nesterov": True, "rescale": False}

# A class, how it is made, a value other than the default for each option that is compared, and those that are free.
OPTIONS: dict[str, tuple[Any, Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "GossipOptimizer": (
        gossip.GossipOptimizer,
        base,
        {
            "optimizer": torch.optim.Adam,
            "gradients": True,
            "module_buffers": "average",
        },
        {
            "initial": "check",
            "on_failure": "shrink",
            "check_finite": True,
            "checksum": True,
            "trace_folder": "trace",
        },
    ),
    "PushSum": (
        gossip.PushSum,
        pushing,
        {"topology": topologies.exponential, "overlap": 1, "landing": "early", "wire": "int8"},
        {},
    ),
    "Every": (
        gossip.Every,
        lambda world, period=2, averager=gossip.NoAverage: base(world, averager=gossip.Every(period, averager())),
        {"period": 3, "averager": lambda: gossip.Chain(gossip.NoAverage())},
        {},
    ),
    "SlowMo": (
        slowmo.SlowMo,
        lambda world, averager=gossip.NoAverage, **options: slowmo.SlowMo(base(world), averager(), **options),
        {**SLOW, "averager": lambda: gossip.Chain(gossip.NoAverage()), "outer": OUTER},
        {"anchors_on": "cpu"},
    ),
    "ShardedSlowMo": (
        slowmo.ShardedSlowMo,
        lambda world, **options: slowmo.ShardedSlowMo(base(world), world, **options),
        SLOW,
        {"anchors_on": "cpu"},
    ),
    "SharedMomentum": (
        slowmo.SharedMomentum,
        lambda world, **options: slowmo.SharedMomentum(base(world), world, **options),
        SLOW,
        {},
    ),
    "StreamingSlowMo": (
        slowmo.StreamingSlowMo,
        lambda world, shards=2, **options: slowmo.StreamingSlowMo(base(world), world, shards=shards, **options),
        {
            **{name: value for name, value in SLOW.items() if name != "buffers"},
            **{"shards": 1, "delay": 2, "mixing": 0.5, "ahead": True, "outer": OUTER},
        },
        {"anchors_on": "cpu"},
    ),
}
# Compared by another test (master_weights, node, fragments, sections), or the very things that a state is loaded into.
ELSEWHERE = {"fragments", "master_weights", "node", "module", "sections", "world"}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_compared_or_free(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that was saved with another value is refused with both values, or goes on where the option is free."""
    monkeypatch.chdir(tmp_path)
    kind, make, compared, free = OPTIONS[name]
    given = inspect.signature(kind).parameters.keys() - ELSEWHERE
    outside = {"optimizer", "averager"} - compared.keys()
    assert given - outside == compared.keys() | free.keys(), "an option of which nobody has said what loading does"

    def job(world: gossip.World) -> None:
        plain = make(world)
        plain.step()
        saved = copy.deepcopy(plain.state_dict())
        for option, value in compared.items():
            other = make(world, **{option: value})
            before = [parameter.clone() for group in other.param_groups for parameter in group["params"]]
            with pytest.raises(gossip.UsageError) as refused:
                other.load_state_dict(saved)
            if option in plain.state_dict().get("slowmo", {}).get("options", {}) and option not in ("shards", "delay"):
                assert f"({option}={getattr(plain, option)!r}), and this is {name}({option}={value!r})" in str(
                    refused.value
                )
            after = [parameter for group in other.param_groups for parameter in group["params"]]
            assert all(map(torch.equal, before, after))
        for option, value in free.items():
            if option == "on_failure":
                continue  # it says what the other optimizers of this process do, too
            make(world, **{option: value}).load_state_dict(saved)
        plain.settle()

    testing.run(2, job, timeout=10)


def test_options_own_goes_on_with_those_that_are_here() -> None:
    def job(world: gossip.World) -> list[Any]:
        first = slow_osgp(world)
        train(first, world, range(4))
        saved = copy.deepcopy([first[0].state_dict(), first[1].state_dict()])
        first[1].settle()
        second = slow_osgp(world, seed=1, momentum=0.9, lr=0.7)
        with pytest.raises(gossip.UsageError, match="options is 'mine'; there are 'check', 'own'"):
            second[1].load_state_dict(saved[1], options="mine")
        second[1].load_state_dict(saved[1], options="own")
        second[0].load_state_dict(saved[0])
        assert (second[1].momentum, second[1].lr) == (0.9, 0.7)
        train(second, world, range(4, 9))
        return bits(second)

    def changed(world: gossip.World) -> list[Any]:
        made = slow_osgp(world)
        train(made, world, range(4))
        made[1].momentum, made[1].lr = 0.9, 0.7
        train(made, world, range(4, 9))
        return bits(made)

    assert testing.run(2, job) == testing.run(2, changed)


@pytest.mark.parametrize("size", [2, 3])
def test_a_checkpoint_of_other_options_is_refused(size: int, tmp_path: Path) -> None:
    """On as many ranks and on others."""

    def old(world: gossip.World) -> None:
        model, optimizer = made = slow_osgp(world, period=4, momentum=0.5, lr=0.1)
        train(made, world, range(3))
        checkpoint.save(tmp_path, world, 3, model=model, optimizer=optimizer)
        optimizer.settle()

    def new(world: gossip.World) -> int:
        model, optimizer = slow_osgp(world, period=2, momentum=0.9, lr=0.7)
        with pytest.raises(
            gossip.UsageError,
            match=r"SlowMo\(period=4, momentum=0.5, lr=0.1\), and this is SlowMo\(period=2, momentum=0.9, lr=0.7\)",
        ):
            checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
        assert checkpoint.load(tmp_path, world, model=model, optimizer=optimizer, options="own") is not None
        return int(optimizer.period)

    testing.run(2, old)
    assert testing.run(size, new) == [2] * size


def test_a_message_in_flight_is_taken_up_with_a_checksum_or_without() -> None:
    def job(world: gossip.World) -> None:
        weights = []
        for before, after in ((False, True), (True, False)):
            first, second = (
                base(world, averager=gossip.PushSum(world, uneven(world.size), overlap=1), checksum=checksum)
                for checksum in (before, after)
            )
            first.step()
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            for optimizer in (first, second):
                optimizer.step()
                weights.append(optimizer.weight)
                optimizer.settle()
        assert len(set(weights)) == 1

    testing.run(2, job)


# States without ours


def told(act: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in caught]


def test_a_bare_state_is_taken_with_one_warning() -> None:
    world = gossip.init()
    optimizer = (made := slow_osgp(world))[1]
    train(made, world, range(2))
    state = copy.deepcopy(optimizer.state_dict())
    plain = torch.optim.AdamW(model_of(0).parameters(), lr=0.05).state_dict()
    [said] = told(lambda: optimizer.load_state_dict(plain))
    assert "this state holds no 'gossip': it is a plain AdamW's. Weight 1, round 0 and step 0 begin here" in said
    assert optimizer.optimizer.steps == 0
    [said] = told(lambda: optimizer.load_state_dict({name: state[name] for name in state if name != "slowmo"}))
    assert "this state holds no 'slowmo': SlowMo takes its anchor at the next step" in said
    assert optimizer.optimizer.steps == 2
    assert told(lambda: optimizer.load_state_dict(state)) == []


# torch.distributed.checkpoint


@pytest.mark.parametrize("base", ["adam", "sgd"])
def test_get_state_dict_of_a_new_optimizer_makes_no_step_of_the_schedule(base: str) -> None:
    """On one rank, while the others go on: nobody waits for it, and no anchor is taken."""

    def job(world: gossip.World) -> list[Any]:
        model, optimizer = made = slow_osgp(world, base=base)
        rates = torch.optim.lr_scheduler.StepLR(optimizer, 100)
        values = [parameter.tolist() for parameter in model.parameters()]
        if world.rank == 1:
            get_state_dict(model, optimizer)
            get_state_dict(model, optimizer)
            assert bool(optimizer.state) == (base == "adam"), "torch has seen what the optimizer keeps"
            optimizer.optimizer.optimizer.state.clear()
        assert [parameter.tolist() for parameter in model.parameters()] == values
        assert (optimizer.steps, optimizer.optimizer.steps, optimizer.anchors, optimizer.weight) == (0, 0, [], 1.0)
        train(made, world, range(4))
        rates.step()
        return bits(made)

    def undisturbed(world: gossip.World) -> list[Any]:
        made = slow_osgp(world, base=base)
        train(made, world, range(4))
        return bits(made)

    assert testing.run(2, job, timeout=10) == testing.run(2, undisturbed)


def test_a_step_with_rates_and_gradients_of_zero_is_one_of_the_schedule() -> None:
    """Only torch.distributed.checkpoint makes one to look at the state."""
    world = gossip.init()
    model, optimizer = slow_osgp(world, base="sgd")
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(closure=None)
    assert (optimizer.steps, optimizer.optimizer.steps) == (1, 1)


def in_memory(save: Made, folder: Path) -> Callable[[Made], None]:
    states = copy.deepcopy(get_state_dict(*save))
    return lambda made: put(made, states)


def in_a_file(save: Made, folder: Path) -> Callable[[Made], None]:
    file = io.BytesIO()
    torch.save(get_state_dict(*save), file)
    file.seek(0)
    return lambda made: put(made, torch.load(file, weights_only=True))


def in_a_distributed_checkpoint(save: Made, folder: Path) -> Callable[[Made], None]:
    dcp.save({"states": list(get_state_dict(*save))}, checkpoint_id=folder, no_dist=True)

    def load(made: Made) -> None:
        holds = {"states": list(get_state_dict(*made))}
        dcp.load(holds, checkpoint_id=folder, no_dist=True)
        put(made, holds["states"])

    return load


def in_a_distributed_checkpoint_of_objects(save: Made, folder: Path) -> Callable[[Made], None]:
    dcp.save(dict(zip(("model", "optimizer"), save, strict=True)), checkpoint_id=folder, no_dist=True)
    return lambda made: dcp.load(
        dict(zip(("model", "optimizer"), made, strict=True)), checkpoint_id=folder, no_dist=True
    )


def put(made: Made, states: Any) -> None:
    set_state_dict(*made, model_state_dict=states[0], optim_state_dict=states[1])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("base", ["adam", "sgd"])
@pytest.mark.parametrize(
    "way", [in_memory, in_a_file, in_a_distributed_checkpoint, in_a_distributed_checkpoint_of_objects]
)
def test_torch_distributed_checkpoint_keeps_everything(
    way: Callable[[Made, Path], Callable[[Made], None]], base: str, tmp_path: Path
) -> None:
    """A run that goes on from it ends in the same bits, with weights that are not 1 and messages in flight."""

    def interrupted(world: gossip.World) -> list[Any]:
        first = slow_osgp(world, base=base)
        train(first, world, range(4))
        assert first[1].weight != 1
        load = way(first, tmp_path / str(world.rank))
        train(first, world, range(4, 5))
        first[1].settle()
        second = slow_osgp(world, seed=1, base=base)
        load(second)
        train(second, world, range(4, 9))
        return bits(second)

    def straight(world: gossip.World) -> list[Any]:
        made = slow_osgp(world, base=base)
        train(made, world, range(9))
        return bits(made)

    assert testing.run(2, interrupted, timeout=10) == testing.run(2, straight)


def test_what_torch_distributed_checkpoint_drops_is_refused() -> None:
    """Flattened, a state has no place for ours; and a rank does not take another rank's."""
    flat = StateDictOptions(flatten_optimizer_state_dict=True)

    def job(world: gossip.World) -> list[Any]:
        made = slow_osgp(world)
        train(made, world, range(2))
        flattened = copy.deepcopy(get_optimizer_state_dict(*made, options=flat))
        with pytest.raises(gossip.UsageError, match="saved with flatten_optimizer_state_dict, which drops weight"):
            set_optimizer_state_dict(*made, flattened, options=flat)
        states = copy.deepcopy(get_state_dict(*made))
        mine = made[1].state_dict()["gossip"]["places"]
        made[1].settle()
        return [states, mine]

    (states, _), (_, places) = testing.run(2, job)
    assert places == [[1, 2]]

    def others(world: gossip.World) -> None:
        made = slow_osgp(world)
        if world.rank == 1:
            with pytest.raises(gossip.UsageError, match="saved by rank 0 of 2, and this is rank 1 of 2"):
                put(made, states)

    testing.run(2, others)


# Several optimizers in one checkpoint


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Pair(torch.nn.Module):
    """A generator and a critic, with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = model_of(0), torch.nn.Sequential(model_of(1), torch.nn.BatchNorm1d(2))


def two(world: gossip.World, pair: Pair) -> dict[str, Any]:
    sgd = torch.optim.SGD(pair.generator.parameters(), lr=0.1)
    adam = torch.optim.AdamW(pair.critic.parameters(), lr=0.1)
    return {
        "optimizer": gossip.GossipOptimizer(sgd, gossip.ExactAverage(world)),
        "second": slowmo.SlowMo(
            gossip.GossipOptimizer(adam, gossip.PushSum(world, uneven(world.size), overlap=1)),
            gossip.NoAverage(),
            period=2,
        ),
    }


@pytest.mark.parametrize("apart", [False, True], ids=["one module", "two modules"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.usefixtures("doubles")
def test_every_optimizer_of_a_checkpoint_counts(size: int, apart: bool, tmp_path: Path) -> None:
    """On as many ranks exactly, on others and in an export at the weighted mean."""

    def named(pair: Pair) -> dict[str, Any]:
        return {"model": pair.generator, "critic": pair.critic} if apart else {"model": pair}

    def old(world: gossip.World) -> tuple[list[torch.Tensor], float, dict[str, Any]]:
        pair = Pair()
        optimizers = two(world, pair)
        for step in range(5):
            for number, parameter in enumerate(pair.parameters()):
                parameter.grad = torch.full_like(parameter, (1 + world.rank) * (1 + step) * (1 + number))
            for optimizer in optimizers.values():
                optimizer.step()
        pair.critic[1].running_mean.fill_(world.rank)  # type: ignore[operator]
        checkpoint.save(tmp_path, world, 5, **named(pair), **optimizers, note=world.rank)
        kept = copy.deepcopy(optimizers["second"].state_dict())
        assert optimizers["second"].weight != 1
        optimizers["second"].settle()
        return [each.detach().clone() for each in pair.parameters()], optimizers["second"].weight, kept

    def new(world: gossip.World) -> tuple[list[torch.Tensor], float, dict[str, Any], Any, Any]:
        pair = Pair()
        optimizers = two(world, pair)
        saved = checkpoint.load(tmp_path, world, **named(pair), **optimizers)
        assert saved is not None
        assert saved.more == {"note": world.rank % 3}
        kept = copy.deepcopy(optimizers["second"].state_dict())
        weight = optimizers["second"].weight
        optimizers["second"].settle()
        values = [each.detach().clone() for each in pair.parameters()]
        return values, weight, kept, pair.critic[1].running_mean.tolist(), optimizers["optimizer"].steps  # type: ignore[operator]

    before = testing.run(3, old)
    total = sum(weight for _, weight, _ in before)
    mean = [sum(weight * values[number] for values, weight, _ in before) / total for number in range(len(before[0][0]))]
    after = testing.run(size, new)
    for rank, (values, weight, kept, statistics, steps) in enumerate(after):
        assert steps == 5
        ours = before[rank][2]
        for number in kept["state"]:
            moments = [each[2]["state"][number]["exp_avg"] for each in before]
            expected = ours["state"][number]["exp_avg"] if size == 3 else sum(moments) / 3
            torch.testing.assert_close(kept["state"][number]["exp_avg"], expected, rtol=1e-12, atol=1e-15)
        assert kept["slowmo"]["steps"] == 5
        if size == 3:
            assert all(map(torch.equal, values, before[rank][0]))
            assert weight == ours["gossip"]["weight"]
            assert statistics == [rank, rank]
        else:
            assert weight == 1
            assert statistics == [1, 1]
            torch.testing.assert_close(values, mean, rtol=1e-12, atol=1e-12)
    exported = checkpoint.consensus(tmp_path)
    names = [name for name, _ in (Pair().generator if apart else Pair()).named_parameters()]
    torch.testing.assert_close([exported[name] for name in names], mean[: len(names)], rtol=1e-12, atol=1e-12)
    if apart:
        critic = checkpoint.consensus(tmp_path, "critic")
        others = [critic[name] for name, _ in Pair().critic.named_parameters()]
        torch.testing.assert_close(others, mean[len(names) :], rtol=1e-12, atol=1e-12)
    with pytest.raises(gossip.UsageError, match="'judge' is none of the modules"):
        checkpoint.consensus(tmp_path, "judge")


def test_an_optimizer_whose_module_is_not_saved_is_refused(tmp_path: Path) -> None:
    world, pair = gossip.init(), Pair()
    with pytest.raises(gossip.UsageError, match="save another module beside it, as in critic=critic"):
        checkpoint.save(tmp_path, world, 1, model=pair.generator, **two(world, pair))


# State that wrapped optimizers keep


class Counting(torch.optim.Optimizer):
    """Its state is under a text, as MADGRAD's counter, and one entry is no dictionary."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.state["k"] = self.state.get("k", torch.tensor(0.0)) + 1  # type: ignore[index, call-overload]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = torch.ones(2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_state_under_a_key_of_the_optimizers_own_comes_back(size: int, tmp_path: Path) -> None:
    def made(world: gossip.World) -> Made:
        model = model_of(0)
        return model, gossip.GossipOptimizer(Counting(model.parameters()), gossip.ExactAverage(world))

    def old(world: gossip.World) -> None:
        model, optimizer = made(world)
        optimizer.step()
        optimizer.step()
        checkpoint.save(tmp_path, world, 2, model=model, optimizer=optimizer)

    def new(world: gossip.World) -> float:
        model, optimizer = made(world)
        assert checkpoint.load(tmp_path, world, model=model, optimizer=optimizer) is not None
        return float(optimizer.state["k"])

    testing.run(2, old)
    assert testing.run(size, new) == [2.0] * size


class AtOnce(torch.optim.Optimizer):
    """Makes its state in the constructor, as AdaHessian does."""

    def __init__(self, parameters: Any, start: float = 0.25) -> None:
        super().__init__(parameters, {"lr": 0.1, "start": start})
        self.state["k"] = 0  # type: ignore[index]
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["m"] = torch.full_like(parameter, start)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.state["k"] += 1  # type: ignore[index]
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(self.state[parameter]["m"].add_(parameter.grad), alpha=0.1)


class Handing(AtOnce):
    """Hands its options on."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (AtOnce, {}),
        (AtOnce, {"start": 0.5}),
        (Handing, {"start": 0.5}),
        (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}),
        (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.0}),
    ],
)
def test_a_reset_gives_what_a_new_optimizer_holds(kind: Any, options: dict[str, Any]) -> None:
    model = model_of(0)
    optimizer = slowmo.SlowMo(kind(model.parameters(), **options), gossip.NoAverage(), period=2, buffers="reset")
    train((model, optimizer), gossip.init(), range(4))
    fresh = kind(model.parameters(), **options)
    assert optimizer.state.keys() == fresh.state.keys()
    for key, entries in fresh.state.items():
        assert str(optimizer.state[key]) == str(entries)
    train((model, optimizer), gossip.init(), range(5))


def test_an_optimizer_that_cannot_be_made_again_is_refused_for_a_reset() -> None:
    class Own(AtOnce):
        def __init__(self, model: torch.nn.Module, secret: int) -> None:
            super().__init__(model.parameters())

    with pytest.raises(gossip.UsageError, match="buffers='reset' cannot make a new Own to see what it begins with"):
        slowmo.SlowMo(Own(model_of(0), 3), gossip.NoAverage(), buffers="reset")


def test_a_state_of_other_fragments_is_refused() -> None:
    def job(world: gossip.World) -> None:
        def cut(*members: str) -> slowmo.StreamingSlowMo:
            model = model_of(0)
            fragments = [getattr(model, name) for name in members]
            return slowmo.StreamingSlowMo(
                torch.optim.SGD(model.parameters(), lr=0.1), world, period=2, fragments=fragments
            )

        first = cut("weight", "bias")
        first.step()
        saved = copy.deepcopy(first.state_dict())
        with pytest.raises(gossip.UsageError, match=r"fragments|elements"):
            cut("bias", "weight").load_state_dict(saved)
        first.settle()

    testing.run(2, job, timeout=10)
