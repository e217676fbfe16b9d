"""Float32 masters of 16-bit parameters: the run is a float32 run whose forward and backward see rounded weights."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from workers.masters import OTHERS, STEPS, Mixed, loss_of, model_of, simulated, start, train, trained

import gossip
import slowmo
from gossip import checkpoint, testing
from gossip.state.buckets.masters import origin

BASES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def alone(model: torch.nn.Module, base: str = "sgd", **options: Any) -> gossip.GossipOptimizer:
    """On one rank."""
    averager = options.pop("averager", None) or gossip.NoAverage()
    return gossip.GossipOptimizer(BASES[base](model.parameters()), averager, master_weights=True, **options)


def masters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]


def agree(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The parameters are the masters, rounded."""
    of = {id(origin(master)): master for group in optimizer.param_groups for master in group["params"]}
    for parameter in model.parameters():
        master = of.pop(id(parameter))
        assert master.dtype == torch.float32
        assert torch.equal(parameter.detach(), master.detach().to(parameter.dtype))
    assert not of


# Values that training computes


@pytest.mark.parametrize("base", BASES)
def test_float32_is_left_alone(base: str) -> None:
    """Bit for bit, and without anything in the places of its parameters."""

    def run(world: gossip.World, masters: bool) -> list[torch.Tensor]:
        model = model_of(torch.float32, world.rank)
        optimizer = start(world, BASES[base](model.parameters()), overlap=1, master_weights=masters)
        assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
        return train(world, model, optimizer)

    with_masters, without = (testing.run(3, lambda world, m=m: run(world, m)) for m in (True, False))
    for one, other in zip(with_masters, without, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("dtype", "base", "overlap", "wire"),
    [
        *itertools.product([torch.bfloat16], BASES, [0, 1], [None, "bfloat16"]),
        (torch.float16, "sgd", 1, None),
    ],
)
def test_a_float32_run_with_rounded_weights(dtype: torch.dtype, base: str, overlap: int, wire: str | None) -> None:
    """Bit for bit: push-sum with uneven weights, SlowMo, accumulation, and clipping of the model's gradients."""
    options: dict[str, Any] = {"overlap": overlap, "wire": wire}
    ours = testing.run(3, lambda world: trained(world, dtype, BASES[base], **options))
    theirs = testing.run(3, lambda world: simulated(world, dtype, BASES[base], **options))
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("around", OTHERS)
def test_whatever_stands_around(around: str) -> None:
    """The same law; the runs of masters and of float32 parameters differ in nothing but the rounded weights."""
    ours, theirs = (
        testing.run(3, lambda world, r=r: r(world, torch.bfloat16, BASES["adamw"], OTHERS[around]))
        for r in (trained, simulated)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("averaged", ["world", "node"])
def test_averaged_gradients(averaged: str) -> None:
    """Are averaged in float32, and ranks of a node stay equal."""
    options: dict[str, Any] = {"overlap": 1, "averaged": averaged}
    hosts = ["a", "a", "b", "b"]
    dtype = torch.bfloat16
    ours = testing.run(4, lambda world: trained(world, dtype, BASES["sgd"], **options), hosts=hosts)
    theirs = testing.run(4, lambda world: simulated(world, dtype, BASES["sgd"], **options), hosts=hosts)
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, other))
    for one, other in [(0, 1), (2, 3)] if averaged == "node" else []:
        assert all(map(torch.equal, ours[one], ours[other]))


def test_tiny_updates_add_up() -> None:
    """Of 1/1000 of the weight each: bfloat16 alone would never leave 1."""

    def after(steps: int, masters: bool) -> float:
        parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        sgd = torch.optim.SGD([parameter], lr=1e-3)
        optimizer = gossip.GossipOptimizer(sgd, gossip.NoAverage(), master_weights=masters)
        for _ in range(steps):
            optimizer.zero_grad()
            parameter.sum().backward()
            optimizer.step()
        return parameter[0].item()

    assert after(100, False) == 1
    assert after(100, True) == pytest.approx(0.9, abs=2**-9)


