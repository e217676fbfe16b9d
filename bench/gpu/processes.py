"""Ranks of this command on this machine, sharing its GPUs where there are fewer."""

import sys
from collections.abc import Sequence

import torch

from ..cluster import mpirun


def run(transport: str, ranks: int, arguments: Sequence[str], timeout: float) -> str | None:
    """`python -m bench arguments...` on every rank; what the ranks printed, if that did not end well."""
    environment = mpirun.environment()
    if transport == "mpi":
        command = mpirun.command(ranks)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += ["--nproc-per-node", str(ranks)]
        if torch.cuda.device_count() < ranks:  # as ranks of several hosts they speak through sockets
            environment |= {"GOSSIP_SHARED_GPU": "1", "NCCL_IB_DISABLE": "1"}
            environment.setdefault("NCCL_SOCKET_IFNAME", "lo")
    outcome = mpirun.run([*command, "-m", "bench", *arguments], timeout, environment)
    return None if outcome.code == 0 else str(outcome)
