"""Named compositions against what their papers write, in NumPy; and the slow momentum that all ranks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch

import gossip
import slowmo
import topologies
from gossip import testing

STEPS, D, PERIOD = 13, 6, 4
START = np.linspace(-1, 1, D)
Make = Callable[[gossip.World, torch.Tensor], Any]


def target(rank: int, step: int) -> oracle.Array:
    return np.random.default_rng([rank, step]).normal(size=D) + rank


def rate(step: int) -> float:
    """It falls, and pauses for a whole period."""
    return 0.0 if PERIOD <= step < 2 * PERIOD else 0.2 / (1 + 0.1 * step)


def trained(size: int, make: Make, constant: bool = False) -> oracle.Array:
    """The parameters (steps, ranks, d) after each step of gradients z − target."""

    def run(world: gossip.World) -> oracle.Array:
        own = torch.from_numpy(START.copy()).requires_grad_()
        optimizer = make(world, own)
        history = []
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = 0.1 if constant else rate(step)
            own.grad = own.detach() - torch.from_numpy(target(world.rank, step))
            optimizer.step()
            history.append(own.detach().numpy().copy())
        return np.stack(history)

    return np.stack(testing.run(size, run), axis=1)


def sgd(own: torch.Tensor, momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([own], lr=0.1, momentum=momentum)


class Ranks:
    """θ of n ranks that take SGD steps by themselves; `outer` is called after each period."""

    def __init__(self, size: int, momentum: float = 0.0, constant: bool = False, mixing: bool = False) -> None:
        self.θ = np.tile(START, (size, 1))
        self.b = np.zeros_like(self.θ)
        self._momentum, self._constant, self._mixing = momentum, constant, mixing

    def train(self, outer: Callable[[int], None]) -> oracle.Array:
        history = []
        for step in range(STEPS):
            g = np.stack([θ - target(rank, step) for rank, θ in enumerate(self.θ)])
            self.b = self._momentum * self.b + g
            self.θ = self.θ - (0.1 if self._constant else rate(step)) * self.b
            if self._mixing:
                self.θ = (self.θ + np.roll(self.θ, 1, axis=0)) / 2
            if (step + 1) % PERIOD == 0:
                outer(step // PERIOD)
            history.append(self.θ.copy())
        return np.stack(history)


def same(one: oracle.Array, other: oracle.Array) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_bmuf(nesterov: bool) -> None:
    """W, its momentum Δ and what is handed out, in the paper's own variables, while the rate falls.

    A block's total update counts from the values handed out, with Nesterov not from W.
    """
    ranks, η, ζ = Ranks(3), 0.6, 0.9
    W, Δ = START.copy(), np.zeros(D)
    given = START.copy()

    def block(_: int) -> None:
        nonlocal W, Δ, given
        G = ranks.θ.mean(axis=0) - given
        Δ = η * Δ + ζ * G
        W = W + Δ
        given = W + η * Δ if nesterov else W
        ranks.θ = np.tile(given, (3, 1))

    expected = ranks.train(block)
    same(trained(3, lambda world, own: slowmo.bmuf(sgd(own), world, PERIOD, η, ζ, nesterov)), expected)


@pytest.mark.parametrize("mixing", [False, True])
def test_lookahead(mixing: bool) -> None:
    """Each rank by itself, or over gossip, which moves the fast weights also while the rate is 0."""
    ranks, φ = Ranks(3, mixing=mixing), np.tile(START, (3, 1))

    def outer(_: int) -> None:
        nonlocal φ
        φ = φ + 0.5 * (ranks.θ - φ)
        ranks.θ = φ.copy()

    expected = ranks.train(outer)

    def make(world: gossip.World, own: torch.Tensor) -> slowmo.SlowMo:
        ring = topologies.ring(world.size, directed=True)
        return slowmo.lookahead(
            gossip.GossipOptimizer(sgd(own), gossip.PushSum(world, ring)) if mixing else sgd(own), PERIOD
        )

    same(trained(3, make), expected)


def test_local_sgd() -> None:
    ranks = Ranks(3)

    def outer(_: int) -> None:
        ranks.θ = np.tile(ranks.θ.mean(axis=0), (3, 1))

    expected = ranks.train(outer)
    same(trained(3, lambda world, own: slowmo.local_sgd(sgd(own), world, PERIOD)), expected)


@pytest.mark.parametrize("overlap", [0, 1])
def test_gossip_pga(overlap: int) -> None:
    start = np.tile(START, (3, 1))
    graphs = oracle.random_digraphs(3, 3, seed=5)
    expected = oracle.train(
        start,
        lambda i, t, z: z - target(i, t),
        rate,
        STEPS,
        matrices=oracle.cycle(graphs),
        overlap=overlap,
        exact_every=PERIOD,
    )
    graph = topologies.from_networkx(graphs)
    same(trained(3, lambda world, own: slowmo.gossip_pga(sgd(own), world, graph, PERIOD, overlap)), expected.z)


def test_diloco() -> None:
    """SGD with Nesterov momentum on what the ranks have travelled, in the form in which it is published."""
    ranks, φ, m = Ranks(3), START.copy(), np.zeros(D)

    def outer(_: int) -> None:
        nonlocal φ, m
        d = φ - ranks.θ.mean(axis=0)
        m = 0.9 * m + d
        φ = φ - 0.7 * (0.9 * m + d)
        ranks.θ = np.tile(φ, (3, 1))

    expected = ranks.train(outer)
    same(trained(3, lambda world, own: slowmo.diloco(sgd(own), world, PERIOD)), expected)


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("constant", [True, False])
def test_noloco(size: int, constant: bool) -> None:
    """The published recursion, which sends both d and φ, at any rate, also for the rank that has no partner."""
    ranks, φ = Ranks(size, constant=constant), np.tile(START, (size, 1))
    m, pairs = np.zeros_like(φ), topologies.random_pairs(size, seed=7)

    def outer(t: int) -> None:
        nonlocal φ, m
        mates = [pairs.partner(rank, t) for rank in range(size)]
        d = ranks.θ - φ
        m = 0.5 * m + 0.7 * (d + d[mates]) / 2 + 0.7 * ((φ + φ[mates]) / 2 - φ)
        φ = φ + m
        ranks.θ = φ.copy()

    expected = ranks.train(outer)
    same(trained(size, lambda world, own: slowmo.noloco(sgd(own), world, PERIOD, seed=7), constant), expected)


def test_double_averaging() -> None:
    ranks = Ranks(3, momentum=0.9)

    def outer(_: int) -> None:
        ranks.θ = np.tile(ranks.θ.mean(axis=0), (3, 1))
        ranks.b = np.tile(ranks.b.mean(axis=0), (3, 1))

    expected = ranks.train(outer)
    same(trained(3, lambda world, own: slowmo.double_averaging(sgd(own, 0.9), world, PERIOD)), expected)


METHODS: dict[str, tuple[float, Callable[[gossip.World, torch.optim.Optimizer], Any]]] = {
    "Local SGD": (1.5, lambda world, base: slowmo.local_sgd(base, world, PERIOD)),
    "Gossip-PGA": (
        PERIOD + 1.5,
        lambda world, base: slowmo.gossip_pga(base, world, topologies.exponential(4), PERIOD),
    ),
    "double averaging": (3, lambda world, base: slowmo.double_averaging(base, world, PERIOD)),
    "BMUF": (1.5, lambda world, base: slowmo.bmuf(base, world, PERIOD)),
    "DiLoCo": (1.5, lambda world, base: slowmo.diloco(base, world, PERIOD)),
    "NoLoCo": (1, lambda world, base: slowmo.noloco(base, world, PERIOD)),
    "Lookahead": (0, lambda world, base: slowmo.lookahead(base, PERIOD)),
    "streaming": (1.5, lambda world, base: slowmo.StreamingSlowMo(base, world, PERIOD)),
    "sharded": (1.5, lambda world, base: slowmo.ShardedSlowMo(base, world, PERIOD)),
    "shared momentum": (1.5, lambda world, base: slowmo.SharedMomentum(base, world, PERIOD)),
}


@pytest.mark.parametrize("name", METHODS)
def test_bytes_of_a_period_are_those_of_the_table_in_the_readme(name: str) -> None:
    """In models, on four ranks; with 1 % for envelopes and sums of single numbers."""
    elements, (models, build) = 20_000, METHODS[name]

    def run(world: gossip.World) -> float:
        own = torch.zeros(elements, requires_grad=True)
        optimizer = build(world, sgd(own, 0.9))
        counts = []
        for _ in range(3 * PERIOD):
            own.grad = torch.ones(elements)
            optimizer.step()
            counts.append(optimizer.stats.run.bytes_sent)
        return (counts[-1] - counts[-1 - PERIOD]) / (4 * elements)

    assert testing.run(4, run) == pytest.approx([models] * 4, rel=0.01)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Lookahead"])
def test_an_averager_in_the_place_of_the_world_is_refused(name: str) -> None:
    _, build = METHODS[name]

    def run(world: gossip.World) -> str:
        with pytest.raises(gossip.UsageError) as refusal:
            build(gossip.ExactAverage(world), sgd(torch.zeros(2, requires_grad=True)))  # type: ignore[arg-type]
        return str(refusal.value)

    assert "world is an ExactAverage" in testing.run(1, run)[0]


@pytest.mark.parametrize("build", [slowmo.StreamingSlowMo, slowmo.SharedMomentum])
def test_ranks_at_their_own_pace_are_refused(build: Any) -> None:
    """Where a sum of all of them is on its way; however deep the averager has it."""

    def run(world: gossip.World) -> str:
        any_order = gossip.PushSum(world, topologies.random_pairs(world.size), landing="any")
        averager = gossip.Chain(gossip.NoAverage(), gossip.Every(2, any_order))
        base = gossip.GossipOptimizer(sgd(torch.zeros(2, requires_grad=True)), averager)
        with pytest.raises(gossip.UsageError) as refusal:
            build(base, world)
        return str(refusal.value)

    assert f"at its own pace, and {build.__name__} waits for all ranks" in testing.run(2, run)[0]


# One slow momentum for all ranks


@pytest.mark.parametrize("overlap", [None, 0, 1])
@pytest.mark.parametrize(("lr", "nesterov", "rescale"), [(1.0, False, True), (0.8, True, True), (0.8, False, False)])
def test_shared_momentum(overlap: int | None, lr: float, nesterov: bool, rescale: bool) -> None:
    """The recursion: u is averaged after each outer step, the parameters are each rank's own."""
    graphs = oracle.random_digraphs(3, 3, seed=5)
    options = oracle.SlowMo(PERIOD, 0.6, lr, average="none", nesterov=nesterov, rescale=rescale, shared=True)
    expected = oracle.train(
        np.tile(START, (3, 1)),
        lambda i, t, z: z - target(i, t),
        rate,
        STEPS,
        matrices=None if overlap is None else oracle.cycle(graphs),
        overlap=overlap or 0,
        slowmo=options,
    )

    def make(world: gossip.World, own: torch.Tensor) -> slowmo.SharedMomentum:
        base = sgd(own)
        if overlap is not None:
            push_sum = gossip.PushSum(world, topologies.from_networkx(graphs), overlap=overlap)
            base = gossip.GossipOptimizer(base, push_sum)
        return slowmo.SharedMomentum(base, world, PERIOD, 0.6, lr, nesterov=nesterov, rescale=rescale)

    same(trained(3, make), expected.z)


