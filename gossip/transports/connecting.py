"""Connects the ranks of a job for `gossip.init`: finds the launcher, chooses the transport and the device."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch

from ..checks import check_choice, deadline
from ..errors import TransportUnavailable, UsageError
from ..launching.children import check_own_process
from ..launching.launchers import TORCH, Launcher, detect
from .communicator import Communicator
from .memory import MemoryBackend, Network
from .torch.joined import check_process_group, place_in_torch, ranks_of_mpi, ranks_of_torch

TRANSPORTS = ("auto", "mpi", "gloo", "nccl")

SHARED = "GOSSIP_SHARED_GPU"
"""If set to 1, ranks may share a GPU over NCCL, which takes them for ranks of different hosts: for tests, and slow."""

TIMEOUT = "GOSSIP_TIMEOUT"
"""The seconds of a world's deadline, if the script names none."""


def find_launcher(timeout: float, process_group: Any) -> Launcher:
    """The launcher and this process's rank, from torch.distributed if no launcher started other ranks.

    The ranks of a `process_group` have their places in it, whatever launcher started them.
    """
    if process_group is not None:
        return place_in_torch(timeout, process_group)
    try:
        launcher = detect()
    except UsageError:
        if ranks_of_torch() == 1:
            raise
        launcher = Launcher("none")  # the program has set some of torchrun's variables
    return place_in_torch(timeout) if launcher.size == 1 and ranks_of_torch() > 1 else launcher


def start_torch(timeout: float) -> Launcher:
    """Initialise torch.distributed with the launcher's ranks, unless the program has: for frameworks that use it.

    Its default group carries host data over Gloo, and that of GPUs over NCCL where every rank has one.
    """
    launcher = find_launcher(deadline(timeout), None)
    if launcher.size > 1 and ranks_of_torch() == 1:
        check_own_process(launcher, "gloo")
        from .torch.rendezvous import connect as connect_torch

        connect_torch(launcher, timeout, "cpu:gloo,cuda:nccl" if _gpu_each(launcher) else "gloo")
    return launcher


def requested(transport: str, process_group: Any = None) -> str:
    """The given transport; for "auto" that of GOSSIP_TRANSPORT, if it is set. MPI carries no `process_group`."""
    check_choice("transport", transport, TRANSPORTS)
    if transport == "auto":
        transport = os.environ.get("GOSSIP_TRANSPORT") or "auto"
        check_choice("GOSSIP_TRANSPORT", transport, TRANSPORTS)
    if process_group is not None:
        check_process_group(process_group)
        if transport == "mpi":
            raise UsageError(
                "transport 'mpi' cannot carry a process group of torch.distributed: choose 'gloo' or 'nccl' for "
                "process_group=..., or leave process_group out to take the ranks of MPI"
            )
    return transport


def deadline_of(timeout: float | None) -> float:
    """The given seconds; for None those of GOSSIP_TIMEOUT, if it is set, or 300."""
    if timeout is not None:
        return deadline(timeout)
    text = os.environ.get(TIMEOUT) or "300"
    try:
        return deadline(float(text), TIMEOUT)
    except ValueError:
        return deadline(text, TIMEOUT)


def default_transport(launcher: Launcher) -> str:
    """The name of the transport if none was requested."""
    if launcher.name == "none":
        return "memory" if ranks_of_mpi() == 1 else "mpi"
    if launcher.name == TORCH and launcher.gpu is None:
        return "gloo"
    if _gpu_each(launcher):
        return "nccl"
    if launcher.name == "srun":
        # srun starts MPI programs through PMI; without it the ranks would each be an MPI world of their own.
        return "mpi" if any(name in os.environ for name in ("PMIX_RANK", "PMI_RANK")) else "gloo"
    return "gloo" if launcher.name in ("torchrun", TORCH) else "mpi"


def connect(name: str, launcher: Launcher, timeout: float, process_group: Any) -> Communicator:
    """The transport between all ranks, on channels that no other world of this process uses."""
    if name == "memory":
        return Communicator.over(MemoryBackend(Network(), 0, 1, timeout), timeout)
    if name == "mpi":
        from .mpi.backend import MpiBackend

        everyone = Communicator.over(MpiBackend.shared(timeout), timeout)
        if everyone.size != launcher.size and launcher.name != "none":
            starter = "srun --mpi=pmix" if launcher.name == "srun" else "the mpirun that belongs to this mpi4py's MPI"
            raise TransportUnavailable(
                f"{launcher.name} started {launcher.size} processes, but MPI sees {everyone.size}: launch with "
                f"{starter}, or choose transport='gloo'"
            )
        return everyone.group(range(everyone.size))
    if name == "nccl" and not _gpu_each(launcher):
        if not torch.cuda.is_available() or os.environ.get(SHARED) != "1":
            raise TransportUnavailable(
                "transport 'nccl' needs CUDA and a GPU for each rank, and each of the "
                f"{launcher.local_size} rank(s) of this host sees {torch.cuda.device_count()} GPU(s): choose 'mpi' or "
                "'gloo', over MPI also on a GPU that ranks share, or start fewer ranks here"
            )
        os.environ["NCCL_HOSTID"] = f"{socket.gethostname()}, rank {launcher.rank}"
    from .torch.backend import TorchBackend
    from .torch.rendezvous import connect as connect_torch

    if process_group is None:
        connect_torch(launcher, timeout)
    return Communicator.over(TorchBackend(name, timeout, device_of(name, launcher), process_group), timeout)


def device_of(name: str, launcher: Launcher) -> torch.device:
    """The GPU of the local rank, or the CPU; a launcher may show each rank only its own GPU."""
    if name != "gloo" and torch.cuda.is_available():
        gpu = launcher.local_rank if launcher.gpu is None else launcher.gpu
        device = torch.device("cuda", gpu % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


def _gpu_each(launcher: Launcher) -> bool:
    """Whether every rank of this host has a GPU to itself; Slurm may show each rank only its own."""
    return torch.cuda.is_available() and (
        torch.cuda.device_count() >= launcher.local_size or "SLURM_GPUS_PER_TASK" in os.environ
    )
