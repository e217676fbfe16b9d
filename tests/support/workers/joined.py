"""`gossip.init` in ranks that the program itself starts and connects by torch.distributed.

`python -m workers.joined folder`, under no launcher. Writes what came of each case, by rank.
"""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from spawn import free_port
from torch import multiprocessing

import gossip

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
SHAPES = {"mp.spawn": PLACE[:0], "debug_launcher": PLACE[2:3], "Lightning": PLACE[1:3], "Ray Train": PLACE}
"""The variables beside MASTER_ADDR and MASTER_PORT that a process has when torch.distributed is initialised in it."""

CASES = {**dict.fromkeys(["after", "since", "at the first step", "other hosts", "missing", *SHAPES], 2), "group": 3}
"""The number of ranks of each case."""


def trained(world: gossip.World, step: bool = True) -> torch.optim.Optimizer:
    """An optimizer that averages over `world`, and one step of it."""
    parameter = torch.full((3,), float(world.rank), requires_grad=True)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), gossip.ExactAverage(world))
    if step:
        optimizer.step()
    return optimizer


def place(world: gossip.World) -> str:
    """This rank's place in `world`, and its values after a step."""
    (group,) = trained(world).param_groups
    values = group["params"][0].tolist()
    local = f"local {world.local_rank} of {world.local_size}"
    return f"rank {world.rank} of {world.size}, {local}, {world.transport}, {world.device}, {values}"


def of_groups(rank: int) -> str:
    """Ranks 0 and 2 form a world, twice; rank 1 is refused there, and trains alone in a group of its own."""
    pair = dist.new_group([0, 2])
    if rank == 1:
        alone = gossip.init(timeout=60, process_group=dist.new_group([1], use_local_synchronization=True))
        said = place(alone)
        alone.close()
        gossip.init(timeout=60, process_group=pair)
        return said
    for world in (gossip.init(timeout=60, process_group=pair) for _ in range(2)):
        said = place(world)
        world.close()
    dist.destroy_process_group(pair)
    try:
        gossip.init(process_group=pair)
    except gossip.UsageError as error:
        said += f"; {error}"
    try:
        gossip.init("mpi", process_group=dist.group.WORLD)
    except gossip.UsageError as error:
        said += f"; {error}"
    return said


def tried(rank: int, folder: str, case: str) -> str:
    """One of the ranks; returns its results."""
    size = CASES[case]

    def join() -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{case}", rank=rank, world_size=size)

    if case in SHAPES:
        os.environ.update({name: str(rank if name.endswith("RANK") else size) for name in SHAPES[case]})
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=timedelta(seconds=60))
        return place(gossip.init(timeout=60))
    if case == "group":
        join()
        return of_groups(rank)
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
        return place(gossip.init(timeout=60))
    return "trained alone" if case != "missing" or rank == 0 else "was not there"


def main(rank: int, folder: str, case: str) -> None:
    """Rank `rank`, in a process of its own."""
    try:
        said = tried(rank, folder, case)
    except gossip.GossipError as error:
        said = f"{type(error).__name__}: {error}"
    Path(folder, f"{case} {rank}.txt").write_text(said)


if __name__ == "__main__":
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    for case, size in CASES.items():
        os.environ["MASTER_PORT"] = str(free_port())
        multiprocessing.start_processes(main, (sys.argv[1], case), nprocs=size, start_method="fork")
