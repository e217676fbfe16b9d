"""GossipOptimizer and SlowMo pass for the optimizer that they wrap, in all that a training loop does with one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

Wrap = Callable[[gossip.World, torch.optim.Optimizer], torch.optim.Optimizer]


def model_of(rank: int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Another one on every rank."""
    generator = torch.Generator().manual_seed(rank)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def loss_of(model: torch.nn.Module, rank: int, step: int, examples: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + rank)
    x, y = torch.randn(examples, 4, generator=generator), torch.randn(examples, 3, generator=generator)
    return (model(x.to(next(model.parameters()).dtype)) - y).square().mean()


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().double().reshape(-1) for parameter in model.parameters()])


def push_sum(world: gossip.World, overlap: int = 1) -> gossip.PushSum:
    return gossip.PushSum(world, topologies.exponential(world.size), overlap=overlap)


def irregular(world: gossip.World, overlap: int = 1) -> gossip.PushSum:
    """With weights that are not 1."""
    graphs = oracle.random_digraphs(world.size, 2, seed=3)
    return gossip.PushSum(world, topologies.from_networkx(graphs), overlap=overlap)


WRAPS: dict[str, Wrap] = {
    "sgp": lambda world, base: gossip.GossipOptimizer(base, push_sum(world, 0)),
    "osgp": lambda world, base: gossip.GossipOptimizer(base, irregular(world)),
    "slowmo": lambda world, base: slowmo.SlowMo(
        gossip.GossipOptimizer(base, irregular(world)), gossip.ExactAverage(world), period=3
    ),
    "local sgd": lambda world, base: slowmo.SlowMo(base, gossip.ExactAverage(world), period=3, momentum=0),
}
EVERY_WRAP = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)


# -- any optimizer -----------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "SGD, maximize": lambda p: torch.optim.SGD(p, lr=0.001, maximize=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "Adam, rate as a tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=3),
}


@pytest.mark.parametrize("buffers", [None, "maintain", "reset", "average"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_optimizer_learns(optimizer: str, buffers: str | None) -> None:
    """Over push-sum with uneven weights, and over SlowMo on top of it: the loss over everybody's data falls."""

    def run(world: gossip.World) -> tuple[torch.Tensor, float, float]:
        model = model_of(world.rank)
        wrapped: Any = gossip.GossipOptimizer(OPTIMIZERS[optimizer](model.parameters()), irregular(world))
        if buffers is not None:
            wrapped = slowmo.SlowMo(wrapped, gossip.ExactAverage(world), period=3, momentum=0.3, buffers=buffers)

        def all_data() -> float:
            with torch.no_grad():
                return sum(loss_of(model, rank, 0).item() for rank in range(world.size))

        def closure() -> torch.Tensor:
            wrapped.zero_grad()
            loss = loss_of(model, world.rank, 0)
            (-loss if "maximize" in optimizer else loss).backward()
            return loss

        before = all_data()
        for _ in range(9):
            assert isinstance(wrapped.step(closure), torch.Tensor)
        wrapped.settle()
        return flat(model), before, all_data()

    ranks = testing.run(3, run)
    for values, before, after in ranks:
        assert torch.isfinite(values).all()
        assert after < before
    spread = torch.stack([values for values, _, _ in ranks]).std(dim=0).max()
    assert spread < 0.5, "ranks trained apart"


def test_sparse_gradients() -> None:
    """Parameters are dense, so SparseAdam's may travel; averaging sparse gradients is refused by name."""

    def run(world: gossip.World, gradients: bool) -> torch.Tensor:
        model = torch.nn.Embedding(5, 2, sparse=True)
        base = torch.optim.SparseAdam(model.parameters(), lr=0.1)
        averager = gossip.NoAverage() if gradients else gossip.ExactAverage(world)
        optimizer = gossip.GossipOptimizer(base, averager, gradients=world if gradients else None, module=model)
        model(torch.tensor([world.rank])).sum().backward()
        optimizer.step()
        return model.weight.detach().clone()

    one, other = testing.run(2, lambda world: run(world, False))
    assert torch.equal(one, other)
    with pytest.raises(gossip.GossipError, match=r"gradient of parameter 'weight' is sparse.* sparse=False"):
        testing.run(2, lambda world: run(world, True))


# -- it passes for the wrapped one -------------------------------------------------------------------------------------


@EVERY_WRAP
def test_groups_and_state_are_the_wrapped_ones(wrap: Wrap) -> None:
    """Live, also after a checkpoint was loaded, which replaces them."""

    def run(world: gossip.World) -> None:
        model = model_of(world.rank)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = wrap(world, base)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for _ in range(2):
            assert optimizer.param_groups is base.param_groups
            assert optimizer.state is base.state
            assert optimizer.defaults is base.defaults
            loss_of(model, world.rank, 0).backward()
            optimizer.step()
            assert "momentum_buffer" in optimizer.state[model[0].weight]
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.param_groups[0]["lr"] = 0.25
        assert base.param_groups[0]["lr"] == 0.25
        assert type(base).__name__ in repr(optimizer)

    testing.run(2, run)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    "CosineAnnealingWarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=12),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    "warm-up, then cosine": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4),
            torch.optim.lr_scheduler.CosineAnnealingLR(o, 6),
        ],
        milestones=[4],
    ),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers(schedule: Callable[[torch.optim.Optimizer], Any]) -> None:
    """Made from the wrapper, they drive the rates of the wrapped optimizer, and do not warn."""

    def rates(wrap: Wrap | None) -> list[tuple[float, float]]:
        def run(world: gossip.World) -> list[tuple[float, float]]:
            model, seen = model_of(world.rank), []
            base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            optimizer = wrap(world, base) if wrap is not None else base
            scheduler = schedule(optimizer)
            for step in range(9):
                loss_of(model, world.rank, step).backward()
                optimizer.step()
                optimizer.zero_grad()
                seen.append((base.param_groups[0]["lr"], base.param_groups[0]["momentum"]))
                scheduler.step(*[1.0] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else [])
            return seen

        return testing.run(1, run)[0]

    plain = rates(None)
    assert len(set(plain)) > 1
    assert all(rates(wrap) == plain for wrap in WRAPS.values())


