"""Averagers together and over sub-worlds: mass is kept, ranks that disagree all hear of it, and exits are clean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
import spawn
import torch

import gossip
import topologies
from gossip import testing

HOSTS = ["a", "a", "b", "b"]


def mass_after(world: gossip.World, averager: gossip.Averager, steps: int) -> tuple[float, float]:
    """(w, w·z) of this rank after gossip alone, from z = rank²."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), averager)
    with torch.no_grad():
        parameter.fill_(float(world.rank) ** 2)
    for _ in range(steps):
        optimizer.step()
    optimizer.settle()
    return optimizer.weight, optimizer.weight * parameter.item()


STAR = topologies.from_networkx(nx.star_graph(2))  # doubly stochastic, and its ranks keep different shares


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda world: gossip.PushSum(world, STAR, overlap=1), id="overlap 1"),
        pytest.param(lambda world: gossip.PushSum(world, STAR, overlap=2), id="overlap 2"),
        pytest.param(
            lambda world: gossip.Chain(gossip.PushSum(world, STAR, 1), gossip.PushSum(world, STAR, 1)), id="chain"
        ),
    ],
)
def test_mass_is_kept_where_ranks_keep_different_shares(build: Callable[[gossip.World], gossip.Averager]) -> None:
    ranks = testing.run(3, lambda world: mass_after(world, build(world), steps=7))
    assert sum(weight for weight, _ in ranks) == pytest.approx(3, abs=1e-12)
    assert sum(product for _, product in ranks) == pytest.approx(0 + 1 + 4, abs=1e-12)


def test_an_exact_average_over_a_node_keeps_what_the_node_holds() -> None:
    """Unbalanced gossip across hosts leaves one host heavier than the other; averaging inside must not undo it."""
    uneven = nx.DiGraph([(0, 1, {"weight": 0.5}), (1, 0, {"weight": 0.2})])

    def run(world: gossip.World) -> tuple[float, float]:
        across = gossip.PushSum(world.across, topologies.from_networkx(uneven))
        return mass_after(world, gossip.Chain(across, gossip.Every(2, gossip.ExactAverage(world.node))), steps=60)

    ranks = testing.run(4, run, hosts=HOSTS)
    assert sum(product for _, product in ranks) == pytest.approx(0 + 1 + 4 + 9, abs=1e-9)
    assert [product / weight for weight, product in ranks] == pytest.approx([14 / 4] * 4, abs=1e-6)


def test_ranks_in_different_numbers_of_worlds_hear_one_verdict() -> None:
    """Only the first rank of each host averages across hosts: every rank refuses that, and none waits for another."""

    def run(world: gossip.World) -> tuple[str, bool]:
        averager = gossip.ExactAverage(world.across) if world.local_rank == 0 else gossip.NoAverage()
        sgd = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
        with pytest.raises(gossip.Disagreement) as refused:
            gossip.GossipOptimizer(sgd, averager, gradients=world.node)
        return str(refused.value), refused.value.speaks

    ranks = testing.run(4, run, hosts=HOSTS, timeout=20)
    assert len({sentence for sentence, _ in ranks}) == 1
    assert [speaks for _, speaks in ranks] == [True, False, False, False]


@pytest.mark.slow
def test_a_run_that_does_not_settle_ends_cleanly(tmp_path: Path) -> None:
    """MPI must not write a message that is still on its way into memory that the interpreter has freed."""
    script = tmp_path / "script.py"
    script.write_text(
        "import gossip, topologies, torch\n"
        "world = gossip.init('mpi', timeout=20)\n"
        "p = torch.nn.Parameter(torch.zeros(5_000_000))\n"
        "averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)\n"
        "optimizer = gossip.GossipOptimizer(torch.optim.SGD([p], lr=0.1), averager)\n"
        "for _ in range(3):\n"
        "    optimizer.step()\n"
    )
    outcome = spawn.run_mpirun(3, [str(script)])
    assert outcome.code == 0, outcome.output
