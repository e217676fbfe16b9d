"""The JSON that every command writes: its settings, the machine, the date, the versions and the figures."""

import argparse
import importlib.metadata
import json
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import gossip
from gossip import World
from gossip.launching import cores
from gossip.launching.launchers import Launcher

MPIRUN = "mpirun -n {} "
STARTS = {"openmpi": MPIRUN, "mpich": MPIRUN, "torchrun": "torchrun --nproc-per-node {} ", "srun": "srun -n {} "}


def write(given: argparse.Namespace, launcher: Launcher, path: Path, **found: Any) -> None:
    """Write the figures, with everything that is needed to read them. Rank 0 does so."""
    settings = {name: value for name, value in vars(given).items() if name != "command"}
    what = {"benchmark": given.command, **facts(launcher), "ranks": launcher.size, "settings": settings, **found}
    text = json.dumps(what, indent=2, default=str)
    # A list of numbers on one line, however long.
    path.write_text(re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


def facts(launcher: Launcher) -> dict[str, Any]:
    """The command as far as a rank can know it, the date, the machine of rank 0 and the versions."""
    python = "" if launcher.name == "torchrun" else "python "
    own = python + shlex.join(["-m", "bench", *sys.argv[1:]])
    versions = {"gossip-runtime": gossip.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in ("torch", "numpy", "networkx", "mpi4py")}
    if mpi := sys.modules.get("mpi4py.MPI"):
        versions["mpi"] = mpi.Get_library_version().partition(",")[0].strip("\0 \n")
    return {
        "command": STARTS.get(launcher.name, "").format(launcher.size) + own,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": cores.bound(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def gather(world: World, value: Any) -> list[Any]:
    """The value of every rank, by rank, on every rank; anything that JSON can hold."""
    return [json.loads(data) for data in world.all_gather(json.dumps(value).encode())]


def highest(ranks: Sequence[Mapping[str, float]], key: str) -> float:
    """The slowest rank's figure."""
    return max(float(rank[key]) for rank in ranks)