@EVERY_WRAP
def test_closure_is_evaluated_once(wrap: Wrap) -> None:
    """With gradients enabled, and its loss comes back."""

    def run(world: gossip.World) -> None:
        model, losses = model_of(world.rank), []
        optimizer: Any = wrap(world, torch.optim.Adam(model.parameters(), lr=0.01))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            losses.append(loss_of(model, world.rank, len(losses)))
            losses[-1].backward()
            return losses[-1]

        for step in range(7):
            assert optimizer.step(closure) is losses[step]
        assert len(losses) == 7
        assert optimizer.step() is None

    testing.run(2, run)


def test_closure_equals_a_loop() -> None:
    """A closure computes the same as a loop does between two steps, flights in the air or not."""

    def run(world: gossip.World, by_closure: bool) -> torch.Tensor:
        model = model_of(0)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), irregular(world))
        for step in range(6):

            def closure(step: int = step) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, world.rank, step)
                loss.backward()
                return loss

            if by_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        return flat(model)

    by_closure, by_loop = (testing.run(3, lambda world, way=way: run(world, way)) for way in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(by_closure, by_loop, strict=True))


def test_step_hooks() -> None:
    """On the wrapper around the whole step, on the wrapped optimizer around its update, each once a step."""

    def run(world: gossip.World) -> list[str]:
        model, called = model_of(world.rank), []
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        middle = gossip.GossipOptimizer(base, irregular(world))
        outer = slowmo.SlowMo(middle, gossip.ExactAverage(world), period=2)
        for name, optimizer in [("base", base), ("middle", middle), ("outer", outer)]:
            optimizer.register_step_pre_hook(lambda *_, name=name: called.append(f"before {name}"))
            optimizer.register_step_post_hook(lambda *_, name=name: called.append(f"after {name}"))
        for _ in range(2):
            outer.step()
        return called

    once = ["before outer", "before middle", "before base", "after base", "after middle", "after outer"]
    assert testing.run(2, run) == [once * 2] * 2


