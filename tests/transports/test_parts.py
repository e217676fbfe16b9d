"""Messages that the ranks of a node carry together: the bits of those that each rank carries, over less network."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import oracle
import pytest
import spawn
import torch
from workers.parts import CASES

import gossip
import slowmo
import topologies
from gossip import testing
from gossip.testing import Network
from gossip.transports import post_in_parts

STEPS = 9
TWO = ["a", "a", "b", "b", "c", "c"]
"""Three hosts, two ranks on each."""
GRIDS = {
    "3 hosts of 2": TWO,
    "2 hosts of 3, ranks dealt out in turn": ["a", "b"] * 3,
    "a host of 4": ["a"] * 4,
    "3 hosts of 1": ["a", "b", "c"],
}

Wrap = Callable[[gossip.World, torch.optim.Optimizer, bool], Any]


def across(world: gossip.World, parts: bool, overlap: int, **options: Any) -> gossip.PushSum:
    """Gossip between hosts over irregular digraphs, so that weights are not 1."""
    hosts = world.across.size
    graph = topologies.from_networkx(oracle.random_digraphs(hosts, 3, 5, weighted=True))
    return gossip.PushSum(world.across, graph, overlap=overlap, node=world.node if parts else None, **options)


def hierarchical(overlap: int, **options: Any) -> Wrap:
    return lambda world, base, parts: gossip.GossipOptimizer(
        base, across(world, parts, overlap, **options), gradients=world.node
    )


WRAPS: dict[str, Wrap] = {
    "sgp": hierarchical(0),
    "osgp": hierarchical(1),
    "osgp, int8": hierarchical(1, wire="int8"),
    "every third": lambda world, base, parts: gossip.GossipOptimizer(
        base, gossip.Every(3, across(world, parts, 3)), gradients=world.node
    ),
    "gossip-pga": lambda world, base, parts: gossip.GossipOptimizer(
        base,
        gossip.Chain(across(world, parts, 1), gossip.Every(4, gossip.ExactAverage(world))),
        gradients=world,
    ),
    "slowmo": lambda world, base, parts: slowmo.SlowMo(
        hierarchical(1)(world, base, parts), gossip.ExactAverage(world), period=4, momentum=0.6
    ),
    "noloco": lambda world, base, parts: slowmo.SlowMo(
        gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world.node), across(world, parts, 0), period=2
    ),
}


class Training:
    """Of a float64 parameter and two small float32 ones, fewer values than some nodes have ranks."""

    def __init__(self, world: gossip.World, wrap: str, parts: bool, count: int = 301) -> None:
        self.rank = world.rank
        self.parameters = [
            torch.zeros(count, dtype=torch.float64, requires_grad=True),
            torch.zeros(1, 2, requires_grad=True),
            torch.zeros((), requires_grad=True),
        ]
        self.optimizer = WRAPS[wrap](world, torch.optim.SGD(self.parameters, lr=0.05, momentum=0.9), parts)

    def train(self, steps: range) -> None:
        """Towards something else on every rank and in every step."""
        for step in steps:
            random = torch.Generator().manual_seed(100 * step + self.rank)
            for parameter in self.parameters:
                aim = torch.randn(parameter.shape, generator=random, dtype=torch.float64).to(parameter.dtype)
                parameter.grad = parameter.detach() - aim
            self.optimizer.step()

    def held(self) -> tuple[float, list[float]]:
        return self.optimizer.weight, [float(x) for z in self.parameters for x in z.detach().reshape(-1)]

    def state(self) -> Any:
        return copy.deepcopy([[z.detach() for z in self.parameters], self.optimizer.state_dict()])

    def load(self, state: Any) -> None:
        for parameter, values in zip(self.parameters, state[0], strict=True):
            with torch.no_grad():
                parameter.copy_(values)
        self.optimizer.load_state_dict(state[1])


def trained(world: gossip.World, wrap: str, parts: bool) -> list[tuple[float, list[float]]]:
    """Weight and values of this rank after each step, and once all has landed."""
    training, held = Training(world, wrap, parts), []
    for step in range(STEPS):
        training.train(range(step, step + 1))
        held.append(training.held())
    training.optimizer.settle()
    return [*held, training.held()]


@pytest.mark.parametrize(
    ("wrap", "grid"),
    [*((wrap, "3 hosts of 2") for wrap in WRAPS), *(("osgp", grid) for grid in GRIDS if grid != "3 hosts of 2")],
)
def test_parts_change_no_bit(wrap: str, grid: str) -> None:
    """Parameters and weights at every step are those of the composition in which each rank carries whole messages."""
    hosts = GRIDS[grid]
    slow = Network(delay=lambda source, target, number: 1e-3 * ((source + 3 * target + number) % 3))
    size = len(hosts)
    whole = testing.run(size, lambda world: trained(world, wrap, parts=False), hosts=hosts, timeout=20)
    parts = testing.run(size, lambda world: trained(world, wrap, parts=True), hosts=hosts, network=slow, timeout=20)
    assert parts == whole
    for rank in range(size):
        assert parts[rank] == parts[hosts.index(hosts[rank])], "ranks of one host hold different models"
    assert np.isfinite(parts[0][-1][1]).all()
    if len(set(hosts)) > 1 and wrap == "sgp":
        assert parts[0][2] != parts[hosts.index("b")][2], "hosts hold the same: nothing is tested"


@pytest.mark.parametrize("wrap", ["sgp", "osgp, int8"])
@pytest.mark.parametrize("grid", ["3 hosts of 2", "2 hosts of 3, ranks dealt out in turn"])
def test_pieces_change_no_bit(wrap: str, grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece is handed around while the next is on its way, on each rank in an order of its own."""
    hosts = GRIDS[grid]
    slow = Network(delay=lambda source, target, number: 1e-3 * ((source + 3 * target + number) % 3))
    whole = testing.run(len(hosts), lambda world: trained(world, wrap, parts=False), hosts=hosts, timeout=20)
    monkeypatch.setattr("gossip.transports.collective.sums.PIECE", 100)
    pieces = testing.run(
        len(hosts), lambda world: trained(world, wrap, parts=True), hosts=hosts, network=slow, timeout=20
    )
    assert pieces == whole


