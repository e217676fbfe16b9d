"""`gossip.init` in ranks that the program itself starts and connects by torch.distributed.

`python -m workers.joined folder`, under no launcher. Writes what came of each case, by rank.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

import gossip

CASES = ("after", "since", "at the first step", "other hosts", "missing")


def trained(world: gossip.World, step: bool = True) -> torch.optim.Optimizer:
    """An optimizer that averages over `world`, and one step of it."""
    parameter = torch.full((3,), float(world.rank), requires_grad=True)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), gossip.ExactAverage(world))
    if step:
        optimizer.step()
    return optimizer


def tried(rank: int, folder: str, case: str) -> str:
    """One of the two ranks; returns its results."""

    def join() -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{case}", rank=rank, world_size=2)

    if case == "at the first step":
        optimizer = trained(gossip.init(timeout=60), step=False)
        join()
        optimizer.step()
    elif case == "since":
        world = gossip.init(timeout=60)
        join()
        trained(world)
    elif case == "missing":
        join()
        try:
            if rank == 0:
                gossip.init(timeout=0.5)
        finally:
            dist.barrier()
    else:
        if case == "other hosts":
            socket.gethostname = lambda: f"host{rank}"
        join()
        world = gossip.init(timeout=60)
        (group,) = trained(world).param_groups
        values = group["params"][0].tolist()
        local = f"local {world.local_rank} of {world.local_size}"
        return f"rank {world.rank} of {world.size}, {local}, {world.transport}, {world.device}, {values}"
    return "trained alone" if case != "missing" or rank == 0 else "was not there"


def main(rank: int, folder: str, case: str) -> None:
    """Rank `rank`, in a process of its own."""
    try:
        said = tried(rank, folder, case)
    except gossip.GossipError as error:
        said = f"{type(error).__name__}: {error}"
    Path(folder, f"{case} {rank}.txt").write_text(said)


if __name__ == "__main__":
    for case in CASES:
        multiprocessing.start_processes(main, (sys.argv[1], case), nprocs=2, start_method="fork")