@EVERY_WRAP
def test_copies(wrap: Wrap) -> None:
    """The model may be copied, and trains no more; the optimizer may not, since its peers know one of it."""

    def run(world: gossip.World) -> None:
        model = model_of(world.rank)
        optimizer = wrap(world, torch.optim.SGD(model.parameters(), lr=0.1))
        twin = copy.deepcopy(model)
        before = flat(twin)
        loss_of(model, world.rank, 0).backward()
        optimizer.step()
        assert torch.equal(flat(twin), before)
        assert not torch.equal(flat(model), before)
        for copied in (copy.deepcopy, copy.copy, pickle.dumps):
            with pytest.raises(gossip.UsageError, match=r"cannot be (copied|pickled): .*state_dict\(\)"):
                copied(optimizer)

    testing.run(2, run)


@EVERY_WRAP
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_and_accumulation(wrap: Wrap, set_to_none: bool) -> None:
    """Four quarters of a batch, accumulated, are the batch."""

    def run(world: gossip.World, parts: int) -> torch.Tensor:
        model = model_of(0, torch.float64)
        optimizer = wrap(world, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        generator = torch.Generator().manual_seed(world.rank)
        for _ in range(6):
            x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
            for part in x.chunk(parts):
                (model(part).square().sum() / 8).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)
            assert all((p.grad is None) if set_to_none else not p.grad.any() for p in model.parameters())
        return flat(model)

    whole, quarters = (testing.run(3, lambda world, n=n: run(world, n)) for n in (1, 4))
    torch.testing.assert_close(whole, quarters, rtol=1e-12, atol=1e-12)


@EVERY_WRAP
def test_more_parameters_in_mid_run(wrap: Wrap) -> None:
    """Rank 0's values are taken for them, and they are averaged like the others from then on."""

    def run(world: gossip.World) -> torch.Tensor:
        head, tail = model_of(world.rank), torch.nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            tail.weight.fill_(world.rank / 10)
        optimizer: Any = wrap(world, torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.5))
        for step in range(24):
            if step == 4:
                optimizer.add_param_group({"params": tail.parameters(), "lr": 0.02})
                assert not tail.weight.any()
                assert len(optimizer.param_groups) == 2
                assert optimizer.param_groups[1]["lr"] == 0.02
            optimizer.zero_grad()
            (tail(head(torch.ones(1, 4))) - world.rank).square().mean().backward()
            optimizer.step()
        for _ in range(24):  # of averaging and nothing else
            optimizer.zero_grad()
            optimizer.step()
        optimizer.settle()
        return torch.cat([flat(head), flat(tail)])

    ranks = testing.run(4, run)
    assert torch.isfinite(ranks[0]).all()
    for values in ranks:
        torch.testing.assert_close(values, ranks[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        (lambda model: torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False), "int64"),
        (lambda model: torch.nn.Parameter(model[0].weight.detach()), "two objects over the same memory"),
    ],
    ids=["integer", "alias"],
)
def test_refused_parameters_leave_no_trace(odd: Callable[[torch.nn.Module], torch.nn.Parameter], word: str) -> None:
    """A group that cannot be averaged is not added by halves."""
    model = model_of(0)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage())
    with pytest.raises(gossip.UsageError, match=word):
        optimizer.add_param_group({"params": [odd(model)]})
    assert len(optimizer.param_groups) == 1
    optimizer.step()


# -- GradScaler --------------------------------------------------------------------------------------------------------


def scaled_run(world: gossip.World, wrap: Wrap, overflows: int, clip: bool, steps: int = 8) -> dict[str, Any]:
    """Mixed precision's loop; in step 3 the gradients of rank `overflows` are infinite, without any update before."""
    model = model_of(0, torch.float64)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer: Any = wrap(world, base)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    updates: list[int] = []
    clock = [0]
    base.register_step_post_hook(lambda *_: updates.append(clock[0]))
    for step in range(steps):
        clock[0] = step
        optimizer.zero_grad()
        scaler.scale(loss_of(model, world.rank, step)).backward()
        if step == 3 and world.rank == overflows:
            model[0].weight.grad[0, 0] = float("inf")
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
    optimizer.settle()
    return {"updates": updates, "scale": scaler.get_scale(), "values": flat(model), "steps": optimizer.stats.run.steps}


