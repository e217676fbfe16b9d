"""Tells a rank from the child of a rank, which inherits the launcher's variables."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from .launchers import Launcher

VARIABLE = "GOSSIP_RANK"
"""`gossip.init` sets it for the children of this process: process id, rank, and digests of JOB and of MEETING."""

LAUNCHERS = ("mpirun", "mpiexec", "prterun", "prted", "hydra_pmi_proxy", "mpiexec.hydra", "slurmstepd")
"""Names of the processes that start ranks."""

JOB = ("PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE")
MEETING = ("MASTER_ADDR", "MASTER_PORT")

INHERITED = {
    "openmpi": "OMPI_, PMIX_ or PRTE_",
    "mpich": "PMI_, MPI_ or HYDI_",
    "srun": "SLURM_, PMI_ or PMIX_",
    "torchrun": "TORCHELASTIC_, LOCAL_ or GROUP_, and RANK and WORLD_SIZE",
}
"""For each launcher the variables that make a process a rank."""


def tell_children(launcher: Launcher) -> None:
    """Let the children of this process know that it is a rank."""
    os.environ[VARIABLE] = f"{os.getpid()} {launcher.rank} {_digest(launcher, JOB)} {_digest(launcher, MEETING)}"


def forget_children() -> None:
    """This process is no longer a rank, and a program that it starts may be one in its place."""
    os.environ.pop(VARIABLE, None)


def check_own_process(launcher: Launcher, transport: str) -> None:
    """Check that this process is no child of a rank: it would wait for absent peers, or break its parent's MPI."""
    pid, rank, job, meeting = (os.environ.get(VARIABLE, "").split() + [""] * 4)[:4]
    if not pid or pid == str(os.getpid()) or job != _digest(launcher, JOB):
        return
    if transport != "mpi" and meeting != _digest(launcher, MEETING):
        return  # children with a MASTER_ADDR of their own are a job of their own
    ancestor = 0
    for ancestor, name in ancestors():
        if str(ancestor) == pid:
            break
        if name in LAUNCHERS:
            return  # a launcher between the rank and this process
    else:
        if ancestor and transport != "mpi":
            return  # the rank that started this process has ended
    raise UsageError(
        f"process {os.getpid()} was started by rank {rank} (process {pid}), not by {launcher.name}, so it is no rank "
        "and gossip.init cannot take it into the job: call gossip.init once in each rank, under "
        "`if __name__ == '__main__':` where workers of a data loader import the script, and start other programs "
        f"without {launcher.name}'s variables: those that begin with {INHERITED[launcher.name]}"
    )


def ancestors() -> Iterator[tuple[int, str]]:
    """Process id and name of this process's parent, grandparent and so on; empty without /proc."""
    pid = os.getppid()
    while pid > 1:
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(") ")
        except OSError:  # not Linux, or it has ended
            return
        yield pid, name
        pid = int(rest.split()[1])


def _digest(launcher: Launcher, variables: tuple[str, ...]) -> str:
    said = [*map(str, launcher), *(os.environ.get(name, "") for name in variables)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
