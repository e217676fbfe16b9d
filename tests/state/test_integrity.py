"""Corruption does not spread, and nobody from outside gets in."""

from __future__ import annotations

import ast
import re
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import spawn
import torch

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.transports.collective import steps
from gossip.transports.torch.store import HEADER, MOST, StoreClient, StoreServer

SIZE = 3


def optimizer(world: gossip.World, averager: str = "osgp", **options: bool) -> tuple[torch.nn.Module, slowmo.SlowMo]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.3)
    graph = topologies.exponential(world.size)
    averagers = {
        "sgp": lambda: gossip.PushSum(world, graph),
        "osgp": lambda: gossip.PushSum(world, graph, overlap=1),
        "exact": lambda: gossip.ExactAverage(world),
        "gradients": gossip.NoAverage,
    }
    base = gossip.GossipOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.1),
        averagers[averager](),
        gradients=world if averager == "gradients" else None,
        module=model,
        **options,
    )
    return model, slowmo.SlowMo(base, gossip.NoAverage(), period=4)


def train(world: gossip.World, model: torch.nn.Module, wrapped: slowmo.SlowMo, steps: int) -> None:
    for step in range(steps):
        wrapped.zero_grad()
        model(torch.full((2, 3), float(world.rank + step))).square().mean().backward()
        wrapped.step()


# -- what is not finite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("averager", ["sgp", "osgp", "exact", "gradients"])
def test_non_finite_is_refused_where_it_begins(averager: str, value: float) -> None:
    """By the rank that holds it, which names the parameter; no other rank has got any of it."""
    models = {}

    def run(world: gossip.World) -> None:
        model, wrapped = optimizer(world, averager, check_finite=True)
        models[world.rank] = model
        train(world, model, wrapped, 3)
        if world.rank == 1:
            model[1].weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([1]), value))
        train(world, model, wrapped, 3)

    what = "the gradient of" if averager == "gradients" else "parameter"
    expected = (
        rf"rank 1 would send {what} '1.weight' in step 3 with 4 of 8 values not finite, the first of them -?(nan|inf)"
    )
    with pytest.raises(gossip.GossipError, match=expected):
        testing.run(SIZE, run, timeout=20)
    for rank in (0, 2):
        assert all(bool(torch.isfinite(parameter).all()) for parameter in models[rank].parameters())


def test_large_finite_values_are_no_error() -> None:
    """Their sum overflows, and they do not."""

    def run(world: gossip.World) -> None:
        parameter = torch.full((4,), 3e38, requires_grad=True)
        osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
        wrapped = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), osgp, check_finite=True)
        wrapped.step()
        wrapped.settle()
        assert torch.isfinite(parameter).all()

    testing.run(SIZE, run)


# -- checksums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("averager", ["sgp", "osgp"])
def test_checksums_change_no_bit(averager: str) -> None:
    def run(world: gossip.World, **options: bool) -> list[torch.Tensor]:
        model, wrapped = optimizer(world, averager, **options)
        train(world, model, wrapped, 6)
        wrapped.settle()
        return [parameter.detach().clone() for parameter in model.parameters()]

    for plain, checked in zip(testing.run(SIZE, run), testing.run(SIZE, lambda w: run(w, checksum=True)), strict=True):
        assert all(map(torch.equal, plain, checked))


def test_message_that_changed_on_its_way_is_not_merged() -> None:
    """Here its sender writes to it by hand while it flies, in the last bit of one value."""

    def run(world: gossip.World) -> None:
        model, wrapped = optimizer(world, checksum=True)
        train(world, model, wrapped, 3)
        if world.rank == 1:
            wrapped.optimizer.mass.buckets[0].values.view(torch.int32)[0] ^= 1
        train(world, model, wrapped, 3)

    slow = testing.Network(delay=lambda source, target, number: 0.05)
    with pytest.raises(
        gossip.PeerLost, match=r"rank 0 got other values in round 2 than rank 1 sent, by their checksum"
    ):
        testing.run(2, run, network=slow, timeout=20)


def test_checksums_on_one_rank_are_refused() -> None:
    with pytest.raises(gossip.Disagreement, match=r"rank 1 has .*checksum=True"):
        testing.run(2, lambda world: optimizer(world, checksum=world.rank == 1))


