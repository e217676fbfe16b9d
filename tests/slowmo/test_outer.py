"""Outer optimizers, fragments by module, and what becomes of a rank's own progress: torchft's schedule among others."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import spawn
import torch

import gossip
import topologies
from gossip import testing
from slowmo import SlowMo, StreamingSlowMo

REFERENCE = json.loads((spawn.SUPPORT / "reference" / "torchft_diloco.json").read_text())
NESTEROV = partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)
Make = Callable[[gossip.World, torch.nn.Module], Any]


@pytest.mark.parametrize("outer", [{"momentum": 0.0, "lr": 2.0, "rescale": False}, {"outer": "sgd"}], ids=str)
@pytest.mark.parametrize("number", range(6))
def test_torchft_reference_values(number: int, outer: dict[str, Any]) -> None:
    """Two replicas and fragments, sync_every=6, inner rate 1, outer rate 2, all gradients 2."""
    fixture = REFERENCE["fixtures"][number]
    if outer == {"outer": "sgd"}:
        outer = {"outer": partial(torch.optim.SGD, lr=2.0)}

    def run(world: gossip.World) -> None:
        layers = [torch.nn.Linear(1, 1, bias=False) for _ in range(2)]
        for layer in layers:
            torch.nn.init.ones_(layer.weight)
        sgd = torch.optim.SGD([layer.weight for layer in layers], lr=1.0)
        optimizer = StreamingSlowMo(
            sgd,
            world,
            period=6,
            delay=fixture["fragment_sync_delay"],
            mixing=fixture["fragment_update_alpha"],
            fragments=layers,
            ahead=True,
            **outer,
        )
        for step, expected in enumerate(zip(*fixture["history"], strict=True)):
            assert [float(layer.weight.detach()) for layer in layers] == list(expected), f"after {step} steps"
            anchors = fixture["global_parameter_history"].get(str(step))
            if step and anchors is not None:
                assert [float(anchor[0]) for anchor in optimizer.anchors] == anchors, f"after {step} steps"
            for layer in layers:
                layer.weight.grad = torch.full((1, 1), 2.0)
            optimizer.step()
        optimizer.settle()

    testing.run(2, run)


def test_nothing_is_left_to_mix_without_a_delay() -> None:
    """The anchor is taken as it is, bit for bit, also where the base mixes some of the ranks only."""

    def run(world: gossip.World, **options: Any) -> list[torch.Tensor]:
        def make(world: gossip.World, net: torch.nn.Module) -> StreamingSlowMo:
            sgd = torch.optim.SGD(net.parameters(), lr=0.05)
            base = gossip.GossipOptimizer(sgd, gossip.Every(2, gossip.ExactAverage(world.node)))
            return StreamingSlowMo(base, world, 3, momentum=0.6, shards=3, **options)

        return values(world, make)

    def ranks(**options: Any) -> list[list[torch.Tensor]]:
        return testing.run(4, lambda world: run(world, **options), hosts=["a", "a", "b", "b"])

    for one, other in zip(ranks(delay=0), ranks(delay=0, mixing=0.0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    ranks(delay=1, mixing=0.5)  # the mixing brings hosts together, so this is not refused


def model() -> torch.nn.Sequential:
    """The same values always: ranks are threads, which would draw from one generator."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).cos().reshape(parameter.shape))
    return net


def descend(world: gossip.World, make: Make, steps: int = 12, load: Any = None, first: int = 0) -> tuple[Any, Any]:
    """The model and its optimizer after some steps, each rank on data of its own."""
    net = model()
    optimizer = make(world, net)
    if load is not None:
        net.load_state_dict(load[0])
        optimizer.load_state_dict(load[1])
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(100 * step + world.rank)
        data = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (net(data) - data[:, :2]).square().mean().backward()
        optimizer.step()
    return net, optimizer


def values(world: gossip.World, make: Make, **options: Any) -> list[torch.Tensor]:
    net, optimizer = descend(world, make, **options)
    optimizer.settle()
    return [parameter.detach().clone() for parameter in net.parameters()]


def plain(**options: Any) -> Make:
    return lambda world, net: SlowMo(
        torch.optim.AdamW(net.parameters(), lr=0.05), gossip.ExactAverage(world), 3, **options
    )


def streaming(**options: Any) -> Make:
    return lambda world, net: StreamingSlowMo(torch.optim.AdamW(net.parameters(), lr=0.05), world, 4, **options)


BUILT_IN = {"momentum": 0.9, "lr": 0.7, "nesterov": True, "rescale": False}


