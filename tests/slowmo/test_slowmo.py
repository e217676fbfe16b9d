"""SlowMo's identities: what it is equal to when its options are trivial. The recursions stand in `test_runtime.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
import oracle
import pytest
import torch

import gossip
import topologies
from gossip import testing
from slowmo import ShardedSlowMo, SlowMo

SHAPES = [(3, 2), (4,), ()]
Make = Callable[[gossip.World, list[torch.Tensor]], torch.optim.Optimizer]
Rates = Callable[[int], Sequence[float]]


def parameters(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """The same first values on every rank."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in SHAPES]


def gradients(rank: int, step: int, z: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Of ½‖z − target‖² with a target of each rank's own that moves from step to step."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return [p.detach() - (torch.randn(p.shape, generator=generator) + rank).to(p.dtype) for p in z]


def descend(
    world: gossip.World, make: Make, steps: int, dtype: torch.dtype, rates: Rates | None, clock: Callable[[int], int]
) -> list[list[torch.Tensor]]:
    """The parameters of this rank after each step; step t has the gradient of time clock(t)."""
    own = parameters(dtype)
    optimizer = make(world, own)
    history = []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates(step) if rates else (), strict=False):
            group["lr"] = rate
        for p, g in zip(own, gradients(world.rank, clock(step), own), strict=True):
            p.grad = g
        optimizer.step()
        history.append([p.detach().clone() for p in own])
    return history


def trace(
    size: int,
    make: Make,
    steps: int = 12,
    dtype: torch.dtype = torch.float64,
    rates: Rates | None = None,
    clock: Callable[[int], int] = lambda step: step,
) -> list[list[list[torch.Tensor]]]:
    """`descend` on `size` ranks: by rank, step and parameter."""
    return testing.run(size, lambda world: descend(world, make, steps, dtype, rates, clock))


def assert_same_bits(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=False)


