"""Every rank refuses a setup that cannot work, within seconds, in a sentence that says who, where and what next."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import networkx as nx
import pytest
import spawn
import torch
from workers.refusals import CASES, DEADLINE, SIZE, network, refusal

import gossip
import slowmo
import topologies
from gossip import testing

# -- arguments ---------------------------------------------------------------------------------------------------------

WORLD = gossip.init()
RING = topologies.exponential(1)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(network().parameters(), lr=0.1)


def lbfgs(world: gossip.World) -> gossip.GossipOptimizer:
    base = torch.optim.LBFGS(network().parameters())
    return gossip.GossipOptimizer(base, gossip.NoAverage(), gradients=world)


def shared() -> None:
    averager = gossip.PushSum(WORLD, RING)
    gossip.GossipOptimizer(sgd(), averager)
    gossip.GossipOptimizer(sgd(), averager)


def slow(**options: Any) -> slowmo.SlowMo:
    return slowmo.SlowMo(sgd(), options.pop("averager", gossip.NoAverage()), **options)


ARGUMENTS: dict[str, tuple[Callable[[], object], str]] = {
    "overlap -1": (lambda: gossip.PushSum(WORLD, RING, overlap=-1), "overlap is -1, but it is a number of steps"),
    "overlap 1.5": (lambda: gossip.PushSum(WORLD, RING, overlap=1.5), "overlap is 1.5, but it is"),  # type: ignore[arg-type]
    "overlap True": (lambda: gossip.PushSum(WORLD, RING, overlap=True), "overlap is True, but it is"),
    "overlap 3": (
        lambda: gossip.GossipOptimizer(sgd(), gossip.PushSum(WORLD, RING, overlap=3)),
        "overlap=3 posted every 1 step.* until training diverges.* Every(3, PushSum(..., overlap=3))",
    ),
    "landing": (
        lambda: gossip.PushSum(WORLD, RING, landing="soon"),
        "landing is 'soon'; there are 'due', 'forward', 'early' and 'any'",
    ),
    "size": (
        lambda: gossip.PushSum(WORLD, topologies.ring(4)),
        "topology has 4 ranks and the world has 1: make it with size=world.size",
    ),
    "a graph": (lambda: gossip.PushSum(WORLD, nx.DiGraph()), "is a DiGraph, .*topologies.from_networkx"),  # type: ignore[arg-type]
    "period 0": (lambda: gossip.Every(0, gossip.NoAverage()), "Every(0, ...): the period is a whole number of steps"),
    "period 2.5": (lambda: gossip.Every(2.5, gossip.NoAverage()), "Every(2.5, ...): the period"),  # type: ignore[arg-type]
    "no optimizer": (
        lambda: gossip.GossipOptimizer(network(), gossip.NoAverage()),  # type: ignore[arg-type]
        "GossipOptimizer wraps a torch.optim.Optimizer, and this is a Sequential",
    ),
    "twice": (
        lambda: gossip.GossipOptimizer(gossip.GossipOptimizer(sgd(), gossip.NoAverage()), gossip.NoAverage()),
        "wraps a plain torch optimizer, and this is a GossipOptimizer: .* several averagers into one Chain",
    ),
    "inside out": (lambda: gossip.GossipOptimizer(slow(), gossip.NoAverage()), "SlowMo goes around GossipOptimizer"),
    "no averager": (
        lambda: gossip.GossipOptimizer(sgd(), RING),  # type: ignore[arg-type]
        "which is no Averager such as gossip.PushSum(...)",
    ),
    "no world": (
        lambda: gossip.GossipOptimizer(sgd(), gossip.NoAverage(), gradients=True),  # type: ignore[arg-type]
        "gradients is True, .*World",
    ),
    "shared": (shared, "belongs to another optimizer already: make a new averager for each optimizer"),
    "module_buffers": (
        lambda: gossip.GossipOptimizer(sgd(), gossip.NoAverage(), module_buffers="sum"),
        "module_buffers is 'sum'; there are 'local' and 'average'",
    ),
    "module_buffers alone": (
        lambda: gossip.GossipOptimizer(sgd(), gossip.NoAverage(), module_buffers="average"),
        "module_buffers='average' needs module=...",
    ),
    "another model": (
        lambda: gossip.GossipOptimizer(sgd(), gossip.NoAverage(), module=network()),
        "module is a Sequential that holds none of the parameters of this SGD",
    ),
    "initial": (
        lambda: gossip.GossipOptimizer(sgd(), gossip.NoAverage(), initial="rank 3"),
        "initial is 'rank 3'; there are 'broadcast' and 'check'",
    ),
    "slowmo twice": (lambda: slowmo.SlowMo(slow(), gossip.NoAverage()), "SlowMo around SlowMo"),
    "slowmo averager": (lambda: slow(averager=WORLD), "which is no Averager such as gossip.ExactAverage(world)"),
    "slowmo period": (lambda: slow(period=0), "period is 0, but it is a whole number of steps, at least 1"),
    "slowmo momentum": (lambda: slow(momentum=1.0), "momentum is 1.0, but slow momentum is stable from 0 up to"),
    "slowmo negative momentum": (lambda: slow(momentum=-0.1), "momentum is -0.1"),
    "slowmo rate": (lambda: slow(lr=0.0), "lr is 0.0, but the slow learning rate is a positive number"),
    "slowmo infinite rate": (lambda: slow(lr=float("inf")), "lr is inf"),
    "slowmo buffers": (lambda: slow(buffers="keep"), "buffers is 'keep'; there are 'reset', 'maintain' and 'average'"),
    "slowmo average of none": (lambda: slow(buffers="average"), "buffers='average' needs ranks to average over"),
    "slowmo overlap": (
        lambda: slow(averager=gossip.PushSum(WORLD, RING, overlap=1)),
        "would land after the outer step that needs it: use overlap=0 and landing='due' here",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(make: Callable[[], object], sentence: str) -> None:
    """Each is a ValueError, so that callers need not know the runtime's own classes."""
    with pytest.raises(ValueError, match=re.sub(r"([()])", r"\\\1", sentence)):
        make()


