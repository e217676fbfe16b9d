"""How the processes of a job find one another for torch.distributed.

Under mpirun it goes through MPI: rank 0 opens a store on a free port and tells the others where, so that no address
has to be given on any number of nodes. Under torchrun the launcher has set the address; under srun without MPI it is
computed from the job's variables.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from ..errors import GossipError, PeerTimeout, TransportUnavailable, UsageError
from ..launchers import Launcher


def connect(launcher: Launcher, timeout: float) -> None:
    """Make torch.distributed's default group, unless the program has one already; Gloo, for it carries host data."""
    if dist.is_initialized():
        if dist.get_world_size() != launcher.size:
            raise UsageError(
                f"torch.distributed is initialised with {dist.get_world_size()} ranks, but {launcher.name} started "
                f"{launcher.size} processes: initialise it for all of them, or not at all before gossip.init"
            )
        return
    store = _store(launcher, timeout)
    hook = sys.excepthook
    # Twice ours: who is missing is said by our own deadlines.
    dist.init_process_group(
        "gloo", store=store, rank=launcher.rank, world_size=launcher.size, timeout=timedelta(seconds=2 * timeout + 60)
    )
    # torch puts a hook around it that keeps what is printed until the end, which one that ends the job never reaches.
    sys.excepthook = hook


def _store(launcher: Launcher, timeout: float) -> dist.Store:
    if launcher.size == 1:
        return dist.HashStore()
    if launcher.name in ("openmpi", "mpich") and "MASTER_ADDR" not in os.environ:
        return _through_mpi(launcher, timeout)
    host, port = _announced(launcher)
    try:
        store = dist.TCPStore(
            host,
            port,
            launcher.size,
            is_master=launcher.rank == 0 and not _agent_has_store(),
            timeout=timedelta(seconds=timeout),
        )
    except (dist.DistNetworkError, dist.DistStoreError, RuntimeError) as error:
        raise PeerTimeout(
            f"rank {launcher.rank} did not meet the other {launcher.size - 1} ranks at {host}:{port} within "
            f"{timeout:g} s ({error}): does every rank call gossip.init, and is the port reachable?"
        ) from error

    # An agent that starts the ranks anew keeps its store, with what the last attempt wrote.
    return dist.PrefixStore(f"gossip/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _agent_has_store() -> bool:
    """Torchrun's agent may serve the store itself; then no rank does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _announced(launcher: Launcher) -> tuple[str, int]:
    """Where rank 0 listens, by the variables of the launcher."""
    if "MASTER_ADDR" in os.environ:
        try:
            return os.environ["MASTER_ADDR"], int(os.environ.get("MASTER_PORT", "29500"))
        except ValueError as error:
            raise UsageError(f"MASTER_PORT is {os.environ['MASTER_PORT']!r}, which is not a port number") from error
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", ""))
    job = os.environ.get("SLURM_JOB_ID", "")
    if launcher.name == "srun" and nodes and job.isdecimal():
        # Every rank computes the same port; jobs that share a node differ in their number.
        return first_host(nodes), 20_000 + int(job) % 20_000
    raise UsageError(
        f"{launcher.name} says nothing of where rank 0 listens: set MASTER_ADDR and MASTER_PORT, or launch with mpirun"
    )


def first_host(nodelist: str) -> str:
    """The first name of a SLURM node list.

    >>> first_host("gpu[07-09,12],login1")
    'gpu07'
    """
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodelist)
    if match is None:
        raise UsageError(f"cannot read the node list {nodelist!r}: set MASTER_ADDR and MASTER_PORT")
    return match.group(1) + (match.group(2) or "")


def _through_mpi(launcher: Launcher, timeout: float) -> dist.Store:
    try:
        from .mpi import MpiTransport

        ranks = MpiTransport(timeout).group(range(launcher.size))
    except TransportUnavailable as error:
        raise TransportUnavailable(
            f"under mpirun the ranks find one another through MPI, but {error}; or set MASTER_ADDR and MASTER_PORT"
        ) from error
    hosts = [name.decode() for name in ranks.gather(socket.gethostname().encode())]
    shared = len(set(hosts)) == 1
    if shared:
        # Sockets between processes of one host need no network card, and its name may not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if launcher.rank == 0:
        store = dist.TCPStore(
            "127.0.0.1" if shared else own_address(hosts),
            0,
            launcher.size,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout),
        )
        ranks.gather(f"{store.host} {store.port}".encode())
        return store
    host, port = ranks.gather(b"")[0].decode().split()
    return dist.TCPStore(host, int(port), launcher.size, is_master=False, timeout=timedelta(seconds=timeout))


def own_address(hosts: Sequence[str]) -> str:
    """An address of this host that the others can reach: what its name resolves to, or what it would speak from."""
    try:
        named = socket.gethostbyname(socket.gethostname())
        if not ipaddress.ip_address(named).is_loopback:
            return named
    except OSError:
        named = ""
    for other in hosts:
        if other == socket.gethostname():
            continue
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((other, 9))  # sends nothing: it only asks which address the route would use
                return str(probe.getsockname()[0])
        except OSError:
            continue
    raise GossipError(
        f"host {socket.gethostname()} knows no address of its own that other hosts can reach (its name gives "
        f"{named or 'nothing'}): set MASTER_ADDR and MASTER_PORT to an address of rank 0's host"
    )