def test_every_dtype_in_one_model() -> None:
    """Float32 norms, bfloat16 and float16 matrices, a tied one: each a bucket of its own, all of them float32."""

    def run(world: gossip.World) -> list[torch.Tensor]:
        model = Mixed(world.rank)
        kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
        base = torch.optim.AdamW([{"params": model.first.parameters()}, {"params": list(model.rest()), "lr": 1e-2}])
        optimizer = start(world, base, overlap=1, master_weights=True, module=model)
        assert {name: parameter.dtype for name, parameter in model.named_parameters()} == kinds
        assert len(set(kinds.values())) == 3
        for step in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(4, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()
        optimizer.settle()
        agree(model, base)
        assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
        assert model.head.weight is model.first.weight
        return [parameter.detach().float() for parameter in model.parameters()]

    one, other = testing.run(2, run)
    assert all(torch.isfinite(part).all() for part in one)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.1, atol=0.1)


# The loop


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("by", ["optimizer", "model"])
def test_zero_grad(by: str, set_to_none: bool) -> None:
    """Clears the one gradient, whoever is asked."""
    model = model_of(torch.bfloat16)
    optimizer = alone(model)
    loss_of(model, 0, 0).backward()
    for parameter, master in zip(model.parameters(), optimizer.param_groups[0]["params"], strict=True):
        assert master.grad is parameter.grad
        assert master.grad.any()
    {"optimizer": optimizer, "model": model}[by].zero_grad(set_to_none)
    for parameter in (*model.parameters(), *optimizer.param_groups[0]["params"]):
        assert parameter.grad is None if set_to_none else not parameter.grad.any()


def test_a_gradient_that_is_there_already_counts() -> None:
    model = model_of(torch.bfloat16)
    loss_of(model, 0, 0).backward()
    gradient = model[0].weight.grad.float()
    optimizer = alone(model)
    assert torch.equal(optimizer.param_groups[0]["params"][0].grad, gradient)


@pytest.mark.parametrize("clip", [False, True])
def test_scaled_float16_gradients(clip: bool) -> None:
    """GradScaler unscales what the update uses; an overflow on one rank makes it skip, and the others go on."""

    def run(world: gossip.World) -> tuple[list[int], float, list[torch.Tensor]]:
        model = model_of(torch.float16)
        base = torch.optim.SGD(model.parameters(), lr=0.05)
        optimizer = start(world, base, overlap=1, master_weights=True)
        scaler, updates, now = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100), [], [0]
        base.register_step_post_hook(lambda *_: updates.append(now[0]))
        for now[0] in range(6):
            optimizer.zero_grad()
            loss = loss_of(model, world.rank, now[0])
            scaler.scale(loss * (1e6 if (now[0], world.rank) == (3, 1) else 1)).backward()  # beyond 65,504
            if clip:
                scaler.unscale_(optimizer)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                assert (now[0], world.rank) == (3, 1) or norm < 10, "clipped before it was unscaled"
            before = [master.clone() for master in masters_of(base)]
            scaler.step(optimizer)
            scaler.update()
            assert all(torch.isfinite(master).all() for master in masters_of(base))
            if clip and updates[-1] == now[0] and world.size == 1:
                moved = torch.cat([(a - b).reshape(-1) for a, b in zip(before, masters_of(base), strict=True)])
                assert moved.norm() == pytest.approx(0.05 * 0.01, rel=1e-3)
        optimizer.settle()
        agree(model, base)
        return updates, scaler.get_scale(), masters_of(base)

    for rank, (updates, scale, _) in enumerate(testing.run(3, run, timeout=20)):
        assert updates == ([0, 1, 2, 4, 5] if rank == 1 else list(range(6)))
        assert scale == (512 if rank == 1 else 1024)
    testing.run(1, run)


def test_closures() -> None:
    """One evaluation or several: each sees the masters as they are then, rounded; LBFGS learns by it."""

    def run(world: gossip.World, make: Callable[[Any], torch.optim.Optimizer]) -> tuple[float, float]:
        model = model_of(torch.bfloat16)
        optimizer = start(world, make(model.parameters()), overlap=1, master_weights=True)

        def closure() -> torch.Tensor:
            agree(model, optimizer)
            optimizer.zero_grad()
            loss = loss_of(model, world.rank, 0)
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(8)]
        agree(model, optimizer)
        return losses[0], losses[-1]

    for make in (BASES["adamw"], lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4)):
        for first, last in testing.run(2, lambda world, make=make: run(world, make)):
            assert last < first


