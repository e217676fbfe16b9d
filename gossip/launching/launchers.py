"""The launcher that started this process, and the process's rank, read from the environment alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import UsageError

TORCH = "torch.distributed"
"""The launcher's name if the program itself has started the ranks and initialised torch.distributed."""


class Launcher(NamedTuple):
    """A launcher, and the place that it gave this process: rank and size in the job, and the same on this host.

    0 <= rank < size and 0 <= local_rank < local_size <= size. Plain `python` is rank 0 of 1 with the name "none".
    """

    name: str  # "openmpi", "mpich", "torchrun", "srun", "torch.distributed" or "none"
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    gpu: int | None = None  # the one that the program has chosen by itself


# A launcher, and the variables that name a process's rank, size, local rank and local size.
_Variables = tuple[str, str, str, str, str]
_TORCHRUN = ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPICH = ("mpich", "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")
_HYDRA = ("mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_OMPI = "OMPI_COMM_WORLD_"
_OPENMPI = ("openmpi", f"{_OMPI}RANK", f"{_OMPI}SIZE", f"{_OMPI}LOCAL_RANK", f"{_OMPI}LOCAL_SIZE")


def detect(environ: Mapping[str, str] = os.environ) -> Launcher:
    """Read the launcher and the rank of this process."""
    # Launchers nest: `srun` starts `torchrun`, and `mpirun` runs inside an allocation of `salloc` or `sbatch`. The
    # innermost one made the ranks, so it counts.
    env = {name: text.strip() for name, text in environ.items() if text.strip()}
    if "TORCHELASTIC_RUN_ID" in env:
        return _launcher(env, _TORCHRUN)
    if f"{_OMPI}RANK" in env:
        return _launcher(env, _OPENMPI)
    # srun --mpi=pmi2 sets PMI_RANK too, but no local rank; Hydra (MPICH, Intel MPI) always sets one.
    if "MPI_LOCALRANKID" in env and "PMI_RANK" in env:
        return _launcher(env, _HYDRA)
    if "PMI_RANK" in env and not _in_step(env):
        return _launcher(env, _MPICH)
    # RANK without TORCHELASTIC_RUN_ID is set by hand or by a cluster manager, around an mpirun but inside an srun.
    if "RANK" in env:
        return _launcher(env, _TORCHRUN)
    if _in_step(env):
        return _srun(env)
    return Launcher("none")


OTHERS = ("SLURM_NTASKS", "WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE")
"""Variables in which launchers say how many ranks there are, also where they have not started this process."""


def several(environ: Mapping[str, str] = os.environ) -> str:
    """The first variable that speaks of several ranks, with its value; "" where none does.

    >>> several({"SLURM_NTASKS": "4"})
    'SLURM_NTASKS=4'
    """
    found = (name for name in OTHERS if re.fullmatch("[0-9]{1,9}", environ.get(name, "")) and int(environ[name]) > 1)
    return next((f"{name}={environ[name]}" for name in found), "")


def local_place(hosts: Sequence[str], rank: int) -> tuple[int, int]:
    """Local rank and local size of `rank`, which count the ranks with the same host name."""
    mates = [other for other, host in enumerate(hosts) if host == hosts[rank]]
    return mates.index(rank), len(mates)


def _srun(env: Mapping[str, str]) -> Launcher:
    # The step's own count: SLURM_NTASKS may be that of the allocation around it.
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
    for tasks in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        if tasks in env:
            counts = _expand(tasks, env[tasks])
            node = _number("srun", env, "SLURM_NODEID", absent=0)
            if node < len(counts):
                env = {**env, "tasks on this node": str(counts[node])}
                break
    return _launcher(env, ("srun", "SLURM_PROCID", size, "SLURM_LOCALID", "tasks on this node"))


def _in_step(env: Mapping[str, str]) -> bool:
    # An allocation alone sets SLURM_NTASKS, and a batch script also SLURM_PROCID=0: only a step has started ranks.
    step = env.get("SLURM_STEP_ID", env.get("SLURM_STEPID", ""))
    # Ids from 0xfffffff0 up are Slurm's own steps: the batch script and the shell of an interactive allocation.
    return "SLURM_PROCID" in env and re.fullmatch("[0-9]{1,10}", step) is not None and int(step) < 0xFFFFFFF0


def _launcher(env: Mapping[str, str], variables: _Variables) -> Launcher:
    name, rank, size, local_rank, local_size = variables
    r, n = _number(name, env, rank), _number(name, env, size)
    if r >= n:
        raise UsageError(
            f"{name} says {rank}={r} and {size}={n}, but the ranks of {n} go from 0 to {n - 1}: "
            "is one of the two left over from another job?"
        )
    # Without a local rank each rank is taken to be alone on its host. Without a local size all ranks are taken to be on
    # one host, so that threads are rather too few than too many.
    local_r = _number(name, env, local_rank, absent=0)
    local_n = _number(name, env, local_size, absent=n if local_rank in env else 1)
    if not local_r < local_n <= n:
        raise UsageError(
            f"{name} says that rank {r} of {n} is number {local_r} of {local_n} on its host ({local_rank}), "
            "which is impossible: is one of these left over from another job?"
        )
    return Launcher(name, r, n, local_r, local_n)


def _number(name: str, env: Mapping[str, str], variable: str, absent: int | None = None) -> int:
    text = env.get(variable)
    if text is None:
        if absent is None:
            raise UsageError(
                f"{name} did not set {variable} although its other variables are there: "
                f"start again under {name}, or unset them to run on one rank."
            )
        return absent
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(
            f"{variable}={text:.40} is no rank or number of ranks: {name} sets it to a whole number from 0 up; "
            f"start again under {name}, or unset it."
        )
    return int(text)


def _expand(variable: str, text: str) -> list[int]:
    """Tasks of each node: Slurm's "2(x3),1" is [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if match is None:
            raise UsageError(
                f"{variable}={text:.40} cannot be read: srun writes it like 2(x3),1; start again under srun."
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
