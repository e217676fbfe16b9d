"""Parameters that are written by hand between steps: refused while something is in flight, welcome otherwise."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

SIZE = 4
Make = Callable[[gossip.World, torch.optim.Optimizer], Any]


def wrap(base: torch.optim.Optimizer, averager: gossip.Averager, **options: Any) -> gossip.GossipOptimizer:
    """With masters for parameters in 16 bits."""
    return gossip.GossipOptimizer(base, averager, master_weights=True, **options)


def alone(base: torch.optim.Optimizer) -> gossip.GossipOptimizer:
    return wrap(base, gossip.NoAverage())


def push(world: gossip.World, **options: Any) -> gossip.PushSum:
    return gossip.PushSum(world, topologies.exponential(world.size), **options)


def over(**options: Any) -> Make:
    return lambda world, base: wrap(base, push(world, **options))


def osgp(world: gossip.World, base: torch.optim.Optimizer, **options: Any) -> gossip.GossipOptimizer:
    return wrap(base, push(world, overlap=1), **options)


# In every one of them something is in flight between steps.
IN_FLIGHT: dict[str, Make] = {
    "OSGP": over(overlap=1),
    "OSGP over a wire": over(overlap=1, wire="bfloat16"),
    "overlap 2": over(overlap=2),
    "early": over(overlap=2, landing="early"),
    "any": over(landing="any"),
    "tau-OSGP": lambda world, base: wrap(base, gossip.Every(2, push(world, overlap=2))),
    "a chain": lambda world, base: wrap(
        base, gossip.Chain(push(world, overlap=1), gossip.Every(9, gossip.ExactAverage(world)))
    ),
    "SlowMo over OSGP": lambda world, base: slowmo.SlowMo(osgp(world, base), gossip.ExactAverage(world), period=9),
    "streaming": lambda world, base: slowmo.StreamingSlowMo(alone(base), world, period=2),
    "streaming over SGP": lambda world, base: slowmo.StreamingSlowMo(over()(world, base), world, period=2),
}

# In none of these.
AT_REST: dict[str, Make] = {
    "SGP": over(),
    "Local SGD": lambda world, base: wrap(base, gossip.Every(2, gossip.ExactAverage(world))),
    "AR-SGD": lambda world, base: wrap(base, gossip.NoAverage(), gradients=world),
    "SlowMo over SGP": lambda world, base: slowmo.SlowMo(over()(world, base), gossip.ExactAverage(world), period=2),
    "shared momentum": lambda world, base: slowmo.SharedMomentum(over()(world, base), world, period=2),
    "streaming without delay": lambda world, base: slowmo.StreamingSlowMo(alone(base), world, period=2, delay=0),
}


def model_of(value: float = 0.0) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


SEVENS = model_of(7.0).state_dict()


def idle_step(model: torch.nn.Module, optimizer: Any) -> None:
    """A step whose gradients are zeros."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros(parameter.shape)
    optimizer.step()


def begun(make: Make, world: gossip.World, lr: float = 0.0, steps: int = 2) -> tuple[torch.nn.Module, Any]:
    model = model_of()
    optimizer = make(world, torch.optim.SGD(model.parameters(), lr=lr))
    for _ in range(steps):
        idle_step(model, optimizer)
    return model, optimizer


def values_of(model: torch.nn.Module) -> list[float]:
    return torch.nn.utils.parameters_to_vector(model.parameters()).unique().tolist()


REFUSED = r"parameter 0 of group 0 .* written .* in flight.* settle\(\) on every rank"


# -- while something is in flight --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", IN_FLIGHT.values(), ids=IN_FLIGHT)
def test_loading_weights_while_something_is_in_flight_raises(make: Make) -> None:
    """Loaded weights would be mixed with the values that they replace: sevens become 3.5."""

    def run(world: gossip.World) -> list[float]:
        model, optimizer = begun(make, world, steps=3)
        model.load_state_dict(SEVENS)
        idle_step(model, optimizer)
        optimizer.settle()
        return values_of(model)

    with pytest.raises(gossip.GossipError, match=REFUSED):
        testing.run(SIZE, run)


