"""An optimizer gets its closure evaluated where it asks for it, or earlier where that makes no difference to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

STEPS = 5


class Sam(torch.optim.SGD):
    """Climb, ask for the closure there, come back, descend: each form writes and drops what it does in its own way."""

    form = "in place"

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        old = [p.clone() for p in parameters]
        for p in parameters:
            if self.form == "in place":
                p.add_(p.grad, alpha=0.05)
                p.grad = None
            elif self.form == "data":  # and the closure drops the gradient
                p.data.add_(p.grad, alpha=0.05)
            else:
                p.data = p.data + 0.05 * p.grad
                p.grad.zero_()
        with torch.enable_grad():
            loss = closure()
        for p, values in zip(parameters, old, strict=True):
            if self.form == "in place":
                p.copy_(values)
            else:
                p.data = values
        super().step()
        return loss


class Seldom(Sam):
    """Climbs in every third step alone, as LookSAM does."""

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        self.steps = getattr(self, "steps", 0) + 1
        return super().step(closure) if self.steps % 3 == 0 else torch.optim.SGD.step(self, closure)


class Twice(torch.optim.SGD):
    """Evaluates twice at one place, before its update."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            losses = [closure(), closure()]
        super().step()
        return losses


def model_of(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    return model


def batch_of(rank: int, step: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(8, 3, dtype=dtype, generator=torch.Generator().manual_seed(10 * step + rank))


def loss_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def train(
    model: torch.nn.Module, optimizer: Any, batches: list[torch.Tensor], first: bool = True, clears: bool = False
) -> int:
    """SAM's loop, with a gradient to climb by where `first`; how often the closure was evaluated."""
    evaluations = 0
    for x in batches:

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            nonlocal evaluations
            evaluations += 1
            if clears:
                optimizer.zero_grad()
            loss = loss_of(model, x)
            loss.backward()
            return loss

        if first:
            optimizer.zero_grad()
            loss_of(model, x).backward()
        optimizer.step(closure)
    return evaluations


def osgp(world: gossip.World, base: torch.optim.Optimizer, **options: Any) -> gossip.GossipOptimizer:
    """Over push-sum with uneven weights."""
    graph = topologies.from_networkx(oracle.random_digraphs(world.size, 2, seed=3))
    return gossip.GossipOptimizer(base, gossip.PushSum(world, graph, overlap=1), **options)


WRAPS: dict[str, Callable[[gossip.World, torch.optim.Optimizer], torch.optim.Optimizer]] = {
    "local": lambda world, base: gossip.GossipOptimizer(base, gossip.NoAverage()),
    "osgp": osgp,
    "averaged gradients": lambda world, base: gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world),
    "slowmo": lambda world, base: slowmo.SlowMo(base, gossip.NoAverage(), period=2, momentum=0),
    "streaming": lambda world, base: slowmo.StreamingSlowMo(
        gossip.GossipOptimizer(base, gossip.PushSum(world, topologies.exponential(1))), world, period=2, momentum=0
    ),
    "sharded": lambda world, base: slowmo.ShardedSlowMo(base, world, period=2, momentum=0),
    "shared": lambda world, base: slowmo.SharedMomentum(base, world, period=2, momentum=0),
}


@pytest.mark.parametrize("form", ["in place", "data", "assigned"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_sam_is_the_bare_sam(wrap: str, form: str) -> None:
    """Bit for bit, with as many evaluations."""

    def run(world: gossip.World, wrapped: bool) -> tuple[list[float], int]:
        model = model_of()
        base = Sam(model.parameters(), lr=0.1, momentum=0.5)
        base.form = form
        optimizer = WRAPS[wrap](world, base) if wrapped else base
        calls = train(model, optimizer, [batch_of(0, step) for step in range(STEPS)], clears=form == "data")
        return flat(model).tolist(), calls

    [bare], [wrapped] = (testing.run(1, lambda world, w=w: run(world, w)) for w in (False, True))
    assert wrapped == bare
    assert wrapped[1] == STEPS


def test_an_optimizer_that_seldom_climbs_is_the_bare_one() -> None:
    """Its first steps say nothing of those in which it climbs."""

    def run(wrapped: bool) -> list[float]:
        model = model_of()
        optimizer: torch.optim.Optimizer = Seldom(model.parameters(), lr=0.1)
        if wrapped:
            optimizer = gossip.GossipOptimizer(optimizer, gossip.NoAverage())
        train(model, optimizer, [batch_of(0, step) for step in range(8)], clears=True)
        return flat(model).tolist()

    assert run(wrapped=True) == run(wrapped=False)


@pytest.mark.parametrize("form", ["in place", "assigned"])
def test_sam_with_averaged_gradients_is_sam_over_all_batches(form: str) -> None:
    def run(world: gossip.World) -> torch.Tensor:
        model = model_of()
        base = Sam(model.parameters(), lr=0.1)
        base.form = form
        optimizer = gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)
        assert train(model, optimizer, [batch_of(world.rank, step) for step in range(STEPS)]) == STEPS
        return flat(model)

    whole = model_of()
    base = Sam(whole.parameters(), lr=0.1)
    train(whole, base, [torch.cat([batch_of(rank, step) for rank in range(3)]) for step in range(STEPS)])
    ranks = testing.run(3, run)
    for values in ranks:
        assert torch.equal(values, ranks[0])
        torch.testing.assert_close(values, flat(whole), rtol=1e-12, atol=1e-12)


def test_sam_over_masters_evaluates_at_their_rounded_values() -> None:
    model = model_of(torch.bfloat16)
    optimizer = gossip.GossipOptimizer(Sam(model.parameters(), lr=0.05), gossip.NoAverage(), master_weights=True)
    seen = []
    x = batch_of(0, 0, torch.bfloat16)

    def closure() -> torch.Tensor:
        masters = torch.cat([p.detach().reshape(-1) for p in optimizer.param_groups[0]["params"]])
        assert masters.dtype == torch.float32
        assert torch.equal(flat(model), masters.to(torch.bfloat16))
        seen.append(flat(model))
        loss = loss_of(model, x)
        loss.backward()
        return loss

    first = loss_of(model, x).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        before = flat(model)
        optimizer.step(closure)
        assert not torch.equal(seen[-1], before), "evaluated where it had climbed to"
    assert loss_of(model, x).item() < first / 2


@pytest.mark.parametrize("base", [Twice, torch.optim.LBFGS])
def test_evaluations_that_are_compared_are_of_the_merged_values(base: Callable[..., torch.optim.Optimizer]) -> None:
    """All of one step see what has landed, so the first two of them find the same values."""

    def run(world: gossip.World) -> list[bool]:
        model = model_of()
        options = {"max_iter": 1, "max_eval": 9, "line_search_fn": "strong_wolfe"} if base is not Twice else {}
        optimizer = osgp(world, base(model.parameters(), lr=1e-9, **options))
        alike = []
        for step in range(STEPS):
            seen = []

            def closure(step: int = step, seen: list[torch.Tensor] = seen) -> torch.Tensor:
                optimizer.zero_grad()
                seen.append(flat(model))
                loss = loss_of(model, batch_of(world.rank, step))
                loss.backward()
                return loss

            optimizer.step(closure)
            alike.append(torch.allclose(seen[0], seen[1], rtol=0, atol=1e-6))
        return alike

    assert testing.run(3, run) == [[True] * STEPS] * 3


def test_a_first_step_without_a_closure_on_one_rank() -> None:
    """The other ranks evaluate theirs; all average gradients once."""

    def run(world: gossip.World) -> torch.Tensor:
        model = model_of()
        optimizer = gossip.GossipOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage(), gradients=world
        )
        for step in range(STEPS):
            if world.rank == 0 and step % 2 == 0:
                optimizer.zero_grad()
                optimizer.step()
            else:
                train(model, optimizer, [batch_of(world.rank, step)], first=False, clears=True)
        return flat(model)

    ranks = testing.run(3, run, timeout=10)
    assert all(torch.equal(values, ranks[0]) for values in ranks)


def test_ranks_that_evaluate_unequally_often_are_told() -> None:
    """Their gradients would be averaged with those of other steps."""

    def run(world: gossip.World) -> str:
        model = model_of()
        base = (Twice if world.rank == 1 else torch.optim.SGD)(model.parameters(), lr=0.1)
        Twice.__name__ = "SGD"
        optimizer = gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)
        with pytest.raises(gossip.GossipError) as caught:
            train(model, optimizer, [batch_of(0, 0)] * 3, clears=True)
        return str(caught.value)

    try:
        sentences = testing.run(3, run, timeout=10)
    finally:
        Twice.__name__ = "Twice"
    for sentence in sentences:
        assert "1 of 3 ranks evaluated their closure once more in a step that the others had ended" in sentence
        assert "leave gradients=None" in sentence


