"""A model that goes to another process while a round is in flight; saves what each rank then holds, by transport."""

from __future__ import annotations

import multiprocessing.reduction
import sys
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing

import gossip
import topologies

ELEMENTS = 100_000


def run(world: gossip.World) -> dict[str, list[float]]:
    """Rank 1 makes its first step when rank 0 has shared its model, and what was there before is overwritten."""
    model = torch.nn.Linear(ELEMENTS, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    averager = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD(model.parameters(), lr=0.0), averager, module=model)
    seen = []
    for step in range(3):
        if step == 0 and world.rank == 1:
            world.barrier()
        optimizer.step()
        if step == 0 and world.rank == 0:
            pickled = multiprocessing.reduction.ForkingPickler.dumps(model.state_dict())
            others = [torch.full((ELEMENTS,), 7.0) for _ in range(20)]
            world.barrier()
            assert len(pickled) > 0
            assert len(others) > 0
            assert model.weight.is_shared()
        seen += [model.weight.min().item(), model.weight.max().item()]
    optimizer.settle()
    return {world.transport: [*seen, model.weight.min().item(), model.weight.max().item()]}


if __name__ == "__main__":
    results: dict[str, list[float]] = {}
    for transport in ("mpi", "gloo"):
        with gossip.init(transport, timeout=60) as world:
            results |= run(world)
            rank = world.rank
    np.savez(Path(sys.argv[1]) / f"{rank}.npz", **{name: np.array(seen) for name, seen in results.items()})
