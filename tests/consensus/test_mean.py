"""The mean of all ranks' models: exact, the same bits on every rank, and the run goes on as if nobody had asked."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch
from torch import nn
from workers.means import METHODS, Net, osgp, train, truth, values

import gossip
import topologies
from gossip import testing
from gossip.testing import Killed

HOSTS = {"hierarchical": ["a", "a", "b", "b"]}
EXACT = [method for method in METHODS if method != "streaming"]  # whose averages may be on their way


def ranks(method: str, act: Callable[[gossip.World, nn.Module, Any], Any], size: int = 4) -> list[Any]:
    """`act` on each rank, with a model and an optimizer of its own."""

    def run(world: gossip.World) -> Any:
        model = Net()
        return act(world, model, METHODS[method](world, model))

    return testing.run(size, run, hosts=HOSTS.get(method))


@pytest.mark.parametrize("method", METHODS)
def test_mean_is_the_weighted_mean_of_all_ranks(method: str) -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> Any:
        train(model, optimizer, world.rank, 7)
        with optimizer.mean(model):
            inside = values(model)
        published = optimizer.mean_state_dict(model)
        return inside, published, truth(world, model, optimizer) if method in EXACT else None, model.state_dict()

    first, *others = ranks(method, act)
    tolerance = 1e-2 if method.startswith("bfloat16") else 1e-6
    for inside, published, exact, own in (first, *others):
        assert list(published) == list(own)
        for name, value in published.items():
            assert torch.equal(value, first[1][name]), "ranks hold different bits"
            assert torch.equal(value, inside[name])
            assert value.dtype == own[name].dtype
            if exact is not None and value.is_floating_point():
                assert torch.allclose(value.double(), exact[name], atol=tolerance), name
    assert not torch.equal(first[1]["body.1.running_mean"], others[0][3]["body.1.running_mean"])


@pytest.mark.parametrize("method", METHODS)
def test_asking_leaves_the_run_as_it_is(method: str) -> None:
    """Bit for bit: parameters, buffers, weight, and the state of the optimizer."""

    def act(world: gossip.World, model: nn.Module, optimizer: Any, looks: int) -> Any:
        def look() -> None:
            for _ in range(looks):
                with optimizer.mean(model), torch.no_grad():
                    model(torch.ones(2, 2, 5, 5, dtype=next(model.parameters()).dtype))  # moves BatchNorm's statistics
                optimizer.consensus_distance()

        train(model, optimizer, world.rank, 7, look)
        moments = [
            entry for state in optimizer.state.values() for entry in state.values() if isinstance(entry, torch.Tensor)
        ]
        return values(model), optimizer.weight, [moment.clone() for moment in moments]

    alone, asked = (ranks(method, lambda *given, looks=looks: act(*given, looks)) for looks in (0, 2))
    for (own, weight, moments), (own_asked, weight_asked, moments_asked) in zip(alone, asked, strict=True):
        assert weight == weight_asked
        assert all(torch.equal(own[name], own_asked[name]) for name in own)
        assert all(map(torch.equal, moments, moments_asked))


def test_own_values_come_back_after_an_error() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        train(model, optimizer, world.rank, 3)
        before = values(model)
        with contextlib.suppress(ZeroDivisionError), optimizer.mean(model), torch.no_grad():
            model.head.weight.zero_()
            raise ZeroDivisionError
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        train(model, optimizer, world.rank, 1)

    ranks("slowmo", act)


INSIDE: dict[str, Callable[[Any, nn.Module], Any]] = {
    "step": lambda optimizer, model: optimizer.step(),
    "settle": lambda optimizer, model: optimizer.settle(),
    "state_dict": lambda optimizer, model: optimizer.state_dict(),
    "load_state_dict": lambda optimizer, model: optimizer.load_state_dict(optimizer.before),
    "mean": lambda optimizer, model: optimizer.mean(model).__enter__(),
    "average_": lambda optimizer, model: optimizer.average_(),
    "add_param_group": lambda optimizer, model: optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]}),
}


@pytest.mark.parametrize("call", INSIDE)
def test_calls_that_need_own_values_are_refused_inside(call: str) -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        optimizer.before = optimizer.state_dict()
        with optimizer.mean(model), pytest.raises(gossip.UsageError, match=r"inside `with optimizer.mean\(...\)` the"):
            INSIDE[call](optimizer, model)
        train(model, optimizer, world.rank, 1)

    ranks("osgp", act, size=2)


def test_a_model_that_is_not_trained_is_refused() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        with pytest.raises(gossip.UsageError, match=r"it does not train parameter '1\.weight' of the model"):
            optimizer.mean_state_dict(nn.Sequential(model, nn.Linear(2, 2)))
        with pytest.raises(gossip.UsageError, match="it does not train any parameter of this Linear"):
            optimizer.mean_state_dict(nn.Linear(2, 2).requires_grad_(False))
        with pytest.raises(gossip.UsageError, match="is trained, and this is 'model'"):
            optimizer.mean_state_dict("model")
        frozen = nn.Sequential(model, nn.Linear(2, 2).requires_grad_(False))
        assert torch.equal(optimizer.mean_state_dict(frozen)["1.weight"], frozen[1].weight)

    ranks("osgp", act, size=2)


def test_ranks_that_ask_after_different_steps_are_told() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        train(model, optimizer, world.rank, 1 + world.rank)
        with pytest.raises(gossip.Disagreement, match=r"after step 1, where rank 1 has .* after step 2"):
            optimizer.mean_state_dict(model)

    ranks("local", act, size=2)


def test_buffers_that_differ_are_told() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        model.register_buffer("more", torch.zeros(1 + world.rank))
        with pytest.raises(gossip.Disagreement, match=r"buffer 'more' of torch\.float32 and shape"):
            optimizer.mean_state_dict(model)

    ranks("osgp", act, size=2)


def test_buffers_that_a_forward_pass_puts_in_place_go_again() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        norm, before = model.body[1], model.body[1].running_mean
        value = before.clone()
        with optimizer.mean(model):
            norm.running_mean = norm.running_mean * 0.9 + 1
        assert norm.running_mean is before
        assert torch.equal(before, value)

    ranks("osgp", act)


def test_masks_do_not_overflow_and_equal_buffers_stay() -> None:
    """Least values stand for minus infinity in a mask; their sum would be that."""

    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        model.register_buffer("mask", torch.full((2,), torch.finfo(torch.float32).min))
        model.register_buffer("grid", torch.linspace(0, 1, 1000))
        before = values(model)
        published = optimizer.mean_state_dict(model)
        assert torch.equal(published["mask"], before["mask"])
        assert torch.equal(published["grid"], before["grid"])

    ranks("osgp", act, size=3)


def test_the_state_of_the_mean_may_be_taken_inside() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        train(model, optimizer, world.rank, 4)
        with optimizer.mean(model):
            inside = optimizer.mean_state_dict(model)
        outside = optimizer.mean_state_dict(model)
        assert all(torch.equal(inside[name], outside[name]) for name in outside)
        assert not torch.equal(inside["head.weight"], model.head.weight)

    ranks("slowmo", act)


def test_a_model_that_moved_away_and_back_has_a_mean() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        train(model, optimizer, world.rank, 2)
        optimizer.settle()
        model.double().float()
        exact = truth(world, model, optimizer)
        mean = optimizer.mean_state_dict(model)
        assert torch.allclose(mean["head.weight"].double(), exact["head.weight"], atol=1e-6)

    ranks("osgp", act)


def test_whole_numbers_are_those_of_rank_0() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        model.seen.fill_(5 + world.rank)
        assert optimizer.mean_state_dict(model)["seen"].item() == 5
        assert model.seen.item() == 5 + world.rank

    ranks("osgp", act)


def test_the_published_state_owns_its_memory() -> None:
    """As safetensors wants it: contiguous, and no two tensors over one storage, tied ones among them."""

    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> None:
        assert not model.mix.weight.is_contiguous(), "not in channels_last"
        state = optimizer.mean_state_dict(model)
        assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
        addresses = [value.untyped_storage().data_ptr() for value in state.values()]
        assert len(set(addresses)) == len(addresses)
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in state.values())
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        fresh = Net()
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(fresh.mix.weight, state["mix.weight"])
        assert state._metadata == model.state_dict()._metadata

    ranks("osgp", act, size=2)


@pytest.mark.filterwarnings("error:parameters were written")
@pytest.mark.parametrize("method", METHODS)
def test_average_in_place(method: str) -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> Any:
        train(model, optimizer, world.rank, 5)
        mean = optimizer.mean_state_dict(model)
        optimizer.settle()
        optimizer.average_()
        assert optimizer.consensus_distance() < 1e-6
        averaged = values(model)
        train(model, optimizer, world.rank, 4)
        return mean, averaged, optimizer.weight_report(None if method == "hierarchical" else world)

    outcome = ranks(method, act)
    tolerance = 1e-2 if method.startswith("bfloat16") else 1e-6
    for mean, averaged, report in outcome:
        for name, value in averaged.items():
            if "running" in name and method == "local":
                continue  # an optimizer that was given no module knows no buffers
            assert torch.equal(value, outcome[0][1][name]), name
            if method in EXACT:
                assert torch.allclose(value.double(), mean[name].double(), atol=tolerance), name
        assert report.lost == pytest.approx(0, abs=1e-9)


def test_consensus_distance() -> None:
    def act(world: gossip.World, model: nn.Module, optimizer: Any) -> Any:
        train(model, optimizer, world.rank, 5)
        mean = optimizer.mean_state_dict(model)
        differences = ((value.detach() - mean[name]).double() for name, value in model.named_parameters())
        squares = world.all_gather(sum(float(each.square().sum()) for each in differences))
        return optimizer.consensus_distance(), (sum(squares) / world.size) ** 0.5

    for distance, exact in ranks("osgp", act):
        assert distance == pytest.approx(exact, rel=1e-5)
        assert distance > 0.01


def test_messages_that_nobody_can_know_are_left_out() -> None:
    def act(world: gossip.World, model: nn.Module) -> None:
        optimizer = osgp(world, model, landing="any")
        train(model, optimizer, world.rank, 3)
        optimizer.settle()
        exact = truth(world, model, optimizer)
        mean = optimizer.mean_state_dict(model)
        assert all(torch.allclose(mean[name].double(), exact[name], atol=1e-6) for name in mean if name != "seen")

    testing.run(4, lambda world: act(world, Net()))


def test_the_mean_of_the_survivors() -> None:
    def act(world: gossip.World) -> Any:
        model = Net()
        optimizer = osgp(world, model, on_failure="shrink")
        train(model, optimizer, world.rank, 3)
        if world.rank == 1:
            raise Killed
        mean = optimizer.mean_state_dict(model)
        optimizer.settle()
        weights, own = world.all_gather(optimizer.weight), world.all_gather(values(model))
        exact = sum(w * each["head.weight"] for w, each in zip(weights, own, strict=True)) / sum(weights)
        assert torch.allclose(mean["head.weight"], exact, atol=1e-6)
        assert len(own) == 3
        return mean

    first, *others = testing.run(4, act, timeout=10)
    assert len(others) == 2
    assert all(torch.equal(other["head.weight"], first["head.weight"]) for other in others)


def test_a_rank_by_itself() -> None:
    model = Net()
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.NoAverage())
    train(model, optimizer, 0, 2)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in optimizer.mean_state_dict(model).items())
    assert optimizer.consensus_distance() == 0
    optimizer.average_()


def test_a_schedule_in_which_weights_differ() -> None:
    """An irregular directed graph: the mean is weighted, and not the plain one."""

    def act(world: gossip.World) -> Any:
        import networkx as nx

        graph = topologies.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)]))
        model = Net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.05)
        optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, graph), module=model)
        train(model, optimizer, world.rank, 6)
        mean, exact = optimizer.mean_state_dict(model), truth(world, model, optimizer)
        plain = world.mean(model.head.weight.detach())
        assert torch.allclose(mean["head.weight"].double(), exact["head.weight"], atol=1e-6)
        return float((plain - mean["head.weight"]).abs().max()), optimizer.weight

    differences, weights = zip(*testing.run(3, act), strict=True)
    assert max(weights) > 1.1
    assert min(differences) > 1e-4


@pytest.mark.parametrize("start", ["mpi", "gloo"])
def test_real_ranks(start: str, tmp_path: Path) -> None:
    """A thousand means in one run, over processes."""
    run = spawn.mpirun if start == "mpi" else spawn.torchrun
    saved = run(4 if start == "mpi" else 2, "workers.means", tmp_path, start)
    for each in saved:
        assert np.array_equal(each["own 0"], each["own 60"])
        assert each["error"] < 1e-6
        assert np.array_equal(each["mean"], saved[0]["mean"])
        assert np.array_equal(each["averaged"], saved[0]["averaged"])
        assert each["distance"] == saved[0]["distance"] > 0
        n = len(saved)
        assert each["reduced"].tolist() == [(n - 1) / 2, (n - 1) / 2, n * (n - 1) / 2, n, n - 1]
