"""`python -m workers.landing FOLDER mpi mpi/far gloo` on four ranks saves what becomes of gossip in which one stands
still and is not waited for.
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

STEPS, AHEAD = 6, 5
COUNT = 20_000
"""Parameters: with 8 bytes each more than any MPI sends at once."""


def start(rank: int) -> Any:
    """Where each rank begins, (COUNT,)."""
    return np.random.default_rng(rank).standard_normal(COUNT)


def stand_still(world: gossip.World, landing: str, overlap: int) -> dict[str, Any]:
    """All step; then the last rank waits until each of the others is AHEAD of it, and then all go on to the same step.

    That they get there shows that none of them waited for it.
    """
    word = world.channel()
    parameter = torch.zeros(COUNT, dtype=torch.float64, requires_grad=True)
    push_sum = gossip.PushSum(world, topologies.exponential(world.size), overlap, landing)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), push_sum)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(start(world.rank)))
    last = world.size - 1
    for _ in range(STEPS):
        optimizer.step()
    if world.rank == last:
        room = {peer: [torch.zeros(1)] for peer in range(last)}
        word.post({}, room, "the word that all others are ahead").wait()
    for _ in range(AHEAD):
        optimizer.step()
    if world.rank != last:
        word.post({last: [torch.zeros(1)]}, {}, "the word that this rank is ahead").wait()
    optimizer.settle()
    found = {"w": optimizer.weight, "z": parameter.detach().numpy().copy()}
    optimizer.load_state_dict(optimizer.state_dict())
    for _ in range(3 + world.rank if landing == "any" else 3):
        optimizer.step()
    optimizer.settle()
    return {**found, "later w": optimizer.weight, "later z": parameter.detach().numpy().copy()}


def main(folder: str, *transports: str) -> None:
    """Over each transport in turn, with each way to land."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in transports:
        transport, _, how = name.partition("/")
        with gossip.init(transport, timeout=60) as world:
            rank = world.rank
            speak(world, how, chunk=9999)
            for landing, overlap in (("any", 0), ("early", AHEAD)):
                for what, values in stand_still(world, landing, overlap).items():
                    results[f"{name}/{landing}/{what}"] = values
    np.savez(Path(folder) / f"{rank}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