@pytest.mark.parametrize("way", ["foreach", "fused"])
def test_fast_paths(way: str) -> None:
    """Of torch's optimizers are the same to masters as to any float32 parameters."""

    def run(world: gossip.World, runs: Any) -> list[torch.Tensor]:
        result: list[torch.Tensor] = runs(world, torch.bfloat16, lambda p: torch.optim.AdamW(p, lr=0.01, **{way: True}))
        return result

    ours, theirs = (testing.run(2, lambda world, r=r: run(world, r)) for r in (trained, simulated))
    for one, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, one, other))


def test_copies() -> None:
    """The model's copy has the model's dtypes and trains no more."""
    model = model_of(torch.bfloat16)
    optimizer = alone(model)
    twin = copy.deepcopy(model)
    loss_of(model, 0, 0).backward()
    optimizer.step()
    assert all(parameter.dtype == torch.bfloat16 for parameter in twin.parameters())
    assert not any(map(torch.equal, model.parameters(), twin.parameters()))
    groups = copy.deepcopy(optimizer.param_groups)
    assert all(type(parameter) is torch.nn.Parameter for group in groups for parameter in group["params"])
    assert all(map(torch.equal, groups[0]["params"], optimizer.param_groups[0]["params"]))


def test_memory_that_has_a_master_is_refused_under_another_name() -> None:
    model = model_of(torch.bfloat16)
    optimizer = alone(model)
    other = torch.nn.Parameter(next(model.parameters()).data)
    with pytest.raises(gossip.UsageError, match="memory"):
        optimizer.add_param_group({"params": [other]})


def test_more_parameters_in_mid_run() -> None:
    """Rank 0's values are taken for them, in the model's dtype and their masters'."""

    def run(world: gossip.World) -> torch.Tensor:
        model, tail = model_of(torch.bfloat16, world.rank), torch.nn.Linear(8, 8, bias=False).to(torch.bfloat16)
        optimizer = start(world, BASES["sgd"](model.parameters()), overlap=1, master_weights=True)
        train(world, model, optimizer)
        with torch.no_grad():
            tail.weight.fill_(world.rank + 1)
        optimizer.add_param_group({"params": tail.parameters()})
        assert torch.equal(tail.weight, torch.ones_like(tail.weight))
        for _ in range(4):
            tail(torch.full((8,), 1 + world.rank / 100, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        for _ in range(24):  # of averaging and nothing else
            optimizer.step()
        optimizer.settle()
        assert torch.equal(tail.weight.detach(), masters_of(optimizer)[-1].to(torch.bfloat16))
        return masters_of(optimizer)[-1]

    one, other = testing.run(2, run)
    assert (one < 1).all()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


# Values that are written by hand


def test_what_is_written_before_the_first_step_counts() -> None:
    """A pretrained model that is loaded after all wrappers were made, and SlowMo's anchor begins there."""

    def run(world: gossip.World) -> None:
        model = model_of(torch.bfloat16, world.rank)
        optimizer = start(world, BASES["sgd"](model.parameters()), overlap=1, master_weights=True)
        loaded = model_of(torch.bfloat16, 9).state_dict()
        for parameter, value in zip(model.parameters(), loaded.values(), strict=True):
            parameter.data.copy_(value)  # of which autograd knows nothing
        optimizer.step()
        optimizer.settle()
        assert all(map(torch.equal, model.state_dict().values(), loaded.values()))
        assert torch.equal(optimizer.anchors[0][: model[0].weight.numel()], model[0].weight.detach().float().flatten())

    testing.run(2, run)


@pytest.mark.parametrize("then", ["settle", "wrap", "save", "load"])
def test_what_is_written_counts_whatever_is_called_next(then: str) -> None:
    model, loaded = model_of(torch.bfloat16), model_of(torch.bfloat16, 9)
    optimizer = alone(model)
    plain = BASES["sgd"](model_of(torch.bfloat16).parameters()).state_dict()
    model.load_state_dict(loaded.state_dict())
    if then == "settle":
        optimizer.settle()
    elif then == "wrap":
        slowmo.SlowMo(optimizer, gossip.NoAverage())
    elif then == "save":
        saved = optimizer.state_dict()["gossip"]["masters"][0]
        assert torch.equal(saved[: model[0].weight.numel()], loaded[0].weight.detach().float().flatten())
    else:
        optimizer.load_state_dict(plain)
    assert all(map(torch.equal, model.parameters(), loaded.parameters()))
    agree(model, optimizer)


def test_a_master_stays_where_only_its_neighbour_was_written() -> None:
    """The digits that rounding hides are kept: by later writes in place, and by any write after `settle`."""
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=1e-4), gossip.NoAverage(), master_weights=True)
    parameter.sum().backward()
    optimizer.step()
    with torch.no_grad():
        parameter[0] = 3
    optimizer.step()
    optimizer.settle()
    parameter.data[1] = 5
    optimizer.step()
    [master] = masters_of(optimizer)
    torch.testing.assert_close(master, torch.tensor([3 - 2e-4, 5 - 1e-4, 1 - 3e-4, 1 - 3e-4]))
    agree(torch.nn.ParameterList([parameter]), optimizer)


