"""A run whose checkpoint an older version wrote: `python -m workers.reference FOLDER` writes it with the present one.

`tests/support/reference/checkpoint-0.1` holds a run of gossip 0.1.0 (checkpoint format 3): the checkpoint after
`SAVED` steps, and in `numbers.npz` the numbers of each rank after `STEPS` uninterrupted steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch

import gossip
import slowmo
import topologies
from gossip import testing

SIZE, SAVED, STEPS = 2, 7, 16


class Training:
    """SlowMo around OSGP on two ranks whose weights are not 1, with a target for each rank."""

    def __init__(self, world: gossip.World) -> None:
        self.rank = world.rank
        self.model = torch.nn.Linear(3, 2)
        with torch.no_grad():
            for number, parameter in enumerate(self.model.parameters()):
                parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) / 8 - number)
        graph = nx.DiGraph()
        for rank in range(world.size):
            graph.add_edge(rank, (rank + 1) % world.size, weight=0.625 if rank else 0.25)
        averager = gossip.PushSum(world, topologies.from_networkx(graph), overlap=1)
        base = torch.optim.SGD(self.model.parameters(), lr=0.125, momentum=0.5)
        self.optimizer = slowmo.SlowMo(
            gossip.GossipOptimizer(base, averager), gossip.ExactAverage(world), period=5, momentum=0.5
        )
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 4, 0.75)

    def train(self, steps: range) -> None:
        """Elementwise arithmetic only, whose bits do not depend on a library of matrix products."""
        for step in steps:
            for parameter in self.model.parameters():
                parameter.grad = parameter.detach() - (self.rank + step / 4)
            self.optimizer.step()
            self.scheduler.step()

    def numbers(self) -> dict[str, np.ndarray[Any, Any]]:
        """The weight, parameters and momenta of this rank, before and after settling."""
        found = {"weight": np.array(self.optimizer.weight)}
        for when in ("now", "settled"):
            tensors = list(self.model.parameters())
            tensors += [self.optimizer.state[parameter]["momentum_buffer"] for parameter in self.model.parameters()]
            found[when] = torch.cat([tensor.detach().double().view(-1) for tensor in tensors]).numpy()
            self.optimizer.settle()
        return found

    def parts(self) -> dict[str, Any]:
        """The objects that `gossip.checkpoint` saves and loads, by name."""
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


def write(folder: Path) -> None:
    """The checkpoint, the numbers that the run ends with, and the model of all ranks at the checkpoint."""

    def run(world: gossip.World) -> dict[str, np.ndarray[Any, Any]]:
        training = Training(world)
        training.train(range(SAVED))
        gossip.checkpoint.save(folder, world, SAVED, **training.parts(), position={"batch": SAVED})
        training.train(range(SAVED, STEPS))
        return training.numbers()

    ranks = testing.run(SIZE, run)
    numbers = {f"{rank}/{name}": each for rank, found in enumerate(ranks) for name, each in found.items()}
    consensus = {f"consensus/{name}": each.numpy() for name, each in gossip.checkpoint.consensus(folder).items()}
    np.savez(folder / "numbers.npz", **numbers, **consensus)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
