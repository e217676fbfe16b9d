"""Ranks of torch.distributed or MPI that the program itself has started."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from ...checks import shown
from ...errors import UsageError
from ...launching.launchers import TORCH, Launcher, local_place


def place_in_torch(timeout: float, process_group: dist.ProcessGroup | None = None) -> Launcher:
    """This process's place in a process group of torch.distributed, by default in that of all ranks.

    Every rank of it makes this call. The GPU is the one that the process group is bound to, or the current device.
    Where ranks of one host share it, the local rank counts instead. Over Gloo there is none.
    """
    from .rendezvous import meet  # for which torch has to be built with distributed

    rank, size = dist.get_rank(process_group), dist.get_world_size(process_group)
    store = meet(timeout, f"place/{rank}", f"{socket.gethostname()}\n{_chosen(process_group)}", process_group)
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


def check_process_group(process_group: Any) -> None:
    """Check that this process is a rank of `process_group`."""
    sentence = (
        f"process_group is {shown(process_group)}, but it is a ProcessGroup of torch.distributed that has this process "
        "as a rank: take it from torch.distributed.new_group, and call gossip.init in its ranks only"
    )
    if not dist.is_available() or not isinstance(process_group, dist.ProcessGroup):
        raise UsageError(sentence)
    try:
        dist.get_rank(process_group)
    except ValueError as error:  # it was destroyed, or another library made it
        raise UsageError(f"{sentence} ({error})") from error


def ranks_of_torch() -> int:
    """How many ranks torch.distributed has; 1 where it is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def ranks_of_mpi() -> int:
    """How many ranks MPI has; 1 where the program has not started it."""
    mpi = sys.modules.get("mpi4py.MPI")
    running = mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized()
    return int(mpi.COMM_WORLD.size) if mpi is not None and running else 1


def _chosen(process_group: dist.ProcessGroup | None) -> int:
    """The number of this process's GPU; -1 where it uses none."""
    if not torch.cuda.is_available() or dist.get_backend(process_group) == "gloo":
        return -1
    bound = getattr(process_group or dist.group.WORLD, "bound_device_id", None)
    return int(torch.cuda.current_device() if bound is None or bound.index is None else bound.index)
