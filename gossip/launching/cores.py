"""The number of cores that one rank may use for its threads."""

from __future__ import annotations

import math
import os
from pathlib import Path

from .launchers import Launcher


def share(launcher: Launcher) -> int:
    """Cores for this rank, at least 1: the host's cores divided by its ranks, and at most those it is bound to."""
    mine = bound()
    if launcher.name == "srun" and os.environ.get("SLURM_CPUS_ON_NODE", "").isdigit():
        host = float(os.environ["SLURM_CPUS_ON_NODE"])
    else:
        # A launcher binds the ranks and not itself: the ranks share the launcher's cores. Cores of a rank that is bound
        # to a part of them must not be divided once more.
        host = max(mine, bound(os.getppid()))
    return max(1, min(mine, int(min(host, quota()) // launcher.local_size)))


def bound(process: int = 0) -> int:
    """Cores that a process is bound to, by default this one; at least 1."""
    if not hasattr(os, "sched_getaffinity"):  # macOS binds no processes
        return os.cpu_count() or 1
    try:
        return len(os.sched_getaffinity(process))
    except OSError:  # the parent has ended, or belongs to somebody else
        return 1


def quota(processes: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """CPU time limit of this process's control groups, in cores; infinite without a limit."""
    limits = [math.inf]
    try:
        memberships = processes.read_text().splitlines()
    except OSError:  # not Linux
        return math.inf
    for membership in memberships:
        _, controllers, group = membership.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            below = Path(group.lstrip("/"))
            # The limits of parent groups apply too.
            limits += [_limit(root / controllers / folder) for folder in (below, *below.parents)]
    return min(limits)


def _limit(folder: Path) -> float:
    """The limit of one control group, in cores."""
    limit, period = "max", "0"
    try:
        if (folder / "cpu.max").exists():  # version 2: "max 100000" or "150000 100000", microseconds
            limit, period = (folder / "cpu.max").read_text().split()
        elif (folder / "cpu.cfs_quota_us").exists():  # version 1: -1 is no limit
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:  # not readable for this user
        return math.inf
    return int(limit) / int(period) if limit != "max" and int(limit) > 0 and int(period) > 0 else math.inf
