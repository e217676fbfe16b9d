"""Rounded messages: fewer bytes, the same mass, and ranks that agree as closely as values are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gossip
import topologies
from gossip import testing
from gossip.state.codecs import CODECS, Int8
from gossip.state.mass import Mass
from gossip.testing import Network

NAMES = [name for name in CODECS if name is not None]
ROUNDED = ["bfloat16", "float16", "int8"]
STEP = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "int8": 1 / 127}
"""A bound on the rounding error of a value, in units of the greatest of its block: twice the largest error."""
ELEMENTS = 300  # one block of int8 and a piece


def starts(size: int, seed: int) -> oracle.Array:
    """Different values on every rank, (n, ELEMENTS); no mean is 0."""
    return np.random.default_rng((seed, size)).standard_normal((size, ELEMENTS)) + 1


def digraphs(size: int, seed: int) -> topologies.Topology:
    return topologies.from_networkx(oracle.random_digraphs(size, 1 + seed % 4, seed, weighted=seed % 2 == 0))


def mix(
    world: gossip.World,
    averager: gossip.Averager,
    start: oracle.Array,
    steps: int,
    dtype: torch.dtype = torch.float64,
    rate: float = 0.0,
) -> tuple[float, oracle.Array, gossip.Counters]:
    """Weight and values at the end, from a start of each rank's own; each step adds `rate` times `change`."""
    parameter = torch.zeros(start.shape[1], dtype=dtype, requires_grad=True)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=1.0), averager)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(start[world.rank]))
    for step in range(steps):
        if rate:
            parameter.grad = torch.from_numpy(-rate * change(world.rank, step)).to(dtype)
        optimizer.step()
    optimizer.settle()
    return optimizer.weight, parameter.detach().double().numpy(), optimizer.stats.run


def change(rank: int, step: int) -> oracle.Array:
    """The change that a rank's update adds, in sixteenths, which float32 adds up without rounding."""
    return np.random.default_rng((rank, step)).integers(-16, 17, ELEMENTS) / 16


def drift(size: int, wire: str, dtype: torch.dtype, steps: int) -> float:
    """How far Σ w z is, after many updates and rounds, from its first value and the updates: relative, rms."""
    start, topology = starts(size, 1), digraphs(size, 3)
    ranks = testing.run(
        size,
        lambda world: mix(
            world, gossip.PushSum(world, topology, overlap=1, wire=wire), start, steps, dtype, rate=2.0**-10
        ),
    )
    changes = sum(change(rank, step) for rank in range(size) for step in range(steps)) * 2.0**-10
    expected = start.sum(axis=0) + changes
    off = sum(w * z for w, z, _ in ranks) - expected
    return float(np.sqrt((off**2).mean() / (expected**2).mean()))


# -- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 1000, (1 << 18) + 3])
def test_a_value_is_rounded_by_half_a_step_at_the_most(name: str, dtype: torch.dtype, n: int) -> None:
    wire = CODECS[name]
    z = (torch.randn(n, generator=torch.Generator().manual_seed(n)) * 3).to(dtype)
    room = wire.buffer(z)
    wire.encode(z, room)
    assert wire.elements(room) == n
    decoded = torch.cat([part for _, part in wire.pieces(z, room)] or [z.float()])
    assert torch.equal(decoded, wire.values(room))
    blocks = torch.nn.functional.pad(z.double(), (0, -n % 256)).view(-1, 256)
    greatest = blocks.abs().amax(1, keepdim=True).expand_as(blocks).reshape(-1)[:n] if n else z
    assert ((decoded - z).abs() <= STEP[name] / 2 * greatest * (1 + 1e-5)).all()
    assert not wire.is_lossy(room)
    if wire.is_exact(z):
        assert torch.equal(decoded.to(dtype), z)


def test_blocks_of_nothing_and_of_next_to_nothing_are_zeros() -> None:
    wire, z = Int8(), torch.zeros(600)
    z[300:] = 1e-45
    room = wire.buffer(z)
    wire.encode(z, room)
    assert not wire.is_lossy(room)
    assert not wire.values(room).any()


# -- the law -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ROUNDED)
def test_many_rounds_lose_nothing(wire: str) -> None:
    """Σ w z is that of the updates alone, over a graph on which w ≠ 1."""
    # As much as float32 loses over as many rounds that round nothing more: 6e-7 here.
    assert drift(3, wire, torch.float32, 200) < 1.5e-6
    assert drift(3, wire, torch.float64, 60) < 1e-14


