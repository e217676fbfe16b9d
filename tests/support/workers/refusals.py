"""Cases that ranks must refuse, each tried on this one of several ranks: `python -m workers.refusals FOLDER mpi`."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch

import gossip
import slowmo
import topologies

SIZE = 3
DEADLINE = 1.0


def network(rank: int = 0, width: int = 3, dtype: torch.dtype = torch.float32, layers: int = 2) -> torch.nn.Module:
    """Filled with the number of the rank."""
    parts = [torch.nn.Linear(3, 3), torch.nn.Linear(3, width), *(torch.nn.Linear(3, 3) for _ in range(layers - 2))]
    model = torch.nn.Sequential(*parts).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(rank)
    return model


def wrap(
    world: gossip.World,
    model: torch.nn.Module | None = None,
    topology: topologies.Topology | None = None,
    base: type[torch.optim.Optimizer] = torch.optim.SGD,
    overlap: int = 1,
    **options: Any,
) -> gossip.GossipOptimizer:
    """OSGP, but for what a case changes."""
    model = model if model is not None else network()
    averager = gossip.PushSum(world, topology or topologies.complete(world.size), overlap=overlap)
    return gossip.GossipOptimizer(base(model.parameters(), lr=0.1), averager, module=model, **options)  # type: ignore[call-arg]


def slow(world: gossip.World, model: torch.nn.Module | None = None, **options: Any) -> slowmo.SlowMo:
    """SlowMo over it."""
    return slowmo.SlowMo(wrap(world, model), gossip.ExactAverage(world), **options)


def _moved(world: gossip.World, move: Callable[[torch.nn.Module], Any]) -> None:
    model = network()
    optimizer = wrap(world, model)
    optimizer.step()
    optimizer.settle()
    world.barrier()
    move(model)
    optimizer.step()


def _slowmo_unequal(world: gossip.World) -> None:
    model = network()
    optimizer = slow(world, model)
    with torch.no_grad():
        model[1].bias += world.rank == 1
    optimizer.step()


def _grown_apart(world: gossip.World) -> None:
    optimizer = wrap(world)
    optimizer.step()
    optimizer.add_param_group({"params": torch.nn.Linear(2, 2 + (world.rank == 2)).parameters()})


def _another_round(world: gossip.World) -> None:
    optimizer = wrap(world)
    before = copy.deepcopy(optimizer.state_dict())
    for _ in range(2):
        optimizer.step()
    optimizer.settle()
    if world.rank == 1:
        optimizer.load_state_dict(before)
    optimizer.step()
    optimizer.settle()


def _silent(world: gossip.World) -> None:
    optimizer = wrap(world)
    for _ in range(3):
        optimizer.step()
    if world.rank == 2:
        OWED.append(optimizer)
    else:
        for _ in range(3):
            optimizer.step()


OWED: list[gossip.GossipOptimizer] = []
"""Optimizers that owe a step, for which others waited until the deadline; they still have a receive open."""


def _islands() -> topologies.Topology:
    graph = nx.DiGraph([(0, 1), (1, 0)])
    graph.add_node(2)
    return topologies.from_networkx(graph)


Case = Callable[[gossip.World], object]
CASES: dict[str, Case] = {
    "another shape": lambda world: wrap(world, network(width=5 if world.rank == 2 else 3)),
    "another dtype": lambda world: wrap(world, network(dtype=torch.float64 if world.rank == 1 else torch.float32)),
    "more layers": lambda world: wrap(world, network(layers=3 if world.rank == 1 else 2)),
    "another topology": lambda world: wrap(
        world, topology=topologies.ring(SIZE) if world.rank == 2 else topologies.exponential(SIZE)
    ),
    "another size": lambda world: wrap(world, topology=topologies.ring(4)),
    "unconnected": lambda world: wrap(world, topology=_islands()),
    "another overlap": lambda world: wrap(world, overlap=world.rank % 2),
    "another optimizer": lambda world: wrap(world, base=torch.optim.Adam if world.rank == 1 else torch.optim.SGD),
    "another start": lambda world: wrap(world, initial="check" if world.rank == 1 else "broadcast"),
    "another period": lambda world: slow(world, period=3 + (world.rank == 2)),
    "another slow momentum": lambda world: slow(world, momentum=0.5 + 0.1 * world.rank),
    "another averager": lambda world: slowmo.SlowMo(
        torch.optim.SGD(network().parameters(), lr=0.1),
        gossip.ExactAverage(world) if world.rank else gossip.Every(1, gossip.ExactAverage(world)),
    ),
    "unequal start": lambda world: wrap(world, network(world.rank), initial="check"),
    "unequal first step": _slowmo_unequal,
    "grown apart": _grown_apart,
    "moved": lambda world: _moved(world, lambda model: model.double()),
    "assigned": lambda world: _moved(world, lambda model: setattr(model[1].bias, "data", torch.zeros(3))),
    "another round": _another_round,
    "silent": _silent,  # the last: its channel is of no use any more
}


def refusal(case: Case, world: gossip.World) -> tuple[str, str, float]:
    """Class and text of what a case was refused with, and the seconds that took."""
    began = time.monotonic()
    try:
        case(world)
    except (gossip.GossipError, topologies.TopologyError) as error:
        return type(error).__name__, str(error), time.monotonic() - began
    return "nothing", "", time.monotonic() - began


def main(folder: str, *transports: str) -> None:
    """All cases in one world, which goes on after each."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for transport in transports:
        world = gossip.init(transport, timeout=60)
        patience = gossip.init(transport, timeout=DEADLINE)
        for name, case in CASES.items():
            results[f"{transport}/{name}"] = np.array(refusal(case, patience if name == "silent" else world))
        world.barrier()
        for optimizer in OWED:  # a thread that comes back from Gloo while the interpreter goes down aborts the process
            optimizer.step()
            optimizer.settle()
        OWED.clear()
        world.close()
    np.savez(Path(folder) / f"{world.rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
