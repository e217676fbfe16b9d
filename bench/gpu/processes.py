"""Ranks of this command on this machine, sharing its GPUs where there are fewer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import torch

from .. import mpirun

LAST = 5000
"""Characters of what a failed process set printed."""

END = 30.0
"""Seconds that a launcher which is asked to end has for its ranks."""


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
    with subprocess.Popen(
        [*command, "-m", "bench", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
            said = f"ended with code {process.returncode}"
        except subprocess.TimeoutExpired:
            said = f"did not end within {timeout:g} s"
            process.terminate()
            try:
                output, _ = process.communicate(timeout=END)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
    return None if said == "ended with code 0" else f"{said}\n{output.decode(errors='replace')[-LAST:]}"