@pytest.mark.parametrize("make", [plain, partial(streaming, shards=3, delay=2)], ids=["whole", "streaming"])
def test_outer_sgd_with_nesterov_momentum_is_the_built_in_formula(make: Callable[..., Make]) -> None:
    one, other = (testing.run(2, lambda world, m=m: values(world, m)) for m in (make(**BUILT_IN), make(outer=NESTEROV)))
    for ours, theirs in zip(one, other, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("outer", [torch.optim.Adam, torch.optim.Adagrad, torch.optim.Rprop, torch.optim.Adafactor])
def test_any_optimizer_steps_on_anchors_of_the_parameters_shapes(outer: Any) -> None:
    """As it would on parameters whose gradient is the distance travelled, a matrix as a matrix."""

    def run(world: gossip.World) -> None:
        net = model()
        slow = [parameter.detach().clone().requires_grad_() for parameter in net.parameters()]
        twin = outer(slow, lr=0.01)
        optimizer = plain(outer=partial(outer, lr=0.01))(world, net)
        for step in range(9):
            for parameter in net.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (1 + step % 2))
            if step % 3 == 2:
                base = [parameter.detach().clone() for parameter in net.parameters()]
                reached = torch.optim.AdamW(base, lr=0.05)
                reached.load_state_dict(copy.deepcopy(optimizer.optimizer.optimizer.state_dict()))
                for copied, parameter in zip(base, net.parameters(), strict=True):
                    copied.grad = parameter.grad
                reached.step()
                for anchor, end in zip(slow, base, strict=True):
                    anchor.grad = anchor.detach() - end
                twin.step()
            optimizer.step()
        for parameter, anchor in zip(net.parameters(), slow, strict=True):
            torch.testing.assert_close(parameter, anchor, rtol=0, atol=1e-12)

    testing.run(1, run)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda **more: plain(outer=torch.optim.Adam, **more), id="Adam"),
        pytest.param(lambda **more: streaming(outer=NESTEROV, delay=2, **more), id="streaming"),
        pytest.param(lambda **more: streaming(fragments=None, mixing=0.5, ahead=True, delay=1, **more), id="mixed"),
        pytest.param(lambda **more: plain(anchors_on="cpu", **more), id="host"),
    ],
)
def test_resumed_equals_uninterrupted(make: Callable[..., Make]) -> None:
    def run(world: gossip.World) -> None:
        whole = values(world, make())
        net, optimizer = descend(world, make(), steps=7)
        saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        optimizer.settle()
        resumed = values(world, make(), load=saved, first=7)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))

    testing.run(2, run)


@pytest.mark.parametrize("outer", [NESTEROV, torch.optim.Adam], ids=["SGD", "Adam"])
def test_a_checkpoint_goes_to_another_number_of_ranks(outer: Any, tmp_path: Path) -> None:
    """The outer optimizer's state with it, which all ranks held alike."""

    def save(world: gossip.World) -> list[Any]:
        net, optimizer = descend(world, plain(outer=outer), steps=6)
        gossip.checkpoint.save(tmp_path, world, 6, model=net, optimizer=optimizer)
        return list(optimizer.rule.optimizer.state.values())

    def load(world: gossip.World) -> list[Any]:
        net = model()
        optimizer = plain(outer=outer)(world, net)
        gossip.checkpoint.load(tmp_path, world, model=net, optimizer=optimizer)
        return list(optimizer.rule.optimizer.state.values())

    before = testing.run(2, save)[0]
    assert len(before) == 6
    for after in testing.run(3, load):
        for one, other in zip(before, after, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_of_another_kind_of_outer_step_is_refused() -> None:
    def run(world: gossip.World) -> None:
        _, built_in = descend(world, plain(**BUILT_IN), steps=4)
        _, with_outer = descend(world, plain(outer=NESTEROV), steps=4)
        with pytest.raises(gossip.UsageError):
            with_outer.load_state_dict(built_in.state_dict())
        with pytest.raises(gossip.UsageError):
            built_in.load_state_dict(with_outer.state_dict())

    testing.run(1, run)


def test_the_outer_rate_can_be_scheduled() -> None:
    """A rate of 0 from the second outer step on leaves the anchor where the first put it."""

    def run(world: gossip.World) -> None:
        net = model()
        optimizer = plain(outer=partial(torch.optim.SGD, lr=1.0))(world, net)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer.rule.optimizer, lambda step: float(step == 0))
        held = []
        for step in range(6):
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            if step % 3 == 2:
                scheduler.step()
                held.append([parameter.detach().clone() for parameter in net.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*held, strict=True))

    testing.run(1, run)


