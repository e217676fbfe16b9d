"""`python -m gossip` prints what a report of a fault needs: versions, MPI, GPUs, interfaces, and the ranks of a job."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from topologies import __version__

from .errors import GossipError, UsageError
from .launching import cores
from .launching.launchers import Launcher, detect
from .transports.connecting import default_transport, requested
from .transports.deadlines import called
from .transports.mpi.facts import library
from .transports.torch.interfaces import addresses
from .world import init

_EPILOG = """\
examples:
  python -m gossip                                        this machine
  mpirun -n 8 --hostfile hosts python -m gossip           all machines of a job; what differs between ranks is shown
  srun --mpi=pmix -n 8 python -m gossip
  torchrun --nproc-per-node 4 -m gossip

exit code: 0; 1 where the ranks do not meet, with the reason; 2 for wrong options.
"""

VARIABLES = re.compile(
    "GOSSIP_(?!RANK)|OMP_NUM_THREADS|MASTER_(ADDR|PORT)$|GLOO_|NCCL_|CUDA_VISIBLE_DEVICES|PRTE_MCA_|PMIX_MCA_|"
    "OMPI_MCA_(?!PREFIXES|cpu_type|initial_wdir|num_procs)"
)
"""Beginnings of the names of variables that change what a job does, without those that launchers set for themselves."""

SECRET = "GOSSIP_SECRET"


def main() -> None:
    """Gather the facts of all ranks; rank 0 prints them."""
    parser = argparse.ArgumentParser(
        prog="python -m gossip",
        description="Print the environment: versions, MPI, GPUs, interfaces, variables, and the ranks of a job.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for the ranks to meet (60)")
    given = parser.parse_args()
    failure, launcher, every = "", Launcher("none"), {}
    try:
        launcher = detect()
        if launcher.size > 1:
            with init(timeout=given.timeout) as world:
                own = facts(launcher) | {"ranks": f"{world.size}, over {world.transport}"}
                every = dict(enumerate(map(json.loads, world.all_gather(json.dumps(own).encode()))))
            if launcher.rank > 0:
                return
    except UsageError as error:
        failure = str(error)
    except GossipError as error:
        failure = f"the ranks do not meet: {error}"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a variable may hold any bytes
    print("\n".join(lines(every or {launcher.rank: facts(launcher)})), flush=True)
    if failure:
        print(f"gossip: {failure}", file=sys.stderr)
        sys.exit(1)


def facts(launcher: Launcher) -> dict[str, str]:
    """The facts of this rank, by topic. On a broken machine an error stands in the place of a fact."""
    topics: dict[str, Callable[[], str]] = {
        "gossip-runtime": lambda: f"{__version__} in {Path(__file__).parent}",
        "python": lambda: f"{platform.python_version()}, {sys.executable}",
        "libraries": lambda: ", ".join(map(_installed, ("torch", "numpy", "networkx", "mpi4py"))),
        "host": socket.gethostname,
        "system": lambda: (
            f"{platform.platform()}, {cores.bound()} cores for this rank, {torch.get_num_threads()} threads"
        ),
        "GPUs": lambda: (
            ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "torch sees none"
        ),
        "interfaces": lambda: ", ".join(map(" ".join, addresses().items())) or "none is known",
        "MPI": library,
        "launcher": lambda: launcher.name,
        "transport": lambda: f"{_transport(launcher)}, where the script names none",
        "variables": _variables,
    }
    found = {}
    for topic, ask in topics.items():
        try:
            found[topic] = " ".join(ask().split())
        except Exception as error:  # whatever a broken library raises: a report is wanted all the more
            found[topic] = f"unknown: {type(error).__name__}: {error}"
    return found


def _installed(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {name}"


def _transport(launcher: Launcher) -> str:
    named = requested("auto")
    return default_transport(launcher) if named == "auto" else named


def _variables() -> str:
    found = {name: text for name, text in sorted(os.environ.items()) if VARIABLES.match(name)}
    if SECRET in found:
        found[SECRET] = "(set)"
    return " ".join(f"{name}={text}" for name, text in found.items()) or "none"


def lines(ranks: Mapping[int, Mapping[str, str]]) -> list[str]:
    """A line for each topic, or one for each of its values with the ranks that have it.

    >>> lines({0: {"host": "a", "system": "Linux"}, 1: {"host": "b", "system": "Linux"}})
    ['host            a  (rank 0)', 'host            b  (rank 1)', 'system          Linux']
    """
    found = []
    for topic in next(iter(ranks.values())):
        values: dict[str, list[int]] = defaultdict(list)
        for rank, known in ranks.items():
            values[known.get(topic, "unknown")].append(rank)
        for value, those in values.items():
            found.append(f"{topic:<16}{value}" + (f"  ({called(those)})" if len(values) > 1 else ""))
    return found


if __name__ == "__main__":
    main()
