"""How a command comes to run as ranks on the hosts: started by Open MPI's mpirun, or with torchrun's variables."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from gossip.launching.cores import bound

from .needs import path
from .network import Network

# A launcher's variables for this process are not for the ranks: they are told by theirs.
PREFIXES = ("OMPI_COMM_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "TORCHELASTIC_", "MPI_LOCAL")
NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

AGENT = """\
# [OPTION...] HOST COMMAND...: what mpirun calls in place of ssh
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1
shift
exec sh {folder}/enter "$host" sh -c "$*"
"""

Launch = Callable[[Network, int, Sequence[str], Mapping[str, str], Sequence[str]], list[subprocess.Popen[bytes]]]
"""Hosts, ranks on each, what they run, what they are told, and more options for who starts them."""


def environment(network: Network, ranks_per_node: int) -> dict[str, str]:
    """The environment of the ranks under either launcher; `python` on their PATH is this one."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES) and k not in NAMES}
    # The hosts share the cores of one machine, which the ranks cannot know.
    threads = max(1, bound() // (len(network.hosts) * ranks_per_node))
    return {"OMP_NUM_THREADS": str(threads), **inherited, "PATH": path(), "GLOO_SOCKET_IFNAME": "eth0"}


def _mpirun(
    network: Network, ranks_per_node: int, command: Sequence[str], environment: Mapping[str, str], more: Sequence[str]
) -> list[subprocess.Popen[bytes]]:
    agent = network.folder / "agent"
    agent.write_text(AGENT.format(folder=network.folder))
    options = {
        **dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1"),
        "PRTE_MCA_plm_ssh_agent": f"sh {agent}",
        "PRTE_MCA_prte_if_include": "eth0",
        "PRTE_MCA_prte_tmpdir_base": str(network.folder),
        # Every host has all cores of the machine: bound ranks would all sit on the first of them.
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Between hosts over TCP, inside one through shared memory.
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm,tcp",
        "OMPI_MCA_btl_tcp_if_include": "eth0",
    }
    hosts = ",".join(f"{host.name}:{ranks_per_node}" for host in network.hosts)
    count = str(len(network.hosts) * ranks_per_node)
    mpirun = ["mpirun", "--host", hosts, "-n", count, "--map-by", f"ppr:{ranks_per_node}:node", *more]
    # Open MPI 5 may miss the end of a rank that lives for a few milliseconds, such as `hostname`, and wait for ever.
    mpirun += ["sh", "-c", 'sleep 0.2 && exec "$@"', "sh", *command]
    return [network.start(network.hosts[0], mpirun, {**environment, **options}, stdin=_stdin())]


def _torchrun(
    network: Network, ranks_per_node: int, command: Sequence[str], environment: Mapping[str, str], more: Sequence[str]
) -> list[subprocess.Popen[bytes]]:
    assert not more, "checked"
    nodes = len(network.hosts)
    common = {
        "MASTER_ADDR": network.hosts[0].address,
        "MASTER_PORT": "29500",  # the host is ours alone, so it is free
        **dict.fromkeys(("WORLD_SIZE", "ROLE_WORLD_SIZE"), str(nodes * ranks_per_node)),
        "LOCAL_WORLD_SIZE": str(ranks_per_node),
        "GROUP_WORLD_SIZE": str(nodes),
        "ROLE_NAME": "default",
        "TORCHELASTIC_RUN_ID": network.folder.name,
        **dict.fromkeys(("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"), "0"),
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }
    started = []
    for rank in range(nodes * ranks_per_node):
        node, local_rank = divmod(rank, ranks_per_node)
        own = {"RANK": rank, "LOCAL_RANK": local_rank, "GROUP_RANK": node, "ROLE_RANK": rank}
        told = {**environment, **common, **{name: str(number) for name, number in own.items()}}
        stdin = _stdin() if rank == 0 else subprocess.DEVNULL
        started.append(network.start(network.hosts[node], command, told, stdin=stdin))
    return started


LAUNCHERS: dict[str, Launch] = {"mpirun": _mpirun, "torchrun": _torchrun}


def _stdin() -> int | None:
    """Rank 0 reads what is piped in. Not a terminal: the ranks are not in its foreground."""
    return subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None


def resolved(command: Sequence[str]) -> list[str] | None:
    """The command with its program found, `python` being this one; None where there is no such program."""
    program = sys.executable if command[0] in ("python", "python3") else shutil.which(command[0], path=path())
    return None if program is None else [program, *command[1:]]