@pytest.mark.parametrize("clip", [False, True], ids=["", "unscaled and clipped"])
@EVERY_WRAP
def test_overflow_on_one_rank(wrap: Wrap, clip: bool) -> None:
    """That rank skips its update, the others go on, nobody waits, and all end in the same step of the schedule."""
    ranks = testing.run(4, lambda world: scaled_run(world, wrap, 2, clip), timeout=10)
    for rank, seen in enumerate(ranks):
        assert seen["updates"] == [step for step in range(8) if (rank, step) != (2, 3)]
        assert seen["scale"] == (512 if rank == 2 else 1024)
        assert seen["steps"] == 8
        assert torch.isfinite(seen["values"]).all()


@pytest.mark.parametrize("clip", [False, True], ids=["", "unscaled and clipped"])
def test_overflow_with_averaged_gradients(clip: bool) -> None:
    """All ranks skip together, and stay equal."""

    def wrap(world: gossip.World, base: torch.optim.Optimizer) -> gossip.GossipOptimizer:
        return gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)

    ranks = testing.run(4, lambda world: scaled_run(world, wrap, 2, clip), timeout=10)
    for seen in ranks:
        assert seen["updates"] == [0, 1, 2, 4, 5, 6, 7]
        assert torch.equal(seen["values"], ranks[0]["values"])
        assert torch.isfinite(seen["values"]).all()


@pytest.mark.parametrize("clip", [False, True], ids=["", "unscaled and clipped"])
@EVERY_WRAP
def test_scaling_changes_nothing(wrap: Wrap, clip: bool) -> None:
    """Scales are powers of two: the run is that without a scaler, bit for bit."""

    def plain(world: gossip.World) -> torch.Tensor:
        model = model_of(0, torch.float64)
        optimizer: Any = wrap(world, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(8):
            optimizer.zero_grad()
            loss_of(model, world.rank, step).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        optimizer.settle()
        return flat(model)

    scaled = testing.run(3, lambda world: scaled_run(world, wrap, -1, clip))
    for one, other in zip(scaled, testing.run(3, plain), strict=True):
        assert torch.equal(one["values"], other)


# -- every call of step() is one step of the schedule ------------------------------------------------------------------


@EVERY_WRAP
def test_ranks_with_ten_and_nine_batches(wrap: Wrap) -> None:
    """Ranks that ran out go on calling step() without gradients; no rank waits, and no rank's momentum goes on."""

    def run(world: gossip.World) -> int:
        model = model_of(0)
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer: Any = wrap(world, base)
        batches = 10 if world.rank == 0 else 9
        for step in range(max(int(count) for count in world.all_gather(b"%d" % batches))):
            optimizer.zero_grad()
            if step < batches:
                loss_of(model, world.rank, step).backward()
            optimizer.step()
        optimizer.settle()
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        return int(optimizer.stats.run.steps)

    assert testing.run(4, run, timeout=10) == [10] * 4


def test_scaler_on_a_rank_without_gradients() -> None:
    """`scaler.step` goes through where there is nothing to unscale."""

    def run(world: gossip.World) -> int:
        model = model_of(0)
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = gossip.GossipOptimizer(base, irregular(world))
        scaler = torch.amp.GradScaler("cpu")
        for step in range(4):
            optimizer.zero_grad()
            if world.rank or step < 3:
                scaler.scale(loss_of(model, world.rank, step)).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                scaler.step(optimizer)
        optimizer.settle()
        return optimizer.stats.run.steps

    assert testing.run(3, run, timeout=10) == [4] * 3


# -- gradients averaged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_averaged_gradients_are_those_of_one_big_batch(dtype: torch.dtype) -> None:
    def run(world: gossip.World) -> torch.Tensor:
        model = model_of(world.rank, dtype)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)
        for step in range(6):
            optimizer.zero_grad()
            loss_of(model, world.rank, step).backward()
            optimizer.step()
        return flat(model)

    size, model = 3, model_of(0, dtype)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(6):
        sgd.zero_grad()
        (sum(loss_of(model, rank, step) for rank in range(size)) / size).backward()
        sgd.step()
    ranks = testing.run(size, run)
    tolerance = 40 * torch.finfo(dtype).eps
    for values in ranks:
        assert torch.equal(values, ranks[0])
        torch.testing.assert_close(values, flat(model), rtol=tolerance, atol=tolerance)


