"""torch.compile around a training step, a model or an optimizer: what communicates is called, and never traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing
from slowmo.outer.wrapper import Outer

STEPS = 4

Wrap = Callable[[gossip.World, torch.optim.Optimizer], Any]

WRAPS: dict[str, Wrap] = {
    "AR-SGD": lambda world, base: gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world),
    "OSGP": lambda world, base: gossip.GossipOptimizer(
        base, gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    ),
    "SlowMo": lambda world, base: slowmo.SlowMo(base, gossip.ExactAverage(world), period=2),
    "StreamingSlowMo": lambda world, base: slowmo.StreamingSlowMo(base, world, period=2),
    "SharedMomentum": lambda world, base: slowmo.SharedMomentum(base, world, period=2),
    "landing any": lambda world, base: gossip.GossipOptimizer(
        base, gossip.PushSum(world, topologies.random_pairs(world.size), landing="any")
    ),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch(rank: int, step: int) -> torch.Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(10 * step + rank))


def train(world: gossip.World, wrap: Wrap, compiled: bool, ends: Callable[[Any], object] = lambda _: None) -> list[Any]:
    """The function that is compiled ends with a call of `ends`."""
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, 1.0)
    torch.nn.init.constant_(model.bias, 0.0)
    optimizer = wrap(world, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5))

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        ends(optimizer)

    if compiled:
        step = torch.compile(step, backend="eager")
    for number in range(STEPS):
        step(batch(world.rank, number))
    optimizer.settle()
    return [parameter.tolist() for parameter in model.parameters()]


QUICK = ["AR-SGD", "SlowMo"]


@pytest.mark.parametrize(
    "wrap", [wrap if wrap in QUICK else pytest.param(wrap, marks=pytest.mark.slow) for wrap in WRAPS]
)
def test_a_compiled_training_step_is_the_step(wrap: str) -> None:
    """On two ranks, bit for bit where runs repeat."""

    def run(compiled: bool) -> list[Any]:
        return testing.run(2, lambda world: train(world, WRAPS[wrap], compiled), timeout=20)

    ours = run(compiled=True)
    if wrap != "landing any":
        assert ours == run(compiled=False)


@pytest.mark.parametrize("wrap", [pytest.param("OSGP", marks=pytest.mark.slow), "SharedMomentum"])
def test_other_calls_that_communicate_are_not_traced(wrap: str) -> None:
    def ends(optimizer: Any) -> None:
        optimizer.settle()
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        optimizer.weight_report()

    def run(compiled: bool) -> list[Any]:
        return testing.run(2, lambda world: train(world, WRAPS[wrap], compiled, ends), timeout=20)

    assert run(compiled=True) == run(compiled=False)


def test_a_world_is_not_traced() -> None:
    def run(world: gossip.World) -> list[bytes]:
        @torch.compile(backend="eager")
        def meet(x: torch.Tensor) -> tuple[torch.Tensor, list[bytes]]:
            world.barrier()
            return x + 1, world.all_gather(b"%d" % world.rank)

        return list(meet(torch.ones(2))[1])

    assert testing.run(2, run, timeout=20) == [[b"0", b"1"]] * 2


LOCAL = {
    "persist",  # called several times in a step, never from outside
    "profile_hook_step",
    *(name for name in vars(torch.optim.Optimizer) if name.startswith("register_")),
}


def wrappers(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        if each.__module__.startswith(("gossip.", "slowmo.")):
            yield each
            yield from wrappers(each)


def test_no_public_method_of_a_wrapper_is_traced() -> None:
    world = gossip.init()
    for wrap in WRAPS.values():  # the first one of a kind prepares its step
        wrap(world, torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1))
    kinds = [kind for kind in wrappers(gossip.optimizer.Wrapper) if kind is not Outer]  # which nobody makes itself
    assert len(kinds) >= 5
    slowmo.ShardedSlowMo(torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1), world)
    traced = {
        f"{kind.__name__}.{name}"
        for kind in kinds
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in LOCAL and not hasattr(method, "untraced")
    }
    assert not traced


def test_a_compiled_model_runs_compiled_inside_a_closure() -> None:
    """The closure is the user's: it is traced where the user has asked for it."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    model = torch.nn.Linear(2, 1)
    compiled = torch.compile(model, backend=backend)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = compiled(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert len(graphs) == 1
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_compiled_optimizer_asks_for_its_closure() -> None:
    def run(compiled: bool) -> list[float]:
        parameter = torch.nn.Parameter(torch.ones(3))
        base = torch.optim.SGD([parameter], lr=0.1)
        if compiled:
            base.step = torch.compile(base.step, backend="eager")  # type: ignore[method-assign]
        optimizer = gossip.GossipOptimizer(base, gossip.NoAverage())

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = parameter.square().sum()
            loss.backward()
            return loss

        return [optimizer.step(closure).item() for _ in range(4)]

    assert run(compiled=True) == run(compiled=False)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("wrap", ["AR-SGD", "SlowMo"])
def test_a_warning_points_at_the_users_line(wrap: str) -> None:
    """However many functions stand around a step."""
    optimizer = WRAPS[wrap](gossip.init(), torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="no parameter of this optimizer has a gradient") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