def sgd(own: list[torch.Tensor], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(own, **{"lr": 0.1, "momentum": 0.9, "nesterov": True, **options})


def push_sum(world: gossip.World, overlap: int) -> gossip.PushSum:
    """Over irregular digraphs, so that weights are not 1."""
    topology = topologies.from_networkx(oracle.random_digraphs(world.size, 3, seed=5))
    return gossip.PushSum(world, topology, overlap=overlap)


BASES: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": lambda own: torch.optim.AdamW(own, lr=0.01, weight_decay=0.1),
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


@DTYPES
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("size", [1, 3])
def test_without_slow_momentum_it_is_local_sgd(size: int, base: str, dtype: torch.dtype) -> None:
    """β = 0, α = 1 over an exact average, bit for bit; on a bare torch optimizer too."""

    def local(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return gossip.GossipOptimizer(BASES[base](own), gossip.Every(4, gossip.ExactAverage(world)))

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return SlowMo(BASES[base](own), gossip.ExactAverage(world), period=4, momentum=0)

    assert_same_bits(trace(size, slow, dtype=dtype), trace(size, local, dtype=dtype))


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_without_slow_momentum_it_is_gossip_pga(overlap: int) -> None:
    """The same over push-sum."""

    def pga(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        exact = gossip.Every(4, gossip.ExactAverage(world))
        return gossip.GossipOptimizer(sgd(own, lr=0.01), gossip.Chain(push_sum(world, overlap), exact))

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        wrapped = gossip.GossipOptimizer(sgd(own, lr=0.01), push_sum(world, overlap))
        return SlowMo(wrapped, gossip.ExactAverage(world), period=4, momentum=0)

    assert_same_bits(trace(3, slow), trace(3, pga))


@DTYPES
@pytest.mark.parametrize("overlap", [None, 0, 1])
@pytest.mark.parametrize("base", BASES)
def test_without_average_and_slow_momentum_it_is_the_base(base: str, overlap: int | None, dtype: torch.dtype) -> None:
    """β = 0, α = 1 over NoAverage, bit for bit, whatever the base gossips."""

    def plain(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        if overlap is None:
            return BASES[base](own)
        return gossip.GossipOptimizer(BASES[base](own), push_sum(world, overlap))

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return SlowMo(plain(world, own), gossip.NoAverage(), period=4, momentum=0)

    assert_same_bits(trace(3, slow, dtype=dtype), trace(3, plain, dtype=dtype))


def test_bare_optimizer_is_one_without_gossip() -> None:
    """`SlowMo(sgd, ...)` makes the GossipOptimizer itself."""

    def bare(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return SlowMo(sgd(own), gossip.ExactAverage(world), period=3)

    def wrapped(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return SlowMo(gossip.GossipOptimizer(sgd(own), gossip.NoAverage()), gossip.ExactAverage(world), period=3)

    assert_same_bits(trace(3, bare), trace(3, wrapped))


@pytest.mark.parametrize("reduced", ["parameters", "gradients"])
def test_at_every_step_it_is_heavy_ball(reduced: str) -> None:
    """τ = 1, α = 1 with AR-SGD: torch's SGD with momentum β on the mean gradient, also while the rate changes."""
    size, steps = 3, 12

    def rates(step: int) -> Sequence[float]:
        return [0.1 / (step + 1)]

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        bare = torch.optim.SGD(own, lr=0.1)
        if reduced == "parameters":
            return SlowMo(bare, gossip.ExactAverage(world), period=1, momentum=0.7)
        summed = gossip.GossipOptimizer(bare, gossip.NoAverage(), gradients=world)
        return SlowMo(summed, gossip.NoAverage(), period=1, momentum=0.7)

    z = parameters()
    ball = torch.optim.SGD(z, lr=0.1, momentum=0.7)
    history = []
    for step in range(steps):
        ball.param_groups[0]["lr"] = rates(step)[0]
        for p, *each in zip(z, *(gradients(rank, step, z) for rank in range(size)), strict=True):
            p.grad = torch.stack(each).mean(dim=0)
        ball.step()
        history.append([p.detach().clone() for p in z])
    for rank in trace(size, slow, steps, rates=rates):
        torch.testing.assert_close(rank, history, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_one_rank_is_lookahead(rate: float) -> None:
    """β = 0 on one rank: φ <- φ + α(θ − φ); θ <- φ."""
    z, steps = parameters(), 12
    fast, slow_weights = sgd(z), [p.detach().clone() for p in z]
    history = []
    for step in range(steps):
        for p, g in zip(z, gradients(0, step, z), strict=True):
            p.grad = g
        fast.step()
        if (step + 1) % 4 == 0:
            for p, slow in zip(z, slow_weights, strict=True):
                slow += rate * (p.detach() - slow)
                p.data.copy_(slow)
        history.append([p.detach().clone() for p in z])

    def lookahead(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return SlowMo(sgd(own), gossip.ExactAverage(world), period=4, momentum=0, lr=rate)

    [own] = trace(1, lookahead, steps)
    torch.testing.assert_close(own, history, rtol=0, atol=1e-14)


def test_diloco() -> None:
    """`rescale=False` with Nesterov over local AdamW: torch's SGD on the outer gradient, whatever the inner rates."""
    size, period, steps = 3, 5, 20

    def rates(step: int) -> Sequence[float]:
        return [0.02 / (step + 1)]

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        inner = torch.optim.AdamW(own, lr=0.01)
        exact = gossip.ExactAverage(world)
        return SlowMo(inner, exact, period=period, momentum=0.9, lr=0.7, nesterov=True, rescale=False)

    outer_z = parameters()
    outer = torch.optim.SGD(outer_z, lr=0.7, momentum=0.9, nesterov=True)
    workers = [parameters() for _ in range(size)]
    inner = [torch.optim.AdamW(own, lr=0.01) for own in workers]
    history = []
    for step in range(steps):
        for rank, (own, adamw) in enumerate(zip(workers, inner, strict=True)):
            adamw.param_groups[0]["lr"] = rates(step)[0]
            for p, g in zip(own, gradients(rank, step, own), strict=True):
                p.grad = g
            adamw.step()
        if (step + 1) % period == 0:
            for x, *ends in zip(outer_z, *workers, strict=True):
                x.grad = x.detach() - torch.stack([end.detach() for end in ends]).mean(dim=0)
            outer.step()
            for own in workers:
                for p, x in zip(own, outer_z, strict=True):
                    p.data.copy_(x.detach())
        history.append([[p.detach().clone() for p in own] for own in workers])
    for rank, own_history in enumerate(trace(size, slow, steps, rates=rates)):
        torch.testing.assert_close(own_history, [ranks[rank] for ranks in history], rtol=0, atol=1e-13)


def test_noloco() -> None:
    """Push-sum over pairs as the averager, at a constant rate: the update of NoLoCo, which reads two means of a pair.

    m <- μ m + η mean(θ − φ) + η (mean(φ) − φ);  φ <- φ + m;  θ <- φ
    """
    size, period, steps, mu, eta = 4, 3, 12, 0.5, 0.7
    pairs = [[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(0, 3), (1, 2)]]

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        gossiped = gossip.PushSum(world, topologies.from_networkx([nx.Graph(edges) for edges in pairs]))
        return SlowMo(torch.optim.SGD(own, lr=0.1), gossiped, period=period, momentum=mu, lr=eta)

    theta = np.stack([_flat(parameters()) for _ in range(size)])
    phi, m = theta.copy(), np.zeros_like(theta)
    history = []
    for step in range(steps):
        for rank in range(size):
            own = [torch.from_numpy(part) for part in np.split(theta[rank], [6, 10])]
            shaped = [part.reshape(shape) for part, shape in zip(own, SHAPES, strict=True)]
            theta[rank] -= 0.1 * _flat(gradients(rank, step, shaped))
        if (step + 1) % period == 0:
            mates = np.argmax(nx.to_numpy_array(nx.Graph(pairs[step // period % 3]), nodelist=range(size)), axis=1)
            mean_d = ((theta - phi) + (theta - phi)[mates]) / 2
            m = mu * m + eta * mean_d + eta * ((phi + phi[mates]) / 2 - phi)
            phi = phi + m
            theta = phi.copy()
        history.append(theta.copy())
    for rank, own_history in enumerate(trace(size, slow, steps)):
        np.testing.assert_allclose([_flat(z) for z in own_history], [z[rank] for z in history], atol=1e-13)


def _flat(tensors: Sequence[torch.Tensor]) -> oracle.Array:
    return np.concatenate([tensor.detach().numpy().reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("average", [True, False])
def test_rate_zero_stands_still_and_keeps_the_momentum(average: bool) -> None:
    """Outer iterations at rate 0 change nothing, at the start and on the way; what follows is as if they were not."""
    still = [*range(4), *range(12, 20)]
    moving = [step for step in range(28) if step not in still]

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        averager = gossip.ExactAverage(world) if average else gossip.NoAverage()
        return SlowMo(torch.optim.SGD(own, lr=0.1), averager, period=4, momentum=0.6)

    paused = trace(3, slow, 28, rates=lambda step: [0.0 if step in still else 0.1])
    unpaused = trace(3, slow, 16, clock=lambda step: moving[step])
    for with_pause, without in zip(paused, unpaused, strict=True):
        first = [p.detach() for p in parameters()]
        torch.testing.assert_close(with_pause[:4], [first] * 4, rtol=0, atol=1e-14)
        torch.testing.assert_close(with_pause[12:20], [with_pause[11]] * 8, rtol=0, atol=1e-14)
        torch.testing.assert_close([with_pause[step] for step in moving], without, rtol=0, atol=1e-13)


def test_last_rate_of_an_annealed_run_does_not_explode() -> None:
    """γ_t is the mean over the outer iteration: a cosine that ends at 0 and restarts keeps the momentum's size."""

    def slow(world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return SlowMo(torch.optim.SGD(own, lr=0.1), gossip.ExactAverage(world), period=4, momentum=0.6)

    for rank in trace(2, slow, 32, rates=lambda step: [0.05 * (1 + np.cos(np.pi * (step % 8) / 7))]):
        assert max(float(p.abs().max()) for z in rank for p in z) < 6


def test_groups_do_not_see_one_another() -> None:
    """Several groups with rates of their own, one of them 0 for a while, in one bucket: as each would do alone."""
    rates: list[Callable[[int], float]] = [
        lambda t: 0.1 / (t + 1),
        lambda t: 0.05 if t > 6 else 0.0,
        lambda t: 0.02 * (t % 4),
    ]

    def make(own: list[torch.Tensor], world: gossip.World) -> torch.optim.Optimizer:
        base = torch.optim.SGD([{"params": [p]} for p in own], lr=0.1, momentum=0.5)
        return SlowMo(base, gossip.ExactAverage(world), period=3, momentum=0.6, lr=0.9)

    def only(number: int, world: gossip.World, own: list[torch.Tensor]) -> torch.optim.Optimizer:
        return make([own[number]], world)

    def one_rate(rate: Callable[[int], float], t: int) -> Sequence[float]:
        return [rate(t)]

    together = trace(2, lambda world, own: make(own, world), rates=lambda t: [rate(t) for rate in rates])
    for number, rate in enumerate(rates):
        alone = trace(2, partial(only, number), rates=partial(one_rate, rate))
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close([z[number] for z in one], [z[number] for z in all_], rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_parameters_have_wider_anchors(dtype: torch.dtype) -> None:
    """Outer steps too small for the parameters' dtype add up in the anchor instead of being rounded away."""
    rate, outer_steps, slow_rate = 2.0**-6, 30, 0.05  # one step of the base is seen in 16 bits, a 20th of it is not

    def run(world: gossip.World) -> tuple[float, set[torch.dtype]]:
        parameter = torch.ones(5, dtype=dtype, requires_grad=True)
        base = torch.optim.SGD([parameter], lr=rate)
        optimizer = SlowMo(base, gossip.ExactAverage(world), period=1, momentum=0, lr=slow_rate)
        for _ in range(outer_steps):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        held = optimizer.state_dict()["slowmo"]
        return float(parameter.detach()[0]), {tensor.dtype for tensor in (*held["anchors"], *held["momenta"])}

    spacing = torch.finfo(dtype).eps
    for value, dtypes in testing.run(2, run):
        assert dtypes == {torch.float32}
        travelled = outer_steps * slow_rate * rate
        # Each d is off by up to half a spacing of the parameters, and so is the end.
        assert 1 - value == pytest.approx(travelled, abs=outer_steps * slow_rate * spacing / 2 + spacing)
        assert value < 1


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("buffers", ["maintain", "reset", "average"])
def test_buffers(buffers: str, base: str) -> None:
    """An outer step treats the base optimizer's state as `buffers` says; Adam's step counters then fit its moments."""
    name = "momentum_buffer" if base == "sgd" else "exp_avg"

    def run(world: gossip.World) -> tuple[list[torch.Tensor], list[torch.Tensor], list[float]]:
        own = parameters()
        inner = BASES[base](own)
        optimizer = SlowMo(inner, gossip.ExactAverage(world), period=3, momentum=0.5, buffers=buffers)
        before: list[torch.Tensor] = []
        inner.register_step_post_hook(
            lambda *_: before.__setitem__(slice(None), [inner.state[p][name].clone() for p in own])
        )
        for step in range(3):
            for p, g in zip(own, gradients(world.rank, step, own), strict=True):
                p.grad = g
            optimizer.step()
        after = [inner.state.get(p, {}).get(name, torch.zeros_like(p)).clone() for p in own]
        counters = [float(inner.state.get(p, {}).get("step", 0)) for p in own]
        return before, after, counters

    ranks = testing.run(3, run)
    for before, after, counters in ranks:
        if buffers == "maintain":
            assert_same_bits(after, before)
        elif buffers == "reset":
            assert all(not bool(tensor.any()) for tensor in after)
        else:
            mean = [torch.stack(each).mean(dim=0) for each in zip(*(rank[0] for rank in ranks), strict=True)]
            torch.testing.assert_close(after, mean, rtol=0, atol=1e-14)
            assert_same_bits(after, ranks[0][1])
        if base == "adamw":
            assert counters == [0.0 if buffers == "reset" else 3.0] * 3


def test_anchor_is_taken_at_the_first_step() -> None:
    """Parameters loaded after construction count: the first outer step starts from them."""

    def run(world: gossip.World, load: bool) -> list[torch.Tensor]:
        own = parameters()
        loaded = [p.detach() + 10 for p in own]
        if not load:
            for p, value in zip(own, loaded, strict=True):
                p.data.copy_(value)
        optimizer = SlowMo(torch.optim.SGD(own, lr=0.1), gossip.ExactAverage(world), period=2, momentum=0.5, lr=0.5)
        if load:
            for p, value in zip(own, loaded, strict=True):
                p.data.copy_(value)
        for step in range(4):
            for p, g in zip(own, gradients(world.rank, step, own), strict=True):
                p.grad = g
            optimizer.step()
        return [p.detach().clone() for p in own]

    assert_same_bits(testing.run(3, lambda world: run(world, True)), testing.run(3, lambda world: run(world, False)))


def test_unequal_parameters_are_refused_at_the_first_step() -> None:
    """By every rank, in the same words, which name the parameter."""

    def run(world: gossip.World) -> str:
        own = parameters()
        optimizer = SlowMo(torch.optim.SGD(own, lr=0.1), gossip.ExactAverage(world), period=2)
        with torch.no_grad():
            own[1] += world.rank == 2
        with pytest.raises(gossip.Disagreement) as refusal:
            optimizer.step()
        return str(refusal.value)

    sentences = testing.run(3, run)
    assert len(set(sentences)) == 1
    assert "parameter 1" in sentences[0]
    assert "rank 2" in sentences[0]


@pytest.mark.parametrize("how", ["whole", "sharded", "by hosts"])
def test_ranks_with_rates_of_their_own_come_out_alike(how: str) -> None:
    """As where each has a scheduler that looks at its own loss. With one rate on all ranks nothing changes."""

    def run(world: gossip.World, apart: float) -> list[torch.Tensor]:
        parameter = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        sgd = torch.optim.SGD([parameter], lr=0.1)
        exact: gossip.Averager = gossip.ExactAverage(world)
        if how == "by hosts":
            exact = gossip.Chain(gossip.ExactAverage(world.node), gossip.ExactAverage(world.across))
        if how == "sharded":
            outer: Any = ShardedSlowMo(sgd, world, period=2, momentum=0.6)
        else:
            outer = SlowMo(sgd, exact, period=2, momentum=0.6)
        seen = []
        for step in range(8):
            sgd.param_groups[0]["lr"] = 0.1 * (1 + apart * (world.rank - 1) * (step // 2))
            parameter.grad = (parameter - torch.arange(5) * (world.rank + 1)).detach()
            outer.step()
            if step % 2:
                seen.append(parameter.detach().clone())
        return seen

    ranks = testing.run(4, lambda world: run(world, 0.2), hosts=["a", "a", "b", "b"])
    assert all(torch.equal(here, there) for each in ranks for here, there in zip(each, ranks[0], strict=True))
    alike = testing.run(4, lambda world: run(world, 0.0), hosts=["a", "a", "b", "b"])
    assert not torch.equal(alike[0][-1], ranks[0][-1])