def test_a_resumed_run_evaluates_where_the_run_did() -> None:
    """Bit for bit, though gradients of the last step are there when it resumes."""

    def run(world: gossip.World, resumed: bool) -> list[float]:
        model = model_of()
        optimizer = osgp(world, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        for step in range(2 * STEPS):
            if step == STEPS and resumed:
                weights, state = model.state_dict(), optimizer.state_dict()
                model = model_of()
                optimizer = osgp(world, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
                model.load_state_dict(weights)
                optimizer.load_state_dict(state)
                loss_of(model, batch_of(0, 0)).backward()
            train(model, optimizer, [batch_of(world.rank, step)], first=False, clears=True)
        optimizer.settle()
        return flat(model).tolist()

    assert testing.run(3, lambda world: run(world, True)) == testing.run(3, lambda world: run(world, False))


@pytest.mark.parametrize("wrap", ["local", "averaged gradients"])
def test_gradients_that_a_hook_clips_are_not_evaluated_again(wrap: str) -> None:
    """A step pre-hook of the wrapped optimizer runs before it asks, and what it does counts."""

    def run(world: gossip.World) -> None:
        model = model_of()
        base = torch.optim.SGD(model.parameters(), lr=1.0)

        def clip(*_: object) -> None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)

        base.register_step_pre_hook(clip)
        optimizer = WRAPS[wrap](world, base)
        train(model, optimizer, [batch_of(0, 0)], first=False, clears=True)
        for step in range(STEPS):
            before = flat(model)
            assert train(model, optimizer, [batch_of(world.rank, step)], first=False, clears=True) == 1
            assert (flat(model) - before).norm() == pytest.approx(1e-3, rel=1e-2)

    testing.run(2, run)


@pytest.mark.parametrize("case", ["gradients and no closure", "gradients of before", "SAM without a batch"])
def test_ranks_that_average_unequally_often_are_told_at_once(case: str) -> None:
    """Before anybody waits for an average that the others do not make."""

    def run(world: gossip.World) -> str:
        model = model_of()
        kind = Sam if case.startswith("SAM") else torch.optim.SGD
        averager = gossip.PushSum(world, topologies.exponential(2), overlap=1)
        optimizer = gossip.GossipOptimizer(kind(model.parameters(), lr=0.1), averager, gradients=world)

        def closure() -> torch.Tensor:
            if not case.startswith("SAM"):
                optimizer.zero_grad()
            loss = loss_of(model, batch_of(world.rank, 0))
            loss.backward()
            return loss

        if case == "gradients and no closure" or world.rank == 1:
            closure()

        def three_steps() -> None:
            for _ in range(3):
                if case != "gradients of before" and world.rank:
                    optimizer.step()
                    continue
                if case.startswith("SAM"):
                    closure()
                optimizer.step(closure)

        with pytest.raises(gossip.GossipError) as caught:
            three_steps()
        return str(caught.value)

    for sentence in testing.run(2, run, timeout=20):
        assert "1 of 2 ranks evaluate their closure inside this update" in sentence