# -- weight reports ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [topologies.exponential, topologies.star, topologies.random_peer])
@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_no_weight_is_lost_at_any_step(graph: topologies.Topology, overlap: int) -> None:
    """Held and in flight, over graphs whose rounds are doubly stochastic and others."""

    def run(world: gossip.World) -> list[gossip.WeightReport]:
        parameter = torch.zeros(4, requires_grad=True)
        averager: gossip.Averager = gossip.PushSum(world, graph(world.size), overlap=overlap)  # type: ignore[operator]
        averager = gossip.Chain(averager, gossip.Every(7, gossip.ExactAverage(world)))
        wrapped = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), averager)
        reports = []
        for _ in range(20):
            wrapped.step()
            reports.append(wrapped.weight_report())
        wrapped.settle()
        return [*reports, wrapped.weight_report()]

    ranks = testing.run(5, run)
    assert all(rank == ranks[0] for rank in ranks)
    assert all(abs(report.lost) < 1e-12 for report in ranks[0])
    assert ranks[0][-1].held == pytest.approx(5, abs=1e-12)
    assert (ranks[0][-2].in_flight > 0.5) == (overlap > 0)


def test_weight_that_is_lost_is_noticed() -> None:
    def run(world: gossip.World) -> float:
        model, wrapped = optimizer(world)
        train(world, model, wrapped, 3)
        if world.rank == 1:
            wrapped.optimizer.mass.weight = wrapped.optimizer.mass.weight * 0.9
        train(world, model, wrapped, 3)
        return wrapped.optimizer.weight_report().lost

    [lost, *others] = testing.run(SIZE, run)
    assert lost == pytest.approx(0.05, rel=1e-6)
    assert others == [lost] * (SIZE - 1)


# -- who comes from outside --------------------------------------------------------------------------------------------


def test_a_stranger_is_turned_away() -> None:
    server = StoreServer(("127.0.0.1", 0), b"secret")
    ours = StoreClient(("127.0.0.1", server.port), b"secret", 5, 0)
    ours.set("address", b"here")
    with pytest.raises(gossip.PeerTimeout, match="have all ranks the same GOSSIP_SECRET"):
        StoreClient(("127.0.0.1", server.port), b"guess", 0.2, 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as stranger:
        stranger.recv(16)
        stranger.sendall(b"?" * 32 + HEADER.pack(b"g", 7, 0) + b"address")
        with suppress(ConnectionResetError):
            assert stranger.recv(16) == b""
    assert ours.get("address") == b"here"
    server.close()


def test_a_store_takes_no_more_than_it_has_room_for() -> None:
    server = StoreServer(("127.0.0.1", 0), b"secret")
    ours = StoreClient(("127.0.0.1", server.port), b"secret", 5, 0)
    with pytest.raises(gossip.PeerLost, match="rank 0 lost the store of rank 0"):
        ours.set("address", b"x" * (MOST + 1))
    server.close()


def test_a_store_is_reached_by_its_interface_only() -> None:
    server = StoreServer(("127.0.0.2", 0), b"secret")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    server.close()


def test_a_gather_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MOST_GATHERED", 100)
    with pytest.raises(gossip.PeerLost, match="heard rank 1 announce 201 bytes to a gather"):
        testing.run(3, lambda world: world.all_gather(b"x" * 100 * (1 + (world.rank == 1))))


@pytest.mark.slow
def test_who_never_connected() -> None:
    """Of four ranks three come."""
    program = "import os, gossip\nif os.environ['RANK'] != '2': gossip.init('gloo', timeout=2)"
    outcome = spawn.run_torchrun(4, ["-c", program], wait=True)
    assert outcome.codes == (1, 1, 0, 1), outcome.output
    for rank in (0, 1, 3):  # one that begins long after rank 0 finds its store closed
        said = rf"rank {rank} (did not meet the other 3 ranks|lost the store of rank 0) at 127\.0\.0\.1:"
        assert re.search(said, outcome.output), outcome.output
    assert outcome.output.count("rank 2 never connected") >= 1


UNSAFE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing"}
EVALUATED = {
    "eval",
    "exec",
    "all_gather_object",
    "broadcast_object_list",
    "send_object_list",
    "recv_object_list",
    "load",
}


def harmless(call: ast.Call) -> bool:
    """Tensors and plain data alone."""
    return any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords)


@pytest.mark.parametrize("path", sorted((spawn.ROOT / "gossip").rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert not imported & UNSAFE
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and not harmless(node)}
    ours = {"gossip.launch": {"exec"}}.get(f"gossip.{path.stem}", set())  # the user's own script
    named_so = {"json.load", "tl.load", "optimizer.eval"}  # the last is the mode of a schedule-free optimizer
    assert not {call for call in calls if call.split(".")[-1] in EVALUATED} - ours - named_so