def test_gradients_that_some_ranks_lack() -> None:
    """Count as zero there; a parameter that has none anywhere stays without, so that weight decay leaves it alone."""

    def run(world: gossip.World) -> list[float]:
        some, none, everyone = (torch.nn.Parameter(torch.ones(1)) for _ in range(3))
        base = torch.optim.SGD([some, none, everyone], lr=1.0, weight_decay=0.5)
        optimizer = gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)
        loss = everyone * 2
        if world.rank == 1:
            loss = loss + some * 3
        loss.sum().backward()
        optimizer.step()
        assert none.grad is None
        return [parameter.item() for parameter in (some, none, everyone)]

    # x - (g + x/2): the gradient of `some` is 3 on one rank of three
    assert testing.run(3, run) == [[-0.5, 1.0, -1.5]] * 3


def test_an_expanded_gradient_is_averaged() -> None:
    """One number in the place of many cannot hold a mean of its own for each."""

    def run(world: gossip.World) -> list[float]:
        parameter = torch.zeros(3, requires_grad=True)
        base = torch.optim.SGD([parameter], lr=1.0)
        optimizer = gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)
        parameter.grad = torch.full((1,), float(world.rank)).expand(3)
        if world.rank == 1:
            parameter.grad = torch.tensor([1.0, 3.0, 5.0])
        optimizer.step()
        return parameter.tolist()

    assert testing.run(2, run) == [[-0.5, -1.5, -2.5]] * 2


def test_the_weight_report_with_averaged_gradients_is_of_all_ranks() -> None:
    def run(world: gossip.World) -> gossip.WeightReport:
        base = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world).weight_report()

    assert testing.run(3, run) == [gossip.WeightReport(ranks=3, held=3.0, in_flight=0.0, spread=0.0)] * 3


def test_a_parameter_in_the_place_of_another_is_refused() -> None:
    """It would be trained, and averaged with nobody's."""

    def run(world: gossip.World) -> None:
        model = model_of(world.rank)
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), push_sum(world))
        optimizer.step()
        optimizer.param_groups[0]["params"][1] = torch.nn.Parameter(torch.zeros(3))
        with pytest.raises(gossip.GossipError, match="has other parameters than the 4 that are averaged"):
            optimizer.step()

    testing.run(2, run)


def test_an_empty_parameter_of_any_strides_is_compared() -> None:
    def run(world: gossip.World) -> None:
        empty = torch.nn.Parameter(torch.empty(4).as_strided((0,), (0,)))
        sgd = torch.optim.SGD([empty, torch.zeros(2, requires_grad=True)], lr=0.1)
        gossip.GossipOptimizer(sgd, push_sum(world), initial="check").step()

    testing.run(2, run)


