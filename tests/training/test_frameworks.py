"""The requests and actions of training frameworks on an optimizer: the wrappers answer and accept them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch
import torch.optim.optimizer as optimizers

import gossip
import slowmo
import topologies
from gossip import testing

STEPS = 5

Wrap = Callable[[gossip.World, torch.optim.Optimizer], Any]


def osgp(world: gossip.World, base: torch.optim.Optimizer, **options: Any) -> gossip.GossipOptimizer:
    """Over push-sum with uneven weights."""
    graph = topologies.from_networkx(oracle.random_digraphs(world.size, 2, seed=3))
    return gossip.GossipOptimizer(base, gossip.PushSum(world, graph, overlap=1), **options)


def averaged(world: gossip.World, base: torch.optim.Optimizer) -> gossip.GossipOptimizer:
    return gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)


WRAPS: dict[str, Wrap] = {
    "osgp": osgp,
    "averaged gradients": averaged,
    "slowmo": lambda world, base: slowmo.SlowMo(osgp(world, base), gossip.ExactAverage(world), period=2),
}
EVERY_WRAP = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)


def model_of(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def batch(rank: int, step: int) -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(10 * step + rank))


def loss_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.to(next(model.parameters()).dtype)
    return (model(x) - 3 * x.sum(1, keepdim=True)).square().mean()


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


# -- scaling -----------------------------------------------------------------------------------------------------------


def scale_and_clip(scaler: torch.amp.GradScaler, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Lightning's precision plugin: an optimizer that unscales inside its step cannot have its gradients clipped."""
    assert not getattr(optimizer, "_step_supports_amp_scaling", False), "does not allow for gradient clipping"
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True])
@EVERY_WRAP
def test_a_framework_clips_scaled_gradients(wrap: Wrap, fused: bool) -> None:
    """And where they overflow on one rank its peers go on: the scaler calls `step` all the same."""

    def run(world: gossip.World) -> tuple[int, float]:
        model = model_of(torch.float32)
        optimizer = wrap(world, torch.optim.SGD(model.parameters(), lr=0.1, fused=fused))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
        for step in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, batch(world.rank, step))).backward()
            if (world.rank, step) == (1, 2):
                model[0].weight.grad[0, 0] = float("inf")
            before = flat(model)
            scale_and_clip(scaler, model, optimizer)
            if world.size == 1 and not isinstance(optimizer, slowmo.SlowMo):
                assert (flat(model) - before).norm() == pytest.approx(1e-3, rel=1e-3)
        optimizer.settle()
        assert torch.isfinite(flat(model)).all()
        return optimizer.stats.run.steps, scaler.get_scale()

    assert testing.run(3, run, timeout=10) == [(STEPS, 1024), (STEPS, 512), (STEPS, 1024)]
    testing.run(1, run)


def test_lightning_clips_scaled_gradients() -> None:
    """Its own loop: the run is that of the bare optimizer, bit for bit."""
    lightning = pytest.importorskip("lightning", reason="no Lightning is installed")
    precision = pytest.importorskip("lightning.pytorch.plugins.precision", reason="no Lightning is installed")

    class Net(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, wrap: bool) -> None:
            super().__init__()
            self.model, self.wrap = model_of(torch.float32), wrap

        def training_step(self, x: torch.Tensor, _: int) -> torch.Tensor:
            return loss_of(self.model, x)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            sgd = torch.optim.SGD(self.parameters(), lr=0.1)
            return gossip.GossipOptimizer(sgd, gossip.NoAverage()) if self.wrap else sgd

    def run(wrap: bool) -> list[float]:
        net = Net(wrap)
        lightning.Trainer(
            max_steps=3,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=0.1,
            plugins=[precision.MixedPrecision("16-mixed", "cpu")],
        ).fit(net, torch.utils.data.DataLoader(torch.cat([batch(0, step) for step in range(3)]), 8))
        return flat(net.model).tolist()

    assert run(wrap=True) == run(wrap=False)


# -- clipping averaged gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaled", [False, True])
def test_clipping_in_a_step_pre_hook_is_clipping_the_whole_batch(scaled: bool) -> None:
    """The hook of the wrapped optimizer runs after gradients are unscaled and averaged; between backward and step it is
    this rank's own gradient that is clipped."""
    norm = 0.05

    def run(world: gossip.World, hooked: bool) -> torch.Tensor:
        model = model_of()
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def clip(*_: object) -> None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), norm)

        if hooked:
            base.register_step_pre_hook(clip)
        optimizer = averaged(world, base)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, batch(world.rank, step))).backward()
            if not hooked:
                scaler.unscale_(optimizer)
                clip()
            scaler.step(optimizer)
            scaler.update()
        return flat(model)

    whole = model_of()
    sgd = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        sgd.zero_grad()
        loss_of(whole, torch.cat([batch(rank, step) for rank in range(3)])).backward()
        assert torch.nn.utils.clip_grad_norm_(whole.parameters(), norm) > norm
        sgd.step()
    for values in testing.run(3, lambda world: run(world, hooked=True)):
        torch.testing.assert_close(values, flat(whole), rtol=1e-10, atol=1e-10)
    for values in testing.run(3, lambda world: run(world, hooked=False)):
        assert not torch.allclose(values, flat(whole), rtol=1e-6, atol=1e-6)


