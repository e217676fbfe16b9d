"""Facts on the MPI library, whether it runs or not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from .gpu.routes import supported
from .ulfm import is_chosen


def library() -> str:
    """The library that mpi4py loads, its abilities where it runs, and the mpirun that a shell would start."""
    try:
        import mpi4py

        before, mpi4py.rc.initialize = mpi4py.rc.initialize, False
        try:
            from mpi4py import MPI
        finally:
            mpi4py.rc.initialize = before
    except (ImportError, RuntimeError) as error:
        return f"none ({error}); mpirun: {_mpirun()}"
    said = [MPI.Get_library_version().partition(",")[0].strip("\0 \n"), f"mpirun: {_mpirun()}"]
    if MPI.Is_initialized():
        kinds = [kind for kind in ("cuda", "rocm") if supported(MPI, MPI.COMM_WORLD, kind)]
        said.append(f"GPU memory: {', '.join(kinds) or 'through the host'}")
        said.append(f"a death {'is survived' if is_chosen() else 'ends the job'}")
    return "; ".join(said)


def _mpirun() -> str:
    path = shutil.which("mpirun")
    if path is None:
        beside = Path(sys.executable).with_name("mpirun")
        return f"none on the PATH{f', and {beside}' if beside.exists() else ''}"
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path}, which does not start ({error})"
    return ", ".join([path, *(told.stdout or told.stderr).splitlines()[:1]])
