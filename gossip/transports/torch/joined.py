"""Ranks of torch.distributed or MPI that the program itself has started."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ...launching.launchers import TORCH, Launcher, local_place


def place_in_torch(timeout: float) -> Launcher | None:
    """This process's place in an initialised torch.distributed; None where there is none, or none of several ranks.

    Every rank makes this call. The GPU is the one that the process group is bound to, or the current device. Where
    ranks of one host share it, the local rank counts instead. Over Gloo there is none.
    """
    if ranks_of_torch() == 1:
        return None
    from .rendezvous import meet  # for which torch has to be built with distributed

    rank, size = dist.get_rank(), dist.get_world_size()
    store = meet(timeout, f"place/{rank}", f"{socket.gethostname()}\n{_chosen()}")
    if rank == 0:
        store.set("places", "\n".join(store.get(f"place/{other}").decode() for other in range(size)))
    words = store.get("places").decode().split("\n")
    return place(rank, words[::2], list(map(int, words[1::2])))


def place(rank: int, hosts: Sequence[str], gpus: Sequence[int]) -> Launcher:
    """The place of `rank` among ranks on these hosts, whose current devices are `gpus`, or -1."""
    local_rank, local_size = local_place(hosts, rank)
    mates = [gpu for host, gpu in zip(hosts, gpus, strict=True) if host == hosts[rank]]
    # A current device that several ranks have is what each process begins with.
    gpu = gpus[rank] if len(set(mates)) == len(mates) else local_rank
    return Launcher(TORCH, rank, len(hosts), local_rank, local_size, None if gpus[rank] < 0 else gpu)


def ranks_of_torch() -> int:
    """How many ranks torch.distributed has; 1 where it is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def ranks_of_mpi() -> int:
    """How many ranks MPI has; 1 where the program has not started it."""
    mpi = sys.modules.get("mpi4py.MPI")
    running = mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized()
    return int(mpi.COMM_WORLD.size) if mpi is not None and running else 1


def _chosen() -> int:
    """The number of this process's GPU; -1 where it uses none."""
    if not torch.cuda.is_available() or dist.get_backend() == "gloo":
        return -1
    bound = getattr(dist.group.WORLD, "bound_device_id", None)
    return int(torch.cuda.current_device() if bound is None or bound.index is None else bound.index)