@pytest.mark.parametrize("options", [{}, BUILT_IN, {"outer": torch.optim.Adam}], ids=str)
@pytest.mark.parametrize("make", [plain, streaming], ids=["whole", "streaming"])
def test_anchors_on_the_host_make_the_same_run(
    make: Callable[..., Make], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, a few elements of the anchors at a time."""
    monkeypatch.setattr("slowmo.outer.memory.CHUNK", 3)
    one, other = (
        testing.run(2, lambda world, where=where: values(world, make(anchors_on=where, **options)))
        for where in (None, "cpu")
    )
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))


def test_anchors_rest_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: only there could they be otherwise."""
    from slowmo.outer.memory import Memory

    elsewhere = torch.empty(5, dtype=torch.bfloat16, device="meta")
    assert Memory("cpu").room(elsewhere).device.type == "cpu"
    assert Memory(None).room(elsewhere).device.type == "meta"
    assert Memory("cpu").room(elsewhere).dtype == torch.float32


@pytest.mark.parametrize("masters", [False, True])
def test_fragments_are_sent_by_module(masters: bool) -> None:
    """Each in a step of its own; a tied parameter goes with the first that holds it, and masters with their model's."""

    def run(world: gossip.World) -> None:
        net = model().to(torch.bfloat16) if masters else model()
        fragments = [net[0], list(net[1].parameters()), [net[2], net[0].weight]]
        base = gossip.GossipOptimizer(
            torch.optim.SGD(net.parameters(), lr=0.1), gossip.NoAverage(), master_weights=masters
        )
        optimizer = StreamingSlowMo(base, world, 3, delay=0, fragments=fragments)
        for step in range(6):
            for parameter in net.parameters():
                parameter.grad = torch.full(parameter.shape, 1.0 + world.rank).to(parameter.grad_dtype)
            optimizer.step()
            equal = [spread(world, fragment) == 0 for fragment in net]
            assert equal == [number == step % 3 for number in range(3)]

    testing.run(2, run)


def spread(world: gossip.World, fragment: torch.nn.Module) -> float:
    """How far apart two ranks are."""
    first = torch.cat([parameter.detach().flatten().float() for parameter in fragment.parameters()])
    others = [json.loads(said) for said in world.all_gather(json.dumps(first.tolist()).encode())]
    return max(abs(a - b) for a, b in zip(*others, strict=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fragments": [torch.nn.Linear(1, 1)]}, "is in none of the 1 fragments, and would never be averaged"),
        ({"fragments": 3}, "fragments is 3, but it is a list of modules"),
        ({"fragments": ["layer"]}, "a fragment holds a str; it is a module, a parameter or a list of these"),
        ({"fragments": [], "shards": 2}, "two ways to cut the model"),
        ({"fragments": [[]] * 5}, "fragments is 5, but it is a whole number from 1 to the period, 4"),
        ({"mixing": 1.5}, "mixing is 1.5, but it is the share of a rank's own parameters that stays"),
        ({"anchors_on": "disk"}, "anchors_on is 'disk'"),
        ({"outer": NESTEROV, "momentum": 0.9}, "outer=... has a momentum and a learning rate of its own"),
        ({"outer": "sgd"}, "outer is a str: give it what makes an optimizer of parameters"),
        ({"outer": list}, "outer made a list, which is no plain torch.optim.Optimizer"),
        ({"outer": torch.optim.LBFGS}, "outer=LBFGS evaluates a closure"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    def run(world: gossip.World) -> None:
        with pytest.raises((gossip.UsageError, TypeError)) as refusal:
            streaming(**options)(world, model())
        assert sentence in str(refusal.value)

    testing.run(1, run)


def test_ranks_with_other_outer_optimizers_or_fragments_disagree() -> None:
    def run(world: gossip.World, options: list[dict[str, Any]]) -> None:
        with pytest.raises(gossip.Disagreement, match="StreamingSlowMo"):
            streaming(**options[world.rank])(world, model())

    for options in (
        [{"outer": NESTEROV}, {"outer": partial(NESTEROV, lr=0.5)}],
        [{"mixing": 0.0}, {"mixing": 0.5}],
        [{"ahead": True}, {}],
    ):
        testing.run(2, lambda world, options=options: run(world, options))


def test_a_group_that_joins_is_in_a_fragment() -> None:
    def run(world: gossip.World) -> None:
        net = model()
        optimizer = StreamingSlowMo(
            torch.optim.SGD(net[0].parameters(), lr=0.1), world, 2, fragments=[net[0], [net[1], net[2]]], outer=NESTEROV
        )
        optimizer.step()
        with pytest.raises(gossip.UsageError, match="is in none of the 2 fragments"):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
        optimizer.add_param_group({"params": [*net[1].parameters(), *net[2].parameters()]})
        for _ in range(5):
            for parameter in net.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + world.rank)
            optimizer.step()
        optimizer.settle()
        assert len(optimizer.rule.optimizer.state) == len(list(net.parameters()))

    testing.run(2, run)


def step_on(optimizer: torch.optim.Optimizer) -> None:
    for parameter in (each for group in optimizer.param_groups for each in group["params"]):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def two_layers() -> torch.nn.Sequential:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    for number, parameter in enumerate(model.parameters()):
        torch.nn.init.constant_(parameter, float(number))
    return model


def test_fragments_in_another_order_on_one_rank_are_refused() -> None:
    """Of equal shapes: ranks would average one layer with the other."""

    def run(world: gossip.World) -> None:
        model = two_layers()
        fragments = [model[0], model[1]] if world.rank else [model[1], model[0]]
        StreamingSlowMo(torch.optim.SGD(model.parameters(), lr=0.1), world, period=2, fragments=fragments)

    with pytest.raises(gossip.Disagreement, match="fragments"):
        testing.run(2, run, timeout=10)


def test_a_fragment_that_is_not_trained_is_passed_over() -> None:
    def run(world: gossip.World) -> float:
        model = two_layers()
        model[1].requires_grad_(False)
        graph = topologies.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 2)]))  # weights other than 1
        base = gossip.GossipOptimizer(torch.optim.SGD(model[0].parameters(), lr=0.1), gossip.PushSum(world, graph))
        optimizer = StreamingSlowMo(base, world, period=4, fragments=[model[0], model[1]])
        for _ in range(5):
            step_on(optimizer)
        optimizer.settle()
        return float(model[1].weight.sum())

    assert testing.run(3, run) == [9.0] * 3