@pytest.mark.parametrize("wrap", ["osgp", "osgp, int8", "slowmo"])
def test_a_resumed_run_ends_in_the_same_bits(wrap: str) -> None:
    """With a round in the air, of which both halves are in the checkpoint."""

    def interrupted(world: gossip.World) -> tuple[float, list[float]]:
        first = Training(world, wrap, parts=True)
        first.train(range(5))
        saved = first.state()
        assert saved[1]["gossip"]["averager"]["aloft"]
        first.train(range(5, 7))
        first.optimizer.settle()
        second = Training(world, wrap, parts=True)
        second.load(saved)
        second.train(range(5, STEPS))
        return second.held()

    straight = testing.run(6, lambda world: trained(world, wrap, parts=True), hosts=TWO)
    assert testing.run(6, interrupted, hosts=TWO) == [held[STEPS - 1] for held in straight]


class Counting(Network):
    """Counts the bytes between hosts."""

    def __init__(self, hosts: list[str]) -> None:
        super().__init__()
        self.hosts, self.bytes = hosts, Counter[str]()

    def send(self, line: Any, tensors: Sequence[torch.Tensor]) -> Any:
        source, target = self.hosts[line[2]], self.hosts[line[3]]
        self.bytes["between" if source != target else "inside"] += sum(tensor.nbytes for tensor in tensors)
        return super().send(line, tensors)


@pytest.mark.parametrize(
    ("hosts", "m"), [(TWO, 2), (["a", "b"] * 3, 3), (["a"] * 4 + ["b"] * 4, 4)], ids=["2", "3", "4"]
)
def test_bytes_between_hosts_fall_by_the_ranks_of_a_node(hosts: list[str], m: int) -> None:
    """And each rank counts all that it sends, between hosts and inside."""

    def traffic(parts: bool, steps: int) -> tuple[Counter[str], int]:
        network = Counting(hosts)

        def run(world: gossip.World) -> int:
            parameter = torch.zeros(1200, requires_grad=True)
            graph = topologies.exponential(world.across.size)
            osgp = gossip.PushSum(world.across, graph, overlap=1, node=world.node if parts else None)
            base = torch.optim.SGD([parameter], lr=0.1)
            optimizer = gossip.GossipOptimizer(base, osgp, gradients=world.node)
            world.barrier()
            for _ in range(steps):
                optimizer.step()
            optimizer.settle()
            return optimizer.stats.run.bytes_sent

        counted = testing.run(len(hosts), run, hosts=hosts, network=network)
        return network.bytes, sum(counted)

    def of_rounds(parts: bool) -> tuple[int, int]:
        (few, counted), (more, also) = traffic(parts, 2), traffic(parts, 7)
        assert sum((more - few).values()) == also - counted
        return more["between"] - few["between"], more["inside"] - few["inside"]

    message, ranks = 4800 + 24, len(hosts)
    whole, parts = of_rounds(False), of_rounds(True)
    assert whole[0] == 5 * ranks * message
    assert parts[0] == whole[0] / m
    assert parts[1] - whole[1] == 5 * ranks * (m - 1) * message // m


# -- what is refused ---------------------------------------------------------------------------------------------------