def test_lbfgs_with_averaged_gradients() -> None:
    with pytest.raises(gossip.UsageError, match="LBFGS evaluates its closure as often as its line search asks"):
        testing.run(2, lbfgs)


# -- ranks that differ -------------------------------------------------------------------------------------------------

# The sentence of every rank, or the sentence of each where they differ.
SENTENCES: dict[str, tuple[str, str | list[str]]] = {
    "another shape": ("Disagreement", r"rank 0 has parameter '1.weight' of shape (3, 3).* rank 2 has .* (5, 3)"),
    "another dtype": ("Disagreement", r"parameter '0.weight' .*torch.float32.* rank 1 has .*torch.float64"),
    "more layers": ("Disagreement", r"rank 0 has nothing, where rank 1 has parameter '2.weight'"),
    "another topology": ("Disagreement", r"rank 0 has averager PushSum(Exponential.* rank 2 has averager PushSum(Ring"),
    "another size": ("UsageError", r"topology has 4 ranks and the world has 3: make it with size=world.size"),
    "unconnected": ("TopologyError", r"rank 2 has no edge, so it would stay alone: connect it to the others"),
    "another overlap": ("Disagreement", r"overlap=0.* rank 1 has .*overlap=1.*same model, optimizer, averager"),
    "another optimizer": ("Disagreement", r"rank 0 has optimizer SGD .* rank 1 has optimizer Adam "),
    "another start": ("Disagreement", r"initial='broadcast'.* rank 1 has .*initial='check'"),
    "another period": ("Disagreement", r"SlowMo(period=3.* rank 2 has SlowMo(period=4"),
    "another slow momentum": ("Disagreement", r"momentum=0.5.* rank 1 has .*momentum=0.6.*2 of 3 ranks differ"),
    "another averager": ("Disagreement", r"averager Every(1, ExactAverage.* rank 1 has averager ExactAverage"),
    "unequal start": ("Disagreement", r"parameter '0.weight' with values .* rank 1 .*initial='check' wants equal"),
    "unequal first step": ("Disagreement", r"parameter '1.bias' .* rank 1 .*SlowMo begins from equal parameters"),
    "grown apart": ("Disagreement", r"of shape (2, 2).* rank 2 has .*of shape (3, 2)"),
    "moved": ("GossipError", r"parameter '0.weight' has left its bucket"),
    "assigned": ("GossipError", r"parameter '1.bias' has left its bucket: its data was replaced"),
    "another round": (
        "PeerLost",
        [
            r"rank 0 expected round 2 from rank 1 and got round 0: does every rank call step() equally often",
            r"rank 1 expected round 0 from rank [02] and got round 2",
            r"rank 2 expected round 2 from rank 1 and got round 0",
        ],
    ),
    "silent": (
        "PeerTimeout",
        [
            r"rank 0 heard nothing from rank 2.* in round 3 for 1 s over .*: is the peer alive",
            r"rank 1 heard nothing from rank 2.* in round 3 for 1 s over .*gossip.init(timeout=...)",
        ],
    ),
}


