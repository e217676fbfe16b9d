"""The portable state of an optimizer: saved by some ranks, loaded on any rank of any number of ranks."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workers.means import METHODS, Net, train, values

import gossip
from gossip import testing
from gossip.transports.collective import small

HOSTS = {"hierarchical": ["a", "a", "b", "b"]}
METHODS_HERE = [method for method in METHODS if method not in ("overlap 2", "int8")]
FLAT = "state", "slowmo"


def saved(method: str, size: int, steps: int, folder: Path | None = None) -> list[tuple[Any, Any]]:
    """Model and optimizer of each rank after so many steps; in `folder` a checkpoint of the same moment."""

    def run(world: gossip.World) -> tuple[Any, Any]:
        model = Net()
        optimizer = METHODS[method](world, model)
        train(model, optimizer, world.rank, steps)
        state = optimizer.mean_state_dict(model), optimizer.portable_state_dict()
        if folder is not None:
            gossip.checkpoint.save(folder, world, steps, model=model, optimizer=optimizer)
        return state

    return testing.run(size, run, hosts=HOSTS.get(method))


def tensors(state: Any, place: str = "") -> dict[str, torch.Tensor]:
    """The floating-point tensors in nested dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        return {place: state.clone()} if state.is_floating_point() else {}
    parts = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {name: tensor for key, part in parts for name, tensor in tensors(part, f"{place}/{key}").items()}


@pytest.mark.parametrize("method", METHODS_HERE)
def test_loads_as_a_checkpoint_does(method: str, tmp_path: Path) -> None:
    """On another number of ranks, the state is that of `gossip.checkpoint`, and both runs go on alike."""
    size = 2 if method == "hierarchical" else 3
    (mean, state), *others = saved(method, 4, 7, tmp_path)
    for other_mean, other in others:
        assert all(torch.equal(mean[name], other_mean[name]) for name in mean)
        assert tensors(state).keys() == tensors(other).keys()
        assert all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(state).items())

    def go_on(world: gossip.World, way: str) -> Any:
        model = Net()
        optimizer = METHODS[method](world, model)
        if way == "portable":
            file = io.BytesIO()
            torch.save({"model": mean, "optimizer": state}, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=True)
            model.load_state_dict(loaded["model"])
            optimizer.load_state_dict(loaded["optimizer"])
        else:
            gossip.checkpoint.load(tmp_path, world, model=model, optimizer=optimizer)
        begun = {name: tensors(part) for name, part in optimizer.state_dict().items() if name in FLAT}
        assert optimizer.steps == 7
        train(model, optimizer, world.rank, 4, first=7)
        return begun, values(model), optimizer.weight_report(None if method == "hierarchical" else world)

    hosts = ["a", "b"] if method == "hierarchical" else None
    ways = ([testing.run(size, lambda world, way=way: go_on(world, way), hosts=hosts)] for way in ("portable", "file"))
    tolerance = 1e-2 if method.startswith(("bfloat16", "adamw")) else 1e-4  # Adam steps on rounding alone
    for (begun, ended, report), (begun_file, ended_file, _) in zip(*next(zip(*ways, strict=True)), strict=True):
        assert report.lost == pytest.approx(0, abs=1e-9)
        for section in begun_file:
            assert begun[section].keys() == begun_file[section].keys()
            for name, tensor in begun[section].items():
                assert torch.allclose(tensor, begun_file[section][name], atol=1e-5), (section, name)
        for name, value in ended.items():
            assert torch.allclose(value.float(), ended_file[name].float(), atol=tolerance), name


def test_moments_are_means() -> None:
    def run(world: gossip.World) -> None:
        model = Net()
        optimizer = METHODS["osgp"](world, model)
        train(model, optimizer, world.rank, 5)
        own = world.all_gather([optimizer.state[p]["momentum_buffer"] for p in model.parameters()])
        state = optimizer.portable_state_dict()
        for number, buffers in enumerate(zip(*own, strict=True)):
            mean = sum(each.double() for each in buffers) / world.size
            assert torch.allclose(state["state"][number]["momentum_buffer"].double(), mean, atol=1e-7)

    testing.run(3, run)


def test_asking_leaves_the_run_as_it_is() -> None:
    def run(world: gossip.World, asks: bool) -> Any:
        model = Net()
        optimizer = METHODS["slowmo"](world, model)
        train(model, optimizer, world.rank, 7, optimizer.portable_state_dict if asks else lambda: None)
        return values(model)

    alone, asked = (testing.run(4, lambda world, asks=asks: run(world, asks)) for asks in (False, True))
    for own, own_asked in zip(alone, asked, strict=True):
        assert all(torch.equal(own[name], own_asked[name]) for name in own)