@pytest.mark.parametrize("make", IN_FLIGHT.values(), ids=IN_FLIGHT)
def test_weights_loaded_after_settle_stay(make: Make) -> None:
    def run(world: gossip.World) -> list[float]:
        model, optimizer = begun(make, world, steps=3)
        optimizer.settle()
        model.load_state_dict(SEVENS)
        if hasattr(optimizer, "restart"):
            optimizer.restart()
        for _ in range(3):
            idle_step(model, optimizer)
        optimizer.settle()
        return values_of(model)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert testing.run(SIZE, run) == [[7.0]] * SIZE


def swapped(model: torch.nn.Module) -> Callable[[], None]:
    @contextmanager
    def averaged() -> Iterator[None]:
        """As averages of weights are swapped in for an evaluation."""
        held = [parameter.data.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.data.copy_(torch.ones_like(parameter))
        yield
        for parameter, value in zip(model.parameters(), held, strict=True):
            parameter.data.copy_(value)

    return lambda: averaged().__enter__()


WRITES: dict[str, Callable[[torch.nn.Module], object]] = {
    "clamp": lambda model: [parameter.detach().clamp_(-9, 9) for parameter in model.parameters()],
    "swapped in": lambda model: swapped(model)(),
    "an optimizer of its own": lambda model: torch.optim.SGD(model.parameters(), lr=0.1).step(),
    "through data": lambda model: [parameter.data.fill_(1) for parameter in model.parameters()],
    "one through data": lambda model: model[2].bias.data.add_(1),
    "numpy": lambda model: model[2].bias.detach().numpy().__iadd__(1),
    "in a forward pass": lambda model: torch.nn.functional.embedding(torch.tensor([0]), model[0].weight, max_norm=1.0),
}


@pytest.mark.parametrize("call", ["step", "settle", "state_dict", "closure"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_write_is_seen_by_the_next_call(write: Callable[[torch.nn.Module], object], call: str) -> None:
    def run(world: gossip.World) -> None:
        model, optimizer = begun(osgp, world)

        def closure() -> float:
            write(model)
            return 0.0

        if call == "closure":
            optimizer.step(lambda: 0.0)  # the next one is evaluated before the flights land
            optimizer.step(closure)
        else:
            write(model)
            getattr(optimizer, call)()

    with pytest.raises(gossip.GossipError, match=r"parameter \d of group 0 .* written"):
        testing.run(2, run)


def test_a_refused_write_is_named_and_stays_refused() -> None:
    """By rank, name and step; and whoever goes on all the same merges nothing."""

    def run(world: gossip.World) -> None:
        model = model_of()
        optimizer = osgp(world, torch.optim.SGD(model.parameters(), lr=0.1), module=model)
        idle_step(model, optimizer)
        if world.rank == 1:
            with torch.no_grad():
                model[2].bias.add_(1)
            for _ in range(2):
                with pytest.raises(
                    gossip.GossipError, match=r"rank 1.* parameter '2\.bias' .* step 1\b.*step_post_hook"
                ):
                    optimizer.settle()
            assert optimizer.weight == 0.5
            raise LookupError

    with pytest.raises(LookupError):
        testing.run(2, run)


def test_a_load_of_both_states_may_be_in_any_order() -> None:
    """In the middle of a run: what is in flight then is dropped."""

    def run(world: gossip.World, first: str, second: str) -> list[float]:
        model, optimizer = begun(osgp, world)
        with torch.no_grad():  # of the optimizer's state alone is something in flight
            states = {"model": SEVENS, "optimizer": torch.optim.SGD(model.parameters(), lr=0.0).state_dict()}
        objects = {"model": model, "optimizer": optimizer}
        for part in (first, second):
            objects[part].load_state_dict(states[part])
        idle_step(model, optimizer)
        idle_step(model, optimizer)
        optimizer.settle()
        return values_of(model)

    assert testing.run(2, lambda world: run(world, "optimizer", "model")) == [[7.0]] * 2
    assert testing.run(2, lambda world: run(world, "model", "optimizer")) == [[7.0]] * 2


# -- what is no write by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        *(pytest.param(make, torch.float32, id=name) for name, make in (IN_FLIGHT | AT_REST).items()),
        *(pytest.param(IN_FLIGHT[name], torch.bfloat16, id=f"{name}, masters") for name in ("OSGP", "streaming")),
        *(pytest.param(AT_REST[name], torch.bfloat16, id=f"{name}, masters") for name in ("SGP", "SlowMo over SGP")),
    ],
)
def test_an_ordinary_loop_is_silent(make: Make, dtype: torch.dtype) -> None:
    """Schedulers, accumulation, clipping, statistics of BatchNorm, evaluation, copies, saving, hooks that write."""

    def run(world: gossip.World) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        model.to(dtype)
        base = torch.optim.AdamW(model.parameters(), lr=0.01)
        base.register_step_post_hook(
            lambda *_: [p.detach().clamp_(-0.3, 0.3) for group in base.param_groups for p in group["params"]]
        )
        optimizer = make(world, base)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        generator = torch.Generator().manual_seed(world.rank)
        for step in range(6):
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            for _ in range(2):
                inputs = torch.randn(4, 3, generator=generator).to(dtype)
                model(inputs).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            copy.deepcopy(model).eval()(inputs)
            model.requires_grad_(False).requires_grad_(True)
            if step == 3 and make is not IN_FLIGHT["any"]:
                optimizer.state_dict()
            if step == 4:
                optimizer.settle()
        optimizer.settle()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(2, run)


@pytest.mark.parametrize("make", AT_REST.values(), ids=AT_REST)
def test_writes_between_steps_with_nothing_in_flight_are_silent(make: Make) -> None:
    def run(world: gossip.World) -> float:
        model, optimizer = begun(make, world)
        for step in range(4):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(step)
            idle_step(model, optimizer)
        return optimizer.weight

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(2, run)


@pytest.mark.parametrize("write", ["in place", "through data"])
def test_masters_take_over_what_was_written_with_nothing_in_flight(write: str) -> None:
    model = torch.nn.Linear(3, 4, dtype=torch.bfloat16)
    optimizer = alone(torch.optim.SGD(model.parameters(), lr=0.0))
    idle_step(model, optimizer)
    with torch.no_grad():
        (model.weight if write == "in place" else model.weight.data).fill_(3)
    idle_step(model, optimizer)
    assert bool((optimizer.param_groups[0]["params"][0] == 3).all())
    assert bool((model.weight == 3).all())


@pytest.mark.parametrize("which", ["parameter", "master"])
def test_masters_and_their_parameters_are_both_watched(which: str) -> None:
    def run(world: gossip.World) -> None:
        model = torch.nn.Linear(3, 4, dtype=torch.bfloat16)
        sgd = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer = osgp(world, sgd, module=model)
        idle_step(model, optimizer)
        with torch.no_grad():
            (model.bias if which == "parameter" else optimizer.param_groups[0]["params"][1]).fill_(3)
        idle_step(model, optimizer)

    with pytest.raises(gossip.GossipError, match=r"parameter 'bias' .* written"):
        testing.run(2, run)


# -- slow momentum -----------------------------------------------------------------------------------------------------

FAMILY: dict[str, Make] = {
    "SlowMo": lambda world, base: slowmo.SlowMo(base, gossip.ExactAverage(world), period=2),
    "no average": lambda world, base: slowmo.SlowMo(over()(world, base), gossip.NoAverage(), period=2),
    "over OSGP": lambda world, base: slowmo.SlowMo(osgp(world, base), gossip.ExactAverage(world), period=2),
    "sharded": lambda world, base: slowmo.ShardedSlowMo(base, world, period=2),
    "shared": lambda world, base: slowmo.SharedMomentum(osgp(world, base), world, period=2),
    "streaming": lambda world, base: slowmo.StreamingSlowMo(base, world, period=2),
    "streaming over OSGP": lambda world, base: slowmo.StreamingSlowMo(osgp(world, base), world, period=2),
    "NoLoCo": lambda world, base: slowmo.noloco(base, world, period=2),
    "DiLoCo": lambda world, base: slowmo.diloco(base, world, period=2),
    "Lookahead": lambda world, base: slowmo.lookahead(base, period=2),
    "double averaging": lambda world, base: slowmo.double_averaging(base, world, period=2),
}


@pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY)
@pytest.mark.parametrize("before", [3, 4], ids=["inside an outer iteration", "between two"])
def test_restart_forgets_where_weights_were_before(make: Make, before: int) -> None:
    """A momentum that was not 0, and an anchor from which 7 looks like a step of 7."""

    def run(world: gossip.World) -> list[list[float]]:
        model = model_of()
        optimizer = make(world, torch.optim.SGD(model.parameters(), lr=0.1))
        for _ in range(before):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + world.rank)
            optimizer.step()
        optimizer.settle()
        model.load_state_dict(SEVENS)
        optimizer.restart()
        seen = []
        for _ in range(8):
            idle_step(model, optimizer)
            optimizer.settle()
            seen.append(values_of(model))
        return seen

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert testing.run(2, run) == [[[7.0]] * 8] * 2