def made(world: gossip.World, averager: gossip.Averager, gradients: gossip.World | None) -> gossip.GossipOptimizer:
    base = torch.optim.SGD([torch.zeros(4, requires_grad=True)], lr=0.1)
    return gossip.GossipOptimizer(base, averager, gradients=gradients)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda world: made(world, across(world, True, 1), None),
            "make the same updates: give .* gradients=world.node",
        ),
        (lambda world: made(world, across(world, True, 1), world.across), "make the same updates"),
        (
            lambda world: slowmo.SlowMo(made(world, gossip.NoAverage(), None), across(world, True, 0)),
            "make the same updates",
        ),
        (lambda world: made(world, across(world, True, 2), world.node), "one round at a time: use overlap=0 or 1"),
        (lambda world: across(world, True, 1, landing="any"), "landing='any' takes one message before another"),
        (
            lambda world: gossip.PushSum(world, topologies.ring(6), node=world.node),
            "gossips with ranks of its own node",
        ),
        (lambda world: gossip.PushSum(world.across, topologies.ring(3), node=2), "node is 2, but it is a World"),
    ],
    ids=["alone", "across", "slowmo", "overlap", "landing", "world", "number"],
)
def test_impossible_nodes_are_refused(build: Callable[[gossip.World], object], said: str) -> None:
    def run(world: gossip.World) -> None:
        with pytest.raises(gossip.UsageError, match=said):
            build(world)

    testing.run(6, run, hosts=TWO, timeout=20)


def test_hosts_with_unequal_numbers_of_ranks() -> None:
    """All ranks refuse, also those of a host that is like another."""

    def run(world: gossip.World) -> str:
        with pytest.raises(gossip.Disagreement) as refused:
            made(world, across(world, True, 1), world)
        return str(refused.value)

    sentences = testing.run(5, run, hosts=["a", "a", "b", "b", "c"], timeout=20)
    assert len(set(sentences)) == 1
    assert "node=1" in sentences[0]
    assert "node=2" in sentences[0]


def test_ranks_that_are_no_counterparts_are_refused() -> None:
    """Where one node counts its ranks the other way round, parts would not fit together."""

    def run(world: gossip.World) -> None:
        node = world.group([0, 1] if world.rank < 2 else [3, 2])
        counterparts = world.group([0, 2] if world.rank % 2 == 0 else [1, 3])
        push_sum = gossip.PushSum(counterparts, topologies.ring(2), node=node)
        with pytest.raises(
            gossip.UsageError, match=r"stand in their nodes as 0 of 2, 1 of 2: they have to be counterparts|as 1"
        ):
            made(world, push_sum, node)

    testing.run(4, run, timeout=20)


def test_an_error_names_the_rank_inside_the_node() -> None:
    """An error in the second half names ranks as the job does."""

    def run(world: gossip.World) -> str:
        there, inside = world.across.channel(), world.node.channel()
        peer = 1 - there.rank
        if world.rank == 1:  # so that nothing has come to rank 3 when that asks for the last time
            world.barrier()
        flight = post_in_parts(there, inside, {peer: [torch.ones(8)]}, {peer: [torch.zeros(8)]}, "round 7")
        if world.rank != 1:
            world.barrier()
        said = ""
        if world.rank == 2:
            with pytest.raises(gossip.PeerTimeout) as late:
                flight.wait(0.2)
            said = str(late.value)
        world.barrier()
        flight.wait()
        return said

    said = testing.run(4, run, hosts=["a", "a", "b", "b"])[2]
    assert said.startswith("rank 2 heard nothing from rank 3 ")
    assert " in round 7 for 0.2 s" in said


def test_ranks_of_a_node_that_are_not_alike_are_refused() -> None:
    """Where counterparts count the hosts in another order for one local rank than for the other."""

    def run(world: gossip.World) -> None:
        across = world.group([0, 1, 2] if world.rank < 3 else [3, 4, 5])
        averager = gossip.PushSum(across, topologies.exponential(3), node=world.node)
        gossip.GossipOptimizer(
            torch.optim.SGD([torch.zeros(4, requires_grad=True)], lr=0.1), averager, gradients=world.node
        )

    with pytest.raises(gossip.UsageError, match="are not alike among those that they gossip with: rank 0 of 3"):
        testing.run(6, run, hosts=["a", "b", "c", "c", "b", "a"])


TRANSPORTS = ("mpi", "mpi/far", "mpi/staged", "gloo")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> list[spawn.Saved]:
    """Four processes, over every transport."""
    return spawn.mpirun(4, "workers.parts", tmp_path_factory.mktemp("parts"), *TRANSPORTS)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("overlap", "wire"), CASES)
def test_mpirun(transport: str, overlap: int, wire: str, launched: list[spawn.Saved]) -> None:
    """Two ranks that carry each message together end in the bits of two that carry one each."""
    parts, whole = ([saved[f"{transport}/{overlap}/{wire}/{how}"] for saved in launched] for how in (True, False))
    assert np.array_equal(parts, whole)
    assert np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])
