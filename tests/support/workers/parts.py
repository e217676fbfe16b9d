"""`python -m workers.parts FOLDER mpi mpi/far gloo` on four ranks saves the results of two kinds of gossip.

Two ranks carry each message together in the first, and each rank carries its own in the second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gossip
import topologies
from workers.contract import speak

STEPS = 6
CASES: list[tuple[int, str | None]] = [(0, None), (1, None), (1, "int8")]
"""Overlap and wire."""
COUNT = 20_000
"""Parameters: with 8 bytes each more than any MPI sends at once."""


def drawn(seed: int) -> torch.Tensor:
    """Where a rank pulls in a step, (COUNT,)."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(COUNT))


def in_parts(world: gossip.World, overlap: int, wire: str | None, parts: bool) -> Any:
    """Ranks 0 and 1 play one host, 2 and 3 another: what this rank holds after some steps, (COUNT,)."""
    node = world.group([0, 1] if world.rank < 2 else [2, 3])
    across = world.group([0, 2] if world.rank % 2 == 0 else [1, 3])
    uneven = topologies.from_matrix(np.array([[0.5, 0.2], [0.5, 0.8]]))
    push_sum = gossip.PushSum(across, uneven, overlap, wire=wire, node=node if parts else None)
    parameter = torch.zeros(COUNT, dtype=torch.float64, requires_grad=True)
    base = torch.optim.SGD([parameter], lr=0.1)
    optimizer = gossip.GossipOptimizer(base, push_sum, gradients=node)
    for step in range(STEPS):
        parameter.grad = parameter.detach() - drawn(world.rank + 4 * step)
        optimizer.step()
    optimizer.settle()
    return parameter.detach().numpy().copy()


def main(folder: str, *transports: str) -> None:
    """Over each transport in turn."""
    torch.set_num_threads(1)
    gossip.transports.collective.sums.PIECE = 9_999
    results: dict[str, Any] = {}
    for name in transports:
        transport, _, how = name.partition("/")
        with gossip.init(transport, timeout=60) as world:
            speak(world, how, chunk=9999)
            for overlap, wire in CASES:
                for parts in (True, False):
                    results[f"{name}/{overlap}/{wire}/{parts}"] = in_parts(world, overlap, wire, parts)
    np.savez(Path(folder) / f"{world.rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