def test_weights_loaded_without_a_restart_warn_once() -> None:
    """Slow momentum takes them for what the base optimizer has done: 7, 10.5, 12.25."""

    def run(world: gossip.World) -> list[float]:
        model, optimizer = begun(FAMILY["SlowMo"], world, lr=0.1)
        optimizer.settle()
        model.load_state_dict(SEVENS)
        seen = []
        for _ in range(3):
            idle_step(model, optimizer)
            idle_step(model, optimizer)
            optimizer.settle()
            seen += values_of(model)
            model.load_state_dict(model.state_dict())
        return seen

    with pytest.warns(UserWarning, match=r"written after settle\(\), and SlowMo.*restart\(\)") as warned:
        assert testing.run(1, run) == [[7.0, 10.5, 12.25]]
    assert len(warned) == 1


def test_weights_swapped_out_and_in_after_settle_are_no_jump() -> None:
    """For an evaluation; nor is a method that keeps no memory of where weights were."""

    def run(world: gossip.World, make: Make, back: bool) -> None:
        model, optimizer = begun(make, world, lr=0.1)
        optimizer.settle()
        held = copy.deepcopy(model.state_dict())
        model.load_state_dict(SEVENS)
        if back:
            model.load_state_dict(held)
        idle_step(model, optimizer)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(1, lambda world: run(world, FAMILY["SlowMo"], True))
        testing.run(1, lambda world: run(world, FAMILY["double averaging"], False))


# -- what a step costs -------------------------------------------------------------------------------------------------


def test_nothing_is_read_where_nothing_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    class Counted(torch.nn.Parameter):
        @property
        def _version(self) -> int:
            reads.append(1)
            return 0

    def run(make: Make) -> int:
        parameter = torch.nn.Parameter(torch.ones(3))
        parameter.__class__ = Counted
        reads.clear()
        optimizer = make(gossip.init(), torch.optim.SGD([parameter], lr=0.1))
        for _ in range(5):
            optimizer.step()
        return len(reads)

    assert run(AT_REST["SGP"]) == run(AT_REST["SlowMo over SGP"]) == 0
    assert run(osgp) == 9  # once when it is posted, and once before it is merged
