"""Optimizers that show no learning rate, as Adafactor with relative steps does: SlowMo works where none is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

RATE = 0.1


class Rateless(torch.optim.Optimizer):
    """Gradient descent whose rate is its own affair."""

    def __init__(self, params: Iterable[torch.Tensor], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-RATE)


DEFAULTS: dict[str, dict[str, Any]] = {"None": {"lr": None}, "not there": {}}

METHODS: dict[str, Callable[[gossip.World, torch.optim.Optimizer], torch.optim.Optimizer]] = {
    "slowmo": lambda w, o: slowmo.SlowMo(o, gossip.ExactAverage(w), period=2, rescale=False),
    "base": lambda w, o: slowmo.SlowMo(o, gossip.NoAverage(), period=2, momentum=0),
    "local sgd": lambda w, o: slowmo.SlowMo(o, gossip.ExactAverage(w), period=2, momentum=0, lr=0.5),
    "sharded": lambda w, o: slowmo.ShardedSlowMo(o, w, period=2, rescale=False),
    "streaming": lambda w, o: slowmo.StreamingSlowMo(o, w, period=2, rescale=False),
    "streaming, no momentum": lambda w, o: slowmo.StreamingSlowMo(o, w, period=2, momentum=0),
    "shared": lambda w, o: slowmo.SharedMomentum(o, w, period=2, rescale=False),
    "bmuf": lambda w, o: slowmo.bmuf(o, w, period=2),
    "lookahead": lambda w, o: slowmo.lookahead(o, period=2),
    "diloco": lambda w, o: slowmo.diloco(o, w, period=2),
    "noloco": lambda w, o: slowmo.noloco(o, w, period=2),
    "double averaging": lambda w, o: slowmo.double_averaging(o, w, period=2),
    "local_sgd": lambda w, o: slowmo.local_sgd(o, w, period=2),
    "gossip_pga": lambda w, o: slowmo.gossip_pga(o, w, topologies.exponential(w.size), period=2),
}


def run(world: gossip.World, method: str, make: Callable[[Any], torch.optim.Optimizer]) -> list[float]:
    parameter = torch.nn.Parameter(torch.arange(4.0))
    optimizer = METHODS[method](world, make([parameter]))
    for step in range(5):
        parameter.grad = parameter.detach() - world.rank + step
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    parameter.grad = torch.ones(4)
    optimizer.step()
    values: list[float] = parameter.tolist()
    return values


@pytest.mark.parametrize("lr", ["None", pytest.param("not there", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_without_a_rate_it_is_the_run_at_a_constant_rate(method: str, lr: str) -> None:
    ours, theirs = (
        testing.run(2, lambda world, make=make: run(world, method, make))
        for make in (lambda p: Rateless(p, dict(DEFAULTS[lr])), lambda p: torch.optim.SGD(p, lr=RATE))
    )
    assert ours == theirs


@pytest.mark.parametrize("lr", DEFAULTS)
@pytest.mark.parametrize(
    "make",
    [
        lambda world, base: slowmo.SlowMo(base, gossip.NoAverage()),
        lambda world, base: slowmo.SlowMo(gossip.GossipOptimizer(base, gossip.NoAverage()), gossip.NoAverage()),
        lambda world, base: slowmo.ShardedSlowMo(base, world),
        lambda world, base: slowmo.StreamingSlowMo(base, world),
        lambda world, base: slowmo.SharedMomentum(base, world),
    ],
    ids=["SlowMo", "SlowMo over gossip", "ShardedSlowMo", "StreamingSlowMo", "SharedMomentum"],
)
def test_momentum_that_follows_no_rate_is_refused(make: Any, lr: str) -> None:
    """When it is made, with the way out; the wrapped optimizer goes on as it was."""
    base = Rateless([torch.zeros(2, requires_grad=True)], dict(DEFAULTS[lr]))
    with pytest.raises(gossip.UsageError, match=r"group of this Rateless has no learning rate .*: pass rescale=False"):
        make(gossip.init(), base)


def test_a_group_without_a_rate_is_refused_later_too() -> None:
    base = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    optimizer = slowmo.SlowMo(base, gossip.NoAverage())
    with pytest.raises(gossip.UsageError, match="group of this SGD has no learning rate"):
        optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)], "lr": None})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
