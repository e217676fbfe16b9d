"""Schedule-free optimizers: each rank trains at y and evaluates at x, whose mean over ranks is the model to publish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

schedulefree = pytest.importorskip("schedulefree", reason="schedulefree is not installed")

STEPS, SIZE = 150, 2

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
Wrap = Callable[[gossip.World, torch.optim.Optimizer], Any]

KINDS: dict[str, Make] = {
    "SGD": lambda parameters: schedulefree.SGDScheduleFree(parameters, lr=0.1),
    "AdamW": lambda parameters: schedulefree.AdamWScheduleFree(parameters, lr=0.02, warmup_steps=10),
    "RAdam": lambda parameters: schedulefree.RAdamScheduleFree(parameters, lr=0.02),
    "wrapper": lambda parameters: schedulefree.ScheduleFreeWrapper(torch.optim.SGD(parameters, lr=0.1)),
}


def osgp(world: gossip.World, base: torch.optim.Optimizer) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(base, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))


WRAPS: dict[str, Wrap] = {
    "osgp": osgp,
    "slowmo": lambda world, base: slowmo.SlowMo(
        osgp(world, base), gossip.ExactAverage(world), period=12, buffers="average"
    ),
}


def shard(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs around another point on each rank, and targets that one linear model fits."""
    generator = torch.Generator().manual_seed(rank)
    inputs = torch.randn(64, 3, generator=generator) + (rank - 0.5)
    return inputs, inputs @ torch.tensor([[1.0], [-2.0], [3.0]]) + 0.1 * torch.randn(64, 1, generator=generator)


def loss_of(model: torch.nn.Module, rank: int) -> torch.Tensor:
    inputs, targets = shard(rank)
    return (model(inputs) - targets).square().mean()


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_mean_of_the_evaluated_values_is_evaluated(kind: Make, wrap: Wrap) -> None:
    """The run goes on as if nobody had asked, and the mean fits the data of both ranks."""

    def run(world: gossip.World, evaluates: bool) -> tuple[list[float], list[float], list[float], float]:
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
            if evaluates and step % 50 == 49:
                optimizer.settle()
                optimizer.eval()
                own = flat(model)
                with optimizer.mean(model), torch.no_grad():
                    mean = flat(model)
                    loss = max(loss_of(model, rank).item() for rank in range(SIZE))
                assert torch.equal(flat(model), own)
                optimizer.train()
            elif step % 50 == 49:
                optimizer.settle()
        return flat(model).tolist(), own.tolist(), mean.tolist(), loss

    asked = testing.run(SIZE, lambda world: run(world, True))
    for (trained, _, mean, loss), (undisturbed, *_) in zip(
        asked, testing.run(SIZE, lambda world: run(world, False)), strict=True
    ):
        assert trained == pytest.approx(undisturbed, rel=1e-4, abs=1e-5)  # train() undoes eval() but for rounding
        assert mean == asked[0][2]
        assert mean == pytest.approx(torch.tensor([own for _, own, *_ in asked]).mean(0).tolist(), abs=1e-6)
        assert loss < 0.1