# -- what frameworks set and call --------------------------------------------------------------------------------------


@EVERY_WRAP
def test_groups_state_and_defaults_may_be_set(wrap: Wrap) -> None:
    """As Accelerate's wrapper does: the wrapped optimizer has them then."""
    world, model = gossip.init(), model_of()
    base = torch.optim.Adam(model.parameters(), lr=0.1)
    optimizer = wrap(world, base)
    loss_of(model, batch(0, 0)).backward()
    optimizer.step()
    for name in ("param_groups", "state", "defaults"):
        value = torch.optim.Adam(model.parameters()).state if name == "state" else copy.copy(getattr(base, name))
        setattr(optimizer, name, value)
        assert getattr(optimizer, name) is getattr(base, name) is value
    optimizer.step()
    assert base.state[model[0].weight]["step"] == 1


@pytest.mark.filterwarnings("error")
@EVERY_WRAP
def test_a_scheduler_of_the_wrapped_optimizer(wrap: Wrap) -> None:
    """Made before the wrapper, it sees its steps, and warns of none that was left out."""
    model = model_of()
    base = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(base, 0.5)
    optimizer = wrap(gossip.init(), base)
    rates = []
    for step in range(3):
        loss_of(model, batch(0, step)).backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates == [1.0, 0.5, 0.25]


@EVERY_WRAP
def test_global_hooks_run_once_in_a_step(wrap: Wrap) -> None:
    """Around the wrapped optimizer's update; hooks that change arguments do, and others are refused as torch does."""
    called: list[torch.optim.Optimizer] = []
    base = torch.optim.SGD(model_of().parameters(), lr=1.0)
    optimizer = wrap(gossip.init(), base)
    handles = [
        register(lambda each, *_: called.append(each))
        for register in (
            optimizers.register_optimizer_step_pre_hook,
            optimizers.register_optimizer_step_post_hook,
        )
    ]
    try:
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert called == [base, base]

    closures = []
    optimizer.register_step_pre_hook(lambda each, args, options: ((each, lambda: closures.append(1)), options))
    optimizer.step()
    assert closures == [1]
    optimizer.register_step_pre_hook(lambda *_: 1)
    with pytest.raises(RuntimeError, match="returns None or"):
        optimizer.step()


class ScheduleFree(torch.optim.SGD):
    """Like schedule-free optimizers, evaluates at other values than it trains at; here at twice the values."""

    training = True

    @torch.no_grad()
    def _to(self, training: bool) -> None:
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if training != self.training:
                parameter.mul_(0.5 if training else 2)
        self.training = training

    def train(self) -> None:
        self._to(True)

    def eval(self) -> None:
        self._to(False)


@pytest.mark.parametrize("masters", [False, True])
@pytest.mark.parametrize("outer", [False, True])
def test_a_schedule_free_optimizer_evaluates_between_steps(outer: bool, masters: bool) -> None:
    """While messages are under way, which keep the values that were sent."""

    def run(world: gossip.World, evaluates: bool) -> list[float]:
        model = model_of(torch.bfloat16 if masters else torch.float64)
        optimizer: Any = osgp(world, ScheduleFree(model.parameters(), lr=0.05), master_weights=masters)
        if outer:
            optimizer = slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=2)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, batch(world.rank, step)).backward()
            optimizer.step()
            if evaluates:
                trained = flat(model)
                optimizer.eval()
                assert torch.equal(flat(model), 2 * trained)
                optimizer.train()
                assert torch.equal(flat(model), trained)
        optimizer.settle()
        values: list[float] = flat(model).tolist()
        return values

    slow = [gossip.testing.Network(delay=lambda *_: 0.005) for _ in range(2)]
    ours, theirs = (
        testing.run(3, lambda world, e=e: run(world, e), network=network)
        for e, network in zip((True, False), slow, strict=True)
    )
    assert ours == theirs


def test_settling_in_eval_mode_with_messages_under_way_is_refused() -> None:
    """They belong to the values that train."""

    def run(world: gossip.World) -> None:
        model = model_of()
        optimizer: Any = osgp(world, ScheduleFree(model.parameters(), lr=0.05))
        loss_of(model, batch(world.rank, 0)).backward()
        optimizer.step()
        optimizer.eval()
        with pytest.raises(gossip.GossipError, match=r"in eval mode.*call settle\(\) before optimizer.eval\(\)"):
            optimizer.settle()
        optimizer.train()
        optimizer.settle()
        optimizer.eval()
        optimizer.settle()  # with nothing under way

    testing.run(3, run)


def test_an_optimizer_without_modes_has_none() -> None:
    """`hasattr` is how frameworks ask."""
    for wrap, name in itertools.product(WRAPS.values(), ("train", "eval", "first_step")):
        assert not hasattr(wrap(gossip.init(), torch.optim.SGD(model_of().parameters(), lr=1.0)), name)
