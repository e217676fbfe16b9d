"""Averages that travel while steps go on: against the recursion in NumPy, and what they keep and cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import oracle
import pytest
import torch
from workers.resume import interrupted, straight

import gossip
import topologies
from gossip import testing
from slowmo import SlowMo, StreamingSlowMo

SIZE, STEPS, D = 3, 23, 12


def target(rank: int, step: int) -> oracle.Array:
    return np.random.default_rng([rank, step]).normal(size=D) + rank


def targets(size: int) -> oracle.Array:
    return np.stack([target(rank, 0) for rank in range(size)])


def rate(step: int) -> float:
    """Falls, and is 0 for a while."""
    return 0.0 if 5 <= step < 10 else 0.2 / (1 + 0.1 * step)


def irregular(world: gossip.World, overlap: int) -> gossip.PushSum:
    """So that weights are not 1."""
    graph = topologies.from_networkx(oracle.random_digraphs(world.size, 3, seed=5))
    return gossip.PushSum(world, graph, overlap=overlap)


def descend(world: gossip.World, make: Any, steps: int = STEPS, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The parameters of this rank after each step."""
    own = torch.linspace(-1, 1, D, dtype=dtype).requires_grad_()
    optimizer = make(world, own)
    history = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        own.grad = own.detach() - torch.from_numpy(target(world.rank, step)).to(dtype)
        optimizer.step()
        history.append(own.detach().clone())
    return torch.stack(history)