# Checkpoints


def begun(world: gossip.World, seed: int = 0) -> tuple[torch.nn.Module, Any]:
    model = model_of(torch.bfloat16, seed)
    return model, start(world, BASES["adamw"](model.parameters()), overlap=1, master_weights=True, wire="bfloat16")


def test_resume(tmp_path: Path) -> None:
    """From disk and from the two state_dicts, in either order, with a message in the air: bit for bit."""

    def straight(world: gossip.World) -> list[torch.Tensor]:
        model, optimizer = begun(world)
        return train(world, model, optimizer, range(2 * STEPS))

    def resumed(world: gossip.World, way: str) -> list[torch.Tensor]:
        model, optimizer = begun(world)
        train(world, model, optimizer, range(7), settle=False)
        if way == "disk":
            checkpoint.save(tmp_path, world, 7, model=model, optimizer=optimizer)
        states = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        assert all(value.dtype == torch.bfloat16 for value in states["model"].values())
        optimizer.settle()
        model, optimizer = begun(world, seed=1)
        if way == "disk":
            checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
        for part in way.split() if way != "disk" else ():
            {"model": model, "optimizer": optimizer}[part].load_state_dict(states[part])
        agree(model, optimizer)
        return train(world, model, optimizer, range(7, 2 * STEPS))

    once = testing.run(3, straight)
    for way in ("disk", "model optimizer", "optimizer model"):
        for one, other in zip(once, testing.run(3, lambda world, way=way: resumed(world, way)), strict=True):
            assert all(map(torch.equal, one, other))


def test_other_numbers_of_ranks_and_the_model_to_publish(tmp_path: Path) -> None:
    """The mean of the masters, weights and messages in the air honoured; what is published is that, rounded."""

    def saved(world: gossip.World) -> list[torch.Tensor]:
        model, optimizer = begun(world)
        train(world, model, optimizer, range(6), settle=False)
        checkpoint.save(tmp_path, world, 6, model=model, optimizer=optimizer)
        weight = sum(float(said) for said in world.all_gather(b"%.17g" % optimizer.weight_report().held))
        assert weight > 0
        optimizer.settle()
        return [optimizer.weight * master.double() for master in masters_of(optimizer)]

    def loaded(world: gossip.World) -> list[torch.Tensor]:
        model, optimizer = begun(world, seed=1)
        checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
        agree(model, optimizer)
        return [master.clone() for master in masters_of(optimizer)]

    mean = [sum(parts) / 3 for parts in zip(*testing.run(3, saved), strict=True)]
    for masters in testing.run(2, loaded):
        for master, expected in zip(masters, mean, strict=True):
            torch.testing.assert_close(master.double(), expected, rtol=1e-5, atol=1e-5)
    published = checkpoint.consensus(tmp_path)
    assert list(published) == list(model_of(torch.bfloat16).state_dict())
    for value, master in zip(published.values(), masters, strict=True):
        assert torch.equal(value, master.to(torch.bfloat16))


# Setups that cannot work