def test_a_group_joins_a_fragment_however_its_parameters_are_given() -> None:
    world = gossip.init()
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3)))
    for given in (model[1].parameters(), list(model[2].named_parameters())):
        sgd = torch.optim.SGD(list(model[0].named_parameters() if isinstance(given, list) else model[0].parameters()))
        optimizer = StreamingSlowMo(sgd, world, period=2, fragments=[model[0], [model[1], model[2]]])
        optimizer.add_param_group({"params": given})
        assert len(optimizer.param_groups[1]["params"]) == 2
        with pytest.raises(gossip.UsageError, match="without params"):
            optimizer.add_param_group({})


@pytest.mark.parametrize("options", ["check", "own"])
def test_options_of_the_outer_optimizer_are_compared(options: str) -> None:
    """And another class is refused, whose state would not fit."""

    def made(kind: type[torch.optim.Optimizer], **given: float) -> SlowMo:
        model = two_layers()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = SlowMo(sgd, gossip.NoAverage(), period=1, outer=partial(kind, **given))
        step_on(optimizer)
        return optimizer

    saved = copy.deepcopy(made(torch.optim.Adam, lr=0.1).state_dict())
    with pytest.raises(gossip.UsageError, match="that of Adam as the outer optimizer, and here it is SGD"):
        made(torch.optim.SGD, lr=0.1).load_state_dict(saved, options=options)
    other = made(torch.optim.Adam, lr=0.3)
    if options == "check":
        with pytest.raises(gossip.UsageError, match=r"lr=0\.1.*lr=0\.3"):
            other.load_state_dict(saved)
        return
    other.load_state_dict(saved, options="own")
    assert other.rule.optimizer.param_groups[0]["lr"] == 0.3
    step_on(other)


def test_an_average_in_flight_does_not_land_in_other_fragments_or_mixing() -> None:
    def run(world: gossip.World) -> None:
        def made(turned: bool, mixing: float | None) -> StreamingSlowMo:
            model = two_layers()
            fragments = [model[1], model[0]] if turned else [model[0], model[1]]
            sgd = torch.optim.SGD(model.parameters(), lr=0.1)
            return StreamingSlowMo(sgd, world, period=4, delay=3, fragments=fragments, mixing=mixing)

        first = made(False, 0.5)
        for _ in range(4):
            step_on(first)
        saved = copy.deepcopy(first.state_dict())
        for other in (made(True, 0.5), made(False, None)):
            with pytest.raises(gossip.UsageError, match=r"averages in flight.*settle"):
                other.load_state_dict(saved, options="own")
        first.settle()

    testing.run(2, run)