def test_state_that_some_ranks_have() -> None:
    """A rank without gradients of the head has no moments of it, and goes on with those of the others."""

    def run(world: gossip.World) -> Any:
        model = Net()
        optimizer = METHODS["adamw"](world, model)
        if world.rank == 0:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            model.head.weight.grad = None
            optimizer.step()
        else:
            train(model, optimizer, world.rank, 1)
        return optimizer.portable_state_dict(), model, optimizer

    outcome = testing.run(3, run)
    state, model, optimizer = outcome[0]
    number = [id(each) for each in model.parameters()].index(id(model.head.weight))
    assert number not in optimizer.state_dict()["state"]
    mean = sum(each.state[net.head.weight]["exp_avg"].double() for _, net, each in outcome[1:]) / 2
    assert torch.allclose(state["state"][number]["exp_avg"].double(), mean, atol=1e-7)
    assert state["state"][number]["step"] == 1


def test_another_method_is_refused() -> None:
    _, state = saved("slowmo", 2, 4)[0]

    def run(world: gossip.World) -> None:
        model = Net()
        with pytest.raises(gossip.UsageError, match="'slowmo' of an optimizer around"):
            METHODS["osgp"](world, model).load_state_dict(state)
        with pytest.raises(gossip.UsageError, match="was saved by SlowMo, and this is StreamingSlowMo"):
            METHODS["streaming"](world, model).load_state_dict(state)

    testing.run(3, run)


def test_a_plain_optimizer_takes_it() -> None:
    """To fine-tune what was published without gossip."""
    mean, state = saved("slowmo", 2, 4)[0]
    model = Net()
    model.load_state_dict(mean)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgd.load_state_dict(state)
    assert torch.equal(sgd.state[model.head.weight]["momentum_buffer"], state["state"][6]["momentum_buffer"])


@pytest.mark.parametrize("method", ["osgp", "slowmo"])
def test_loads_into_an_optimizer_in_the_middle_of_a_run(method: str) -> None:
    """The model first, with a round in flight, which is dropped."""
    mean, state = saved(method, 2, 7)[0]

    def run(world: gossip.World, is_begun: bool) -> Any:
        model = Net()
        optimizer = METHODS[method](world, model)
        train(model, optimizer, world.rank, 4 * is_begun)
        for _ in range(1 + is_begun):
            model.load_state_dict(mean)
            optimizer.load_state_dict(copy.deepcopy(state))
            assert optimizer.steps == 7
            train(model, optimizer, world.rank, 1, first=7)
        optimizer.settle()
        return values(model)

    begun, fresh = (testing.run(3, lambda world, is_begun=is_begun: run(world, is_begun)) for is_begun in (True, False))
    for own, expected in zip(begun, fresh, strict=True):
        assert all(torch.equal(own[name], expected[name]) for name in own)


class Narrow(torch.optim.SGD):
    """Keeps a state in 8 bits, larger than what is gathered at once, and a rate of NumPy's."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["code"] = torch.full_like(parameter, 7, dtype=torch.uint8)
        return super().step(closure)


def test_other_state_is_rank_0s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "MOST_GATHERED", 20_000)

    def run(world: gossip.World) -> Any:
        layer = torch.nn.Linear(200, 200)
        averager = gossip.ExactAverage(world)
        optimizer = gossip.GossipOptimizer(Narrow(layer.parameters(), lr=np.float64(0.1)), averager)
        layer(torch.ones(200)).sum().backward()
        optimizer.step()
        return optimizer.portable_state_dict()

    for state in testing.run(3, run):
        assert state["state"][0]["code"].dtype == torch.uint8
        assert state["state"][0]["code"].sum() == 7 * 200 * 200
        assert state["param_groups"][0]["lr"] == 0.1


def test_asked_for_in_inference_mode() -> None:
    def run(world: gossip.World) -> None:
        model = Net()
        optimizer = METHODS["slowmo"](world, model)
        train(model, optimizer, world.rank, 4)
        with torch.inference_mode():
            mean, state = optimizer.mean_state_dict(model), optimizer.portable_state_dict()
        optimizer.settle()
        model.load_state_dict(mean)
        optimizer.load_state_dict(state)
        train(model, optimizer, world.rank, 4)

    testing.run(2, run)
