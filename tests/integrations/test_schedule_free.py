"""Schedule-free optimizers: each rank trains at y and evaluates at x, whose mean over ranks is the model to publish."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

schedulefree = pytest.importorskip("schedulefree", reason="schedulefree is not installed")

STEPS, SIZE = 90, 2

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
Wrap = Callable[[gossip.World, torch.optim.Optimizer], Any]

KINDS: dict[str, Make] = {
    "SGD": lambda parameters: schedulefree.SGDScheduleFree(parameters, lr=0.1),
    "AdamW": lambda parameters: schedulefree.AdamWScheduleFree(parameters, lr=0.1, warmup_steps=10),
    "RAdam": lambda parameters: schedulefree.RAdamScheduleFree(parameters, lr=0.2),
}


def osgp(world: gossip.World, base: torch.optim.Optimizer) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(base, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))


def slow(world: gossip.World, base: torch.optim.Optimizer) -> slowmo.SlowMo:
    average = gossip.ExactAverage(world)
    return slowmo.SlowMo(osgp(world, base), average, period=12, momentum=0.2, buffers="average")


WRAPS: dict[str, Wrap] = {"osgp": osgp, "slowmo": slow}


def shard(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs around another point on each rank, and targets of another line, whose best fit is no rank's."""
    generator = torch.Generator().manual_seed(rank)
    inputs = torch.randn(64, 3, generator=generator) + (rank - 0.5)
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [3.0]]) + (rank - 0.5)


def loss_of(model: torch.nn.Module, rank: int) -> torch.Tensor:
    inputs, targets = shard(rank)
    return (model(inputs) - targets).square().mean()


def loss_of_all(model: torch.nn.Module) -> float:
    return sum(loss_of(model, rank).item() for rank in range(SIZE)) / SIZE


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def trained(
    world: gossip.World, kind: Make, wrap: Wrap, evaluates: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """The values that train, those that are evaluated, their mean over ranks, and the loss of the mean."""
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    optimizer = wrap(world, kind(list(model.parameters())))
    optimizer.train()
    own, mean, loss = flat(model), flat(model), 0.0
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, world.rank).backward()
        optimizer.step()
        if step % 30 != 29:
            continue
        optimizer.settle()
        if evaluates:
            optimizer.eval()
            own = flat(model)
            with optimizer.mean(model), torch.no_grad():
                mean, loss = flat(model), loss_of_all(model)
            assert torch.equal(flat(model), own)
            optimizer.train()
    return flat(model), own, mean, loss


@pytest.mark.filterwarnings("error:parameters were written after settle")
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_mean_of_the_evaluated_values_is_evaluated(kind: Make, wrap: Wrap) -> None:
    """The run goes on as if nobody had asked but for the rounding of train(), and without a warning."""
    ranks = testing.run(SIZE, lambda world: trained(world, kind, wrap))
    undisturbed = testing.run(SIZE, lambda world: trained(world, kind, wrap, evaluates=False))
    average = torch.stack([own for _, own, *_ in ranks]).mean(0)
    start = loss_of_all(torch.nn.utils.skip_init(torch.nn.Linear, 3, 1).requires_grad_(False).apply(zero))
    for (values, _, mean, loss), (expected, *_) in zip(ranks, undisturbed, strict=True):
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mean, average, rtol=0, atol=1e-6)
        assert torch.equal(mean, ranks[0][2])
        assert loss < 0.4 * start


def zero(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        parameter.zero_()


@pytest.mark.filterwarnings("error:parameters were written after settle")
def test_slowmo_does_not_warn_of_the_rounding_of_train() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(1, generator=generator)) for _ in range(200)]
    optimizer: Any = slow(gossip.init(), KINDS["SGD"](parameters))
    optimizer.train()
    for _ in range(15):
        for parameter in parameters:
            parameter.grad = torch.randn(1, generator=generator)
        optimizer.step()
    optimizer.settle()
    before = torch.cat([parameter.detach().clone() for parameter in parameters])
    optimizer.eval()
    optimizer.train()
    assert not torch.equal(torch.cat([parameter.detach() for parameter in parameters]), before)
    optimizer.step()


def test_a_run_goes_on_from_a_portable_state_on_another_number_of_ranks() -> None:
    """Saved in the mode that evaluates, as the package asks, and loaded before train()."""
    saved: dict[str, Any] = {}

    def first(world: gossip.World) -> None:
        model = torch.nn.Linear(3, 1)
        optimizer = slow(world, KINDS["SGD"](list(model.parameters())))
        optimizer.train()
        for _ in range(15):
            optimizer.zero_grad()
            loss_of(model, world.rank).backward()
            optimizer.step()
        optimizer.settle()
        optimizer.eval()
        state = {"model": optimizer.mean_state_dict(model), "optimizer": optimizer.portable_state_dict()}
        if world.rank == 0:
            saved.update(copy.deepcopy(state))

    def second(world: gossip.World) -> tuple[float, float]:
        model = torch.nn.Linear(3, 1)
        optimizer = slow(world, KINDS["SGD"](list(model.parameters())))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
        assert optimizer.steps == 15
        before = loss_of_all(model)
        optimizer.train()
        for _ in range(30):
            optimizer.zero_grad()
            loss_of(model, world.rank % SIZE).backward()
            optimizer.step()
        optimizer.settle()
        optimizer.eval()
        with optimizer.mean(model), torch.no_grad():
            return before, loss_of_all(model)

    testing.run(SIZE, first)
    for before, after in testing.run(4, second):
        assert after < before