HOSTS = ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("overlap", [0, 1])
def test_hierarchical(overlap: int) -> None:
    """Gradients over the node, push-sum across: the ranks of a node stay equal and are one rank of a smaller SGP."""

    def across(world: gossip.World) -> torch.Tensor:
        model = model_of(world.rank, torch.float64)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = gossip.GossipOptimizer(base, irregular(world.across, overlap), gradients=world.node)
        for step in range(9):
            optimizer.zero_grad()
            loss_of(model, world.rank, step).backward()
            optimizer.step()
        optimizer.settle()
        return flat(model)

    def flat_run(world: gossip.World) -> torch.Tensor:
        model = model_of(0, torch.float64)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = gossip.GossipOptimizer(base, irregular(world, overlap))
        for step in range(9):
            optimizer.zero_grad()
            ((loss_of(model, 2 * world.rank, step) + loss_of(model, 2 * world.rank + 1, step)) / 2).backward()
            optimizer.step()
        optimizer.settle()
        return flat(model)

    nodes, ranks = testing.run(3, flat_run), testing.run(6, across, hosts=HOSTS)
    for rank, values in enumerate(ranks):
        assert torch.equal(values, ranks[rank - rank % 2])
        torch.testing.assert_close(values, nodes[rank // 2], rtol=0, atol=1e-13)


# -- what is averaged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("averager", [push_sum, irregular], ids=["balanced", "irregular"])
def test_several_dtypes_keep_the_mean(averager: Callable[[gossip.World], gossip.PushSum]) -> None:
    """Each to its own precision, under one weight."""
    dtypes = [torch.float32, torch.float64, torch.bfloat16]

    def run(world: gossip.World) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(torch.zeros(4, dtype=dtype)) for dtype in dtypes]
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(parameters, lr=0.1), averager(world))
        with torch.no_grad():
            for parameter in parameters:
                parameter.fill_(world.rank)
        for _ in range(150):
            optimizer.step()
        optimizer.settle()
        return [parameter.detach().double() for parameter in parameters]

    for rank in testing.run(5, run):
        for values, dtype in zip(rank, dtypes, strict=True):
            torch.testing.assert_close(values, torch.full((4,), 2.0).double(), rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("policy", ["local", "average"])
def test_module_buffers(policy: str) -> None:
    """BatchNorm's statistics stay each rank's own, or are averaged whenever parameters are, exactly; counts never."""

    def run(world: gossip.World) -> list[tuple[torch.Tensor, int]]:
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3, momentum=1.0))
        base = torch.optim.SGD(model.parameters(), lr=0.01)
        exact = gossip.Every(2, gossip.ExactAverage(world))
        optimizer = gossip.GossipOptimizer(base, exact, module=model, module_buffers=policy)
        history = []
        for step in range(2):
            x = torch.randn(16, 2, generator=torch.Generator().manual_seed(step + 10 * world.rank)) + world.rank
            optimizer.zero_grad()
            model(x).sum().backward()
            own = model[1].running_mean.clone()
            optimizer.step()
            history.append((own, model[1].running_mean.clone(), int(model[1].num_batches_tracked)))
        return history

    ranks = testing.run(3, run)
    for first, second in ranks:
        assert torch.equal(first[0], first[1]), "nothing was averaged yet"
        assert (first[2], second[2]) == (1, 2)
        if policy == "local":
            assert torch.equal(second[0], second[1])
        else:
            mean = torch.stack([rank[1][0] for rank in ranks]).mean(dim=0)
            torch.testing.assert_close(second[1], mean)


def test_everyone_begins_with_the_model_of_rank_0() -> None:
    """Its buffers too, where the module is given."""

    def run(world: gossip.World) -> tuple[torch.Tensor, torch.Tensor]:
        model = torch.nn.Sequential(model_of(world.rank), torch.nn.BatchNorm1d(3))
        model[1].running_mean.fill_(world.rank + 1)
        gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), push_sum(world), module=model)
        return flat(model[0]), model[1].running_mean.clone()

    for values, statistics in testing.run(3, run):
        assert torch.equal(values, flat(model_of(0)))
        assert statistics.tolist() == [1.0] * 3


def frozen_of(rank: int, sizes: int = 2) -> torch.nn.Sequential:
    """A head that is trained, on a body that is not."""
    body = torch.nn.Linear(sizes, 4).requires_grad_(False)
    with torch.no_grad():
        body.weight.fill_(rank)
    return torch.nn.Sequential(body, model_of(0))


@pytest.mark.parametrize("trained", ["parameters", "head"])
def test_what_is_not_trained_is_rank_0_s_too(trained: str) -> None:
    """Left out of the optimizer or not."""

    def run(world: gossip.World) -> list[float]:
        model = frozen_of(world.rank)
        sgd = torch.optim.SGD(model[1].parameters() if trained == "head" else model.parameters(), lr=0.1)
        gossip.GossipOptimizer(sgd, push_sum(world), module=model).step()
        return model[0].weight.unique().tolist()

    assert testing.run(3, run) == [[0.0]] * 3