def test_without_slow_momentum_sharing_it_is_the_base() -> None:
    """β = 0, α = 1, bit for bit."""

    def base(world: gossip.World, own: torch.Tensor) -> gossip.GossipOptimizer:
        push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
        return gossip.GossipOptimizer(sgd(own, 0.9), push_sum)

    alone = trained(3, base)
    assert np.array_equal(alone, trained(3, lambda w, own: slowmo.SharedMomentum(base(w, own), w, PERIOD, momentum=0)))


def test_the_shared_momentum_is_the_same_bits_and_waits_for_nothing_but_itself() -> None:
    """It has a whole period to travel in, and costs an exact average's bytes."""

    def run(world: gossip.World) -> tuple[torch.Tensor, int]:
        own = torch.zeros(900, requires_grad=True)
        optimizer = slowmo.SharedMomentum(sgd(own), world, 2)
        for _ in range(5):
            own.grad = torch.full((900,), float(world.rank))
            optimizer.step()
        optimizer.settle()
        return optimizer.momenta[0], optimizer.stats.run.bytes_sent

    ranks = testing.run(3, run)
    assert all(torch.equal(m, ranks[0][0]) for m, _ in ranks)
    assert float(ranks[0][0].abs().max()) > 0
    for _, sent in ranks:
        assert sent == 2 * 2 * 2 / 3 * (4 * len(ranks[0][0]) + 8 * 3), "momenta, and the rates of three ranks"


def test_a_shared_momentum_does_not_outlive_a_rank() -> None:
    def run(world: gossip.World) -> str:
        base = gossip.GossipOptimizer(sgd(torch.zeros(2, requires_grad=True)), gossip.NoAverage(), on_failure="shrink")
        with pytest.raises(gossip.UsageError) as refusal:
            slowmo.SharedMomentum(base, world)
        return str(refusal.value)

    assert "a momentum that was on its way when a rank died" in testing.run(1, run)[0]