def test_refusals() -> None:
    model = model_of(torch.bfloat16)
    sgd = BASES["sgd"](model.parameters())
    loss_of(model, 0, 0).backward()
    sgd.step()
    for base, name in [(sgd, "SGD"), (torch.optim.Adagrad(model.parameters()), "Adagrad")]:
        with pytest.raises(gossip.UsageError, match=f"{name} has state of parameter 'weight' .* before the first step"):
            gossip.GossipOptimizer(base, gossip.NoAverage(), master_weights=True, module=model[0])
        assert all(map(torch.Tensor.is_set_to, masters_of(base), model.parameters()))  # nothing was changed
    optimizer = alone(model)
    with pytest.raises(gossip.UsageError, match="parameter 0 of group 0 is in another group of this SGD already"):
        optimizer.add_param_group({"params": [model[0].weight]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(gossip.UsageError, match=r"state has masters of 0 elements, and this model's are of \d+"):
        alone(model_of(torch.bfloat16)).load_state_dict(alone(model_of(torch.float32)).state_dict())


@pytest.mark.parametrize("by", ["to", "data"])
def test_a_parameter_that_leaves_its_twin_is_named(by: str) -> None:
    model = model_of(torch.bfloat16)
    optimizer = alone(model, module=model)
    if by == "to":
        model[2].float()
    else:
        model[2].weight.data = model[2].weight.data.clone()
    with pytest.raises(gossip.GossipError, match=r"parameter '2.weight' has left its bucket"):
        optimizer.step()


def test_ranks_with_other_options_are_refused() -> None:
    def run(world: gossip.World) -> None:
        model = model_of(torch.float32)
        start(world, BASES["sgd"](model.parameters()), overlap=1, master_weights=world.rank == 1)

    with pytest.raises(gossip.Disagreement, match="master_weights=True"):
        testing.run(2, run)


# Over MPI, and torch.autocast


@pytest.mark.slow
def test_mpirun(tmp_path: Path) -> None:
    """The bits of the threads' run."""
    ranks = spawn.mpirun(2, "workers.masters", tmp_path)
    threads = testing.run(2, lambda world: trained(world, torch.bfloat16, BASES["sgd"], overlap=1))
    for saved, masters in zip(ranks, threads, strict=True):
        for number, master in enumerate(masters):
            assert np.array_equal(saved[str(number)], master.numpy())


def batches(rank: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for step in range(30):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(100 * step + rank))
        yield x, (x[:, 0] > 0).long()


def test_autocast() -> None:
    """A float32 model learns under it by OSGP and SlowMo, stays float32, and its run repeats bit for bit."""

    def run(world: gossip.World) -> tuple[list[float], list[torch.Tensor]]:
        model, losses = model_of(torch.float32, outputs=2), []
        optimizer = start(world, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), overlap=1)
        for inputs, labels in batches(world.rank):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(inputs)
                assert outputs.dtype == torch.bfloat16
                loss = torch.nn.functional.cross_entropy(outputs, labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        optimizer.settle()
        assert {values.dtype for values in optimizer.optimizer.mass.values} == {torch.float32}
        return losses, [parameter.detach().clone() for parameter in model.parameters()]

    first, again = testing.run(3, run), testing.run(3, run)
    for (losses, parameters), (_, repeated) in zip(first, again, strict=True):
        assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
        assert all(map(torch.equal, parameters, repeated))


def test_a_write_in_a_closure_goes_into_the_master() -> None:
    """Where the closure is evaluated before the step, as any write between two steps."""

    def run(world: gossip.World) -> float:
        layer = torch.nn.Linear(2, 1, bias=False).to(torch.bfloat16)
        torch.nn.init.ones_(layer.weight)
        averager = gossip.Every(100, gossip.ExactAverage(world))
        optimizer = gossip.GossipOptimizer(torch.optim.SGD(layer.parameters(), lr=0.0), averager, master_weights=True)

        def closure() -> torch.Tensor:
            with torch.no_grad():
                layer.weight.mul_(2)
            loss = layer(torch.ones(2, dtype=torch.bfloat16)).sum()
            loss.backward()
            return loss

        def plain() -> torch.Tensor:
            loss = layer(torch.ones(2, dtype=torch.bfloat16)).sum()
            loss.backward()
            return loss

        optimizer.step(plain)  # shows that it asks once, first of all
        for _ in range(3):
            optimizer.zero_grad()
            optimizer.step(closure)
        return float(layer.weight[0, 0])

    assert testing.run(2, run) == [8.0, 8.0]