def test_what_another_optimizer_trains_is_left_to_it() -> None:
    """Two optimizers over parts of one module: the second does not touch what the first one gossips."""

    def run(world: gossip.World) -> tuple[torch.Tensor, torch.Tensor]:
        model = torch.nn.ModuleList([model_of(0), model_of(0)])
        first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in model)
        gossiping = gossip.GossipOptimizer(first, push_sum(world), module=model)
        with torch.no_grad():
            model[0][0].bias.fill_(world.rank)
        before = flat(model[0])
        gossip.GossipOptimizer(second, push_sum(world), module=model)
        gossiping.settle()
        return before, flat(model[0])

    assert all(torch.equal(*each) for each in testing.run(3, run))


def test_the_weight_report_of_gossip_between_hosts_is_of_the_gossiping_ranks() -> None:
    """The ranks of a node exchange no weight, however many they are."""

    def run(world: gossip.World) -> tuple[int, float]:
        sgd = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
        across = gossip.PushSum(world.across, topologies.exponential(2), landing="any")
        optimizer = gossip.GossipOptimizer(sgd, across, gradients=world.node)
        optimizer.step()
        optimizer.settle()
        report = optimizer.weight_report()
        return report.ranks, round(report.lost, 9)

    assert testing.run(6, run, hosts=["a"] * 3 + ["b"] * 3) == [(2, 0.0)] * 6


def test_what_is_not_trained_is_compared_too() -> None:
    def run(world: gossip.World, initial: str, sizes: int) -> None:
        model = frozen_of(world.rank, sizes)
        sgd = torch.optim.SGD(model[1].parameters(), lr=0.1)
        gossip.GossipOptimizer(sgd, push_sum(world), module=model, initial=initial)

    with pytest.raises(gossip.Disagreement, match=r"rank 0 has parameter '0.weight' with values .* rank 1"):
        testing.run(2, lambda world: run(world, "check", 2))
    with pytest.raises(gossip.Disagreement, match=r"rank 0 has parameter '0.weight' of shape \(4, 2\), .* rank 1 has "):
        testing.run(2, lambda world: run(world, "broadcast", 2 + world.rank))


def test_the_state_of_another_optimizer_is_refused() -> None:
    """Or one with more than is taken up."""
    world, model = gossip.init(), model_of(0)

    def made(base: Callable[..., torch.optim.Optimizer]) -> gossip.GossipOptimizer:
        return gossip.GossipOptimizer(base(model.parameters(), lr=0.1), gossip.ExactAverage(world))

    adam = made(torch.optim.AdamW)
    adam.step()
    with pytest.raises(gossip.UsageError, match="while running AdamW, and this is SGD: settle and save the model"):
        made(torch.optim.SGD).load_state_dict(adam.state_dict())
    outer = slowmo.SlowMo(made(torch.optim.SGD), gossip.ExactAverage(world))
    outer.step()
    with pytest.raises(gossip.UsageError, match="this state holds 'slowmo' of an optimizer around the GossipOptimizer"):
        made(torch.optim.SGD).load_state_dict(outer.state_dict())


def test_what_the_wrapped_optimizer_keeps_beside_its_state_comes_back() -> None:
    class Counting(torch.optim.SGD):
        calls = 0

        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "calls": self.calls}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            self.calls = state_dict["calls"]

    world, model = gossip.init(), model_of(0)
    first, second = (Counting(model.parameters(), lr=0.1) for _ in range(2))
    first.calls = 3
    state = gossip.GossipOptimizer(first, gossip.ExactAverage(world)).state_dict()
    gossip.GossipOptimizer(second, gossip.ExactAverage(world)).load_state_dict(state)
    assert second.calls == 3


def test_equal_models_may_be_checked_instead() -> None:
    def run(world: gossip.World, models: Callable[[int], int]) -> torch.Tensor:
        model = model_of(models(world.rank))
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        gossip.GossipOptimizer(base, push_sum(world), module=model, initial="check")
        return flat(model)

    for values in testing.run(3, lambda world: run(world, lambda rank: 7)):
        assert torch.equal(values, flat(model_of(7)))
    with pytest.raises(gossip.Disagreement, match=r"rank 0 has parameter '0.weight' .* rank 1 has .* initial='check'"):
        testing.run(3, lambda world: run(world, lambda rank: rank))