def refused(name: str, ranks: list[tuple[str, str, float]]) -> None:
    kind, sentences = SENTENCES[name]
    if kind == "Disagreement":
        assert len({sentence for _, sentence, _ in ranks}) == 1, "not the same sentence everywhere"
    each = sentences if isinstance(sentences, list) else [sentences] * SIZE
    for (error, said, seconds), expected in zip(ranks, each, strict=False):
        assert (error, said) == (kind, said)
        assert re.search(re.sub(r"([()])", r"\\\1", expected), said), said
        assert seconds < DEADLINE + 10


@pytest.mark.parametrize("name", CASES)
def test_threads(name: str) -> None:
    timeout = DEADLINE if name == "silent" else 20
    refused(name, testing.run(SIZE, lambda world: refusal(CASES[name], world), timeout=timeout))


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[spawn.Saved]]:
    """One mpirun for each transport, in which all cases are tried in one world, one after another."""
    return cache(
        lambda transport: spawn.mpirun(SIZE, "workers.refusals", tmp_path_factory.mktemp(transport), transport)
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("transport", ["mpi", pytest.param("gloo", marks=pytest.mark.slow)])
def test_mpirun(transport: str, name: str, launched: Callable[[str], list[spawn.Saved]]) -> None:
    saved = [rank[f"{transport}/{name}"].tolist() for rank in launched(transport)]
    refused(name, [(error, said, float(seconds)) for error, said, seconds in saved])


@pytest.mark.parametrize("size", [2, 3, 6])
def test_nodes_that_differ(size: int) -> None:
    """With one world for the node and one across, a rank that differs is refused by those that never meet it too."""

    def run(world: gossip.World) -> tuple[str, str, float]:
        model = network(width=5 if world.rank == world.size - 1 else 3)
        averager = gossip.PushSum(world.across, topologies.exponential(world.across.size))
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        return refusal(
            lambda _: gossip.GossipOptimizer(base, averager, gradients=world.node, module=model),
            world,
        )

    hosts = [f"host {rank * 3 // size}" for rank in range(size)]
    ranks = testing.run(size, run, hosts=hosts, timeout=5)
    assert {error for error, _, _ in ranks} == {"Disagreement"}
    assert all("'1.weight' of shape" in said for _, said, _ in ranks)


PART = """
import gossip, torch
world = gossip.init(timeout=12)
if world.rank:
    part = world.group([1, 2])
    model = torch.nn.Linear(2, world.rank)
    gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), gossip.ExactAverage(part), module=model)
world.barrier()
"""


@pytest.mark.slow
def test_disagreement_of_some_ranks_is_printed_once() -> None:
    """Rank 0 takes no part in it, and so cannot be the one that says it; the job ends with a code, at once."""
    outcome = spawn.run_mpirun(3, ["-c", PART])
    assert outcome.code
    assert outcome.output.count("Disagreement: ranks disagree") == 1
    assert "PeerTimeout" not in outcome.output