@pytest.mark.parametrize(("wire", "least"), [("bfloat16", 1e-4), ("float16", 1e-5), ("int8", 1e-4)])
def test_what_rounding_lost_would_be_lost(wire: str, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the sender keeps, the same runs drift: the law is what holds them."""
    monkeypatch.setattr(Mass, "retain_", lambda *arguments: None)
    assert drift(3, wire, torch.float32, 200) > least


@settings(max_examples=30)
@given(
    size=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    wire=st.sampled_from(ROUNDED),
    how=st.sampled_from([("due", 0), ("due", 1), ("due", 2), ("early", 0), ("early", 3), ("any", 0)]),
    second=st.booleans(),
)
def test_nothing_is_lost_or_made(size: int, seed: int, wire: str, how: tuple[str, int], second: bool) -> None:
    """However messages land, late ones too, several to a rank, and beside other rounds that read the same memory."""
    start, topology = starts(size, seed), digraphs(size, seed)
    delays = np.random.default_rng(seed).uniform(0, 2e-3, 97)
    network = Network(delay=lambda source, target, number: float(delays[(source + 7 * target + number) % 97]))

    def averager(world: gossip.World) -> gossip.Averager:
        rounded = gossip.PushSum(world, topology, overlap=how[1], landing=how[0], wire=wire)
        if not second:
            return rounded
        return gossip.Chain(gossip.PushSum(world, topologies.exponential(world.size), overlap=1), rounded)

    ranks = testing.run(size, lambda world: mix(world, averager(world), start, 7), network=network)
    assert sum(w for w, _, _ in ranks) == pytest.approx(size, abs=1e-12)
    np.testing.assert_allclose(sum(w * z for w, z, _ in ranks), start.sum(axis=0), atol=1e-12)


@pytest.mark.parametrize("wire", ROUNDED)
@pytest.mark.parametrize("overlap", [0, 1])
def test_ranks_agree_as_closely_as_values_are_rounded(wire: str, overlap: int) -> None:
    """On the mean of their first values: the best that such messages can say, and not much worse."""
    start = starts(8, 0)
    ranks = testing.run(
        8,
        lambda world: mix(
            world, gossip.PushSum(world, topologies.exponential(8), overlap=overlap, wire=wire), start, 40
        ),
    )
    mean = start.mean(axis=0)
    furthest = max(float(np.abs(z - mean).max()) for _, z, _ in ranks)
    assert furthest < 4 * STEP[wire] * np.abs(mean).max()
    assert all(w == 1 for w, _, _ in ranks)


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_what_is_not_rounded_changes_no_bit(overlap: int) -> None:
    start = starts(5, 2)

    def run(wire: str | None) -> list[Any]:
        averager = lambda world: gossip.PushSum(world, digraphs(5, 2), overlap=overlap, wire=wire)  # noqa: E731
        return testing.run(5, lambda world: mix(world, averager(world), start, 9, torch.float32))

    for (w, z, _), (v, y, _) in zip(run(None), run("float32"), strict=True):
        assert w == v
        assert np.array_equal(z, y)


def test_parameters_of_16_bits_travel_in_32() -> None:
    """They are merged in float32, and rounded only where they rest."""
    start = starts(4, 0)
    ranks = testing.run(
        4,
        lambda world: mix(
            world, gossip.PushSum(world, topologies.exponential(4), wire="float32"), start, 2, torch.bfloat16
        ),
    )
    for _, z, _ in ranks:
        np.testing.assert_allclose(z, start.mean(axis=0), atol=3 * 2.0**-9 * np.abs(start).max())


# -- what is counted and refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "payload"),
    [
        (None, 4 * ELEMENTS),
        ("float32", 4 * ELEMENTS),
        ("float16", 2 * ELEMENTS),
        ("bfloat16", 2 * ELEMENTS),
        ("int8", ELEMENTS + 4 * 4),
    ],
)
@pytest.mark.parametrize("overlap", [0, 1])
def test_bytes(wire: str | None, payload: int, overlap: int) -> None:
    """The counted bytes are those that travel, and the envelope's 24."""
    ranks = testing.run(
        3,
        lambda world: mix(
            world,
            gossip.PushSum(world, topologies.exponential(3), overlap=overlap, wire=wire),
            starts(3, 0),
            5,
            torch.float32,
        ),
    )
    for _, _, counted in ranks:
        assert counted.bytes_sent == counted.bytes_received == 5 * (payload + 24)


def test_checksums_are_those_of_what_travels() -> None:
    def run(world: gossip.World) -> None:
        parameter = torch.full((ELEMENTS,), float(world.rank), requires_grad=True)
        osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1, wire="int8")
        optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), osgp, checksum=True)
        for _ in range(3):
            optimizer.step()
        if world.rank == 1:
            osgp.landing.rounds[0].leaving[1][-1] ^= 1
        optimizer.step()

    slow = Network(delay=lambda source, target, number: 0.05)
    with pytest.raises(gossip.PeerLost, match="rank 0 got other values in round 2 than rank 1 sent"):
        testing.run(2, run, network=slow, timeout=20)


@pytest.mark.parametrize(
    ("wire", "value"), [("float16", 1e6), ("float16", float("nan")), ("int8", float("inf")), ("int8", float("nan"))]
)
@pytest.mark.parametrize("landing", ["due", "early"])
def test_what_cannot_be_carried_is_refused_where_it_begins(wire: str, value: float, landing: str) -> None:
    """With rank, parameter and round; no other rank has got any of it."""
    held = {}

    def run(world: gossip.World) -> None:
        layer = torch.nn.Linear(3, 2)
        averager = gossip.PushSum(world, topologies.complete(2), overlap=1, landing=landing, wire=wire)
        base = torch.optim.SGD(layer.parameters(), lr=0.1)
        optimizer = gossip.GossipOptimizer(base, averager, module=layer)
        held[world.rank] = layer.bias
        for step in range(3):
            if step == 2:
                optimizer.settle()
                if world.rank == 1:
                    with torch.no_grad():
                        layer.bias[0] = value
            optimizer.step()

    with pytest.raises(gossip.GossipError, match=f"rank 1 cannot send parameter 'bias' in round 2 as {wire}"):
        testing.run(2, run, timeout=20)
    assert torch.isfinite(held[0]).all()


def test_wires_that_do_not_exist_or_differ_are_refused() -> None:
    with pytest.raises(gossip.UsageError, match="wire is 'int4'; there are None, 'float32', 'bfloat16'"):
        gossip.PushSum(gossip.init(), topologies.exponential(1), wire="int4")

    def run(world: gossip.World) -> None:
        wire = "int8" if world.rank == 1 else "bfloat16"
        averager = gossip.PushSum(world, topologies.exponential(world.size), wire=wire)
        gossip.GossipOptimizer(torch.optim.SGD([torch.zeros(4, requires_grad=True)], lr=0.1), averager)

    with pytest.raises(gossip.Disagreement, match=r"rank 1 has averager PushSum\(.*wire='int8'\)"):
        testing.run(3, run)