@pytest.mark.parametrize("overlap", [None, 0, 1])
@pytest.mark.parametrize(("shards", "delay"), [(1, 1), (3, 0), (3, 2), (5, 1), (5, 5)])
@pytest.mark.parametrize("nesterov", [False, True])
def test_it_is_the_recursion(shards: int, delay: int, overlap: int | None, nesterov: bool) -> None:
    """Under rates that change, over local SGD and over push-sum with unequal weights."""
    options = oracle.SlowMo(period=5, momentum=0.6, lr=0.8, nesterov=nesterov)
    expected, _ = oracle.stream(
        np.tile(np.linspace(-1, 1, D), (SIZE, 1)),
        lambda i, t, z: z - target(i, t),
        rate,
        STEPS,
        options,
        shards=shards,
        delay=delay,
        matrices=None if overlap is None else oracle.cycle(oracle.random_digraphs(SIZE, 3, seed=5)),
        overlap=overlap or 0,
    )

    def make(world: gossip.World, own: torch.Tensor) -> StreamingSlowMo:
        sgd: torch.optim.Optimizer = torch.optim.SGD([own], lr=0.1)
        if overlap is not None:
            sgd = gossip.GossipOptimizer(sgd, irregular(world, overlap))
        return StreamingSlowMo(sgd, world, 5, 0.6, 0.8, shards, delay, nesterov)

    for rank, history in enumerate(testing.run(SIZE, lambda world: descend(world, make))):
        np.testing.assert_allclose(history.numpy(), expected[:, rank], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("overlap", [None, 0, 1])
def test_one_shard_without_delay_is_slowmo(overlap: int | None, dtype: torch.dtype) -> None:
    """Bit for bit, where weights are 1."""

    def base(world: gossip.World, own: torch.Tensor) -> torch.optim.Optimizer:
        sgd = torch.optim.SGD([own], lr=0.1, momentum=0.9)
        if overlap is None:
            return sgd
        return gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=overlap))

    def slow(world: gossip.World, own: torch.Tensor) -> SlowMo:
        return SlowMo(base(world, own), gossip.ExactAverage(world), 4, 0.6, 0.9)

    def streaming(world: gossip.World, own: torch.Tensor) -> StreamingSlowMo:
        return StreamingSlowMo(base(world, own), world, 4, 0.6, 0.9, shards=1, delay=0)

    one, other = (
        testing.run(4, lambda world, make=make: descend(world, make, dtype=dtype)) for make in (slow, streaming)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


Mixer = Callable[[gossip.World], gossip.Averager]
RING = topologies.from_networkx(nx.cycle_graph(4))
BIPARTITE = topologies.from_networkx(nx.complete_bipartite_graph(3, 3))  # has an eigenvalue of −1/2


@pytest.mark.parametrize(
    ("size", "mixer"),
    [
        pytest.param(4, lambda world: gossip.PushSum(world, RING), id="ring"),
        pytest.param(4, lambda world: gossip.PushSum(world, RING, overlap=1), id="ring, overlap 1"),
        pytest.param(6, lambda world: gossip.PushSum(world, BIPARTITE), id="bipartite"),
        pytest.param(4, lambda world: gossip.PushSum(world, topologies.exponential(4)), id="exponential"),
        pytest.param(4, lambda world: gossip.Every(2, gossip.ExactAverage(world)), id="local SGD"),
        pytest.param(3, lambda _: gossip.NoAverage(), id="alone"),
    ],
)
@pytest.mark.parametrize(("period", "delay"), [(1, 1), (2, 1), (2, 2), (3, 0)])
def test_ranks_that_were_apart_come_together(size: int, mixer: Mixer, period: int, delay: int) -> None:
    """An outer step undoes nothing of what the base has mixed, and brings together what the base does not."""

    def run(world: gossip.World) -> list[torch.Tensor]:
        own = torch.zeros(D, dtype=torch.float64, requires_grad=True)
        sgd = gossip.GossipOptimizer(torch.optim.SGD([own], lr=1.0), mixer(world))
        optimizer = StreamingSlowMo(sgd, world, period, momentum=0.3, delay=delay)
        history = []
        for step in range(30):
            own.grad = torch.from_numpy(target(world.rank, 0)) if step == 0 else None
            optimizer.step()
            history.append(own.detach().clone())
        return history

    steps = [torch.stack(ranks) for ranks in zip(*testing.run(size, run), strict=True)]
    spread = [float((z - z.mean(dim=0)).abs().max()) for z in steps]
    apart = float(np.abs(targets(size) - targets(size).mean(axis=0)).max())
    assert max(spread) < 1.01 * apart
    assert spread[-1] < 1e-3 * apart


@pytest.mark.parametrize("overlap", [0, 1])
def test_without_slow_momentum_it_is_the_gossip_below(overlap: int) -> None:
    """β = 0, α = 1 and a delay, bit for bit."""

    def base(world: gossip.World, own: torch.Tensor) -> gossip.GossipOptimizer:
        return gossip.GossipOptimizer(torch.optim.SGD([own], lr=0.1, momentum=0.9), irregular(world, overlap))

    def streaming(world: gossip.World, own: torch.Tensor) -> StreamingSlowMo:
        return StreamingSlowMo(base(world, own), world, 4, momentum=0, shards=3, delay=2)

    one, other = (testing.run(SIZE, lambda world, make=make: descend(world, make)) for make in (base, streaming))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("delay", [0, 1, 4])
def test_what_the_ranks_hold_together_stays(delay: int, overlap: int) -> None:
    """Σ w z, held and in flight, with β = 0 and α = 1."""

    def run(world: gossip.World) -> tuple[torch.Tensor, float]:
        own = torch.zeros(D, dtype=torch.float64, requires_grad=True)
        sgd = gossip.GossipOptimizer(torch.optim.SGD([own], lr=1.0), irregular(world, overlap))
        optimizer = StreamingSlowMo(sgd, world, 4, momentum=0, shards=3, delay=delay)
        own.grad = torch.from_numpy(target(world.rank, 0))
        optimizer.step()
        own.grad = None
        for _ in range(17):
            optimizer.step()
        assert len(optimizer.averager.sent) == min(delay, 3), "the law is to hold with averages on their way"
        optimizer.settle()
        return own.detach().clone(), optimizer.weight

    values, weights = zip(*testing.run(SIZE, run), strict=True)
    assert max(abs(weight - 1) for weight in weights) > 0.01
    total = sum(weight * z for weight, z in zip(weights, values, strict=True))
    np.testing.assert_allclose(total, -sum(target(rank, 0) for rank in range(SIZE)), atol=1e-12)


def test_anchors_are_the_same_bits_on_every_rank() -> None:
    def run(world: gossip.World) -> list[torch.Tensor]:
        made = []

        def make(world: gossip.World, own: torch.Tensor) -> StreamingSlowMo:
            sgd = gossip.GossipOptimizer(torch.optim.SGD([own], lr=0.1), irregular(world, 1))
            made.append(StreamingSlowMo(sgd, world, 5, 0.6, shards=3, delay=2))
            return made[0]

        descend(world, make)
        return [*made[0].anchors, *made[0].momenta]

    first, *others = testing.run(SIZE, run)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_a_step_sends_a_share_of_an_exact_average() -> None:
    """With as many shards as steps in a period, and as many bytes in a period."""
    elements, period, size = 12_000, 6, 4

    def run(world: gossip.World) -> list[int]:
        sgd = torch.optim.SGD([torch.zeros(elements, requires_grad=True)], lr=0.1)
        optimizer = StreamingSlowMo(sgd, world, period)
        sent = []
        for _ in range(3 * period):
            optimizer.step()
            sent.append(optimizer.stats.last.bytes_sent)
        return sent

    for sent in testing.run(size, run):
        exact = 2 * (size - 1) / size * 4 * elements
        assert max(sent) < exact / period + 100
        assert sum(sent[-period:]) == pytest.approx(exact, rel=0.01)


def test_averages_that_are_late_are_waited_for() -> None:
    """They are applied in the same step, whatever the network does, to the same bits."""
    late = testing.Network(delay=lambda source, target, number: 1e-3 * ((source + 2 * target + number) % 3))
    runs = [testing.run(SIZE, lambda world: straight(world, "streaming", "sgd"), network=net) for net in (None, late)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("wrap", ["streaming", "streaming, local"])
@pytest.mark.parametrize("at", [5, 8, 9])
def test_resume(wrap: str, at: int, tmp_path: Any) -> None:
    """With averages on their way."""
    once = testing.run(SIZE, lambda world: straight(world, wrap, "adamw", ask=True))
    assert once == testing.run(SIZE, lambda world: interrupted(world, wrap, "adamw", at, tmp_path))


def test_a_parameter_group_joins() -> None:
    """While averages of the others are on their way; it has its own anchors."""

    def run(world: gossip.World) -> list[torch.Tensor]:
        first, second = (torch.full((n,), 1.0, requires_grad=True) for n in (7, 5))
        optimizer = StreamingSlowMo(torch.optim.SGD([first], lr=0.1), world, 4, shards=2, delay=2)
        for step in range(14):
            if step == 5:
                optimizer.add_param_group({"params": [second], "lr": 0.05})
            first.grad, second.grad = torch.full((7,), float(world.rank)), torch.full((5,), 2.0 * world.rank)
            optimizer.step()
        assert [len(anchor) for anchor in optimizer.anchors] == [4, 4, 4, 4]
        return [first.detach().clone(), second.detach().clone()]

    for first, second in testing.run(2, run):
        assert bool(first.isfinite().all())
        assert float(first[0]) < 0.6 < 1 > float(second[0])


def refused(**options: Any) -> str:
    def run(world: gossip.World) -> str:
        layer = torch.nn.BatchNorm1d(2)
        wrapped = {key: options[key] for key in ("on_failure", "module_buffers") if key in options}
        others = {key: value for key, value in options.items() if key not in wrapped}
        if "module_buffers" in wrapped:
            wrapped["module"] = layer
        sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
        base = gossip.GossipOptimizer(sgd, gossip.NoAverage(), **wrapped)
        with pytest.raises(gossip.UsageError) as refusal:
            StreamingSlowMo(base, world, **others)
        return str(refusal.value)

    return testing.run(1, run)[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"period": 0}, "period is 0, but it is a whole number of steps, at least 1"),
        ({"period": 2.5}, "period is 2.5, but it is a whole number of steps, at least 1"),
        ({"period": "4", "shards": 3}, "period is '4', but it is a whole number of steps, at least 1"),
        ({"period": 4, "shards": 5}, "shards is 5, but it is a whole number from 1 to the period, 4"),
        ({"period": 4, "delay": 5}, "delay is 5, but it is a number of steps from 0 to the period, 4"),
        ({"on_failure": "shrink"}, "on_failure='shrink' cannot go on with an average that was on its way"),
        ({"module_buffers": "average"}, "module_buffers='average' takes buffers along with an exact average"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(**options)


def test_gossip_among_some_of_the_ranks_is_refused_with_a_delay() -> None:
    """Nothing would bring hosts together; without a delay the average does."""

    def run(world: gossip.World) -> str:
        def base() -> gossip.GossipOptimizer:
            sgd = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
            return gossip.GossipOptimizer(sgd, gossip.ExactAverage(world.node))

        with pytest.raises(gossip.UsageError) as refusal:
            StreamingSlowMo(base(), world, 4)
        StreamingSlowMo(base(), world, 4, delay=0)
        return str(refusal.value)

    assert "ExactAverage(size=2) mixes 2 of 4 ranks" in testing.run(4, run, hosts=["a", "a", "b", "b"])[0]


def test_gossip_across_nodes_that_share_gradients_is_not() -> None:
    def run(world: gossip.World) -> torch.Tensor:
        own = torch.zeros(D, requires_grad=True)
        across = gossip.PushSum(world.across, topologies.exponential(2), node=world.node)
        base = gossip.GossipOptimizer(torch.optim.SGD([own], lr=0.1), across, gradients=world.node)
        optimizer = StreamingSlowMo(base, world, 2)
        for step in range(12):
            own.grad = torch.full((D,), float(world.rank)) if step == 0 else torch.zeros(D)
            optimizer.step()
        optimizer.settle()
        return own.detach()

    first, *others = testing.run(4, run, hosts=["a", "a", "b", "b"])
    for other in others:
        torch.testing.assert_close(other, first)
