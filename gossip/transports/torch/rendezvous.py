"""How the processes of a job find one another for torch.distributed.

Under mpirun rank 0 opens a store on a free port. It tells the others its address and its secret through MPI, so that
the user gives no address. Under torchrun the launcher has set the address; under srun without MPI it is computed from
the job's variables. There the secret is the variable GOSSIP_SECRET.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import itertools
import os
import re
import secrets
import socket
import sys
from collections import defaultdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store, _new_process_group_helper, _world

from ...errors import PeerTimeout, TransportUnavailable, UsageError
from ...launching.launchers import TORCH, Launcher
from ..communicator import Communicator
from ..deadlines import NOTICE, called, poll
from .interfaces import addresses, common_address, lead_gloo, named_address
from .store import StoreClient, StoreServer


def connect(launcher: Launcher, timeout: float, backend: str = "gloo") -> None:
    """Make torch.distributed's default group, unless the program has one already; Gloo, for it carries host data."""
    if dist.is_initialized():
        if dist.get_world_size() != launcher.size:
            raise UsageError(
                f"torch.distributed is initialised with {dist.get_world_size()} ranks, but {launcher.name} started "
                f"{launcher.size} processes: initialise it for all of them, or not at all before gossip.init"
            )
        meet(timeout)
        return
    global _kept
    _kept = store = _store(launcher, timeout)
    if isinstance(store, StoreClient):
        # Once a second a thread of NCCL's groups asks the store whether to dump its log, also while the interpreter
        # ends, and this store is Python's.
        os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    hook = sys.excepthook
    # Twice ours: our own deadlines name the missing ranks.
    dist.init_process_group(
        backend, store=store, rank=launcher.rank, world_size=launcher.size, timeout=timedelta(seconds=2 * timeout + 60)
    )
    # torch puts a hook around ours that prints at its end, which a hook that ends the job never reaches.
    sys.excepthook = hook


def meet(timeout: float, key: str = "", value: str = "", process_group: dist.ProcessGroup | None = None) -> dist.Store:
    """A part of torch.distributed's store, once every rank of the group has made this call and left `value` at `key`.

    The group is `process_group`, or that of all ranks.
    """
    place = Launcher(TORCH, dist.get_rank(process_group), dist.get_world_size(process_group))
    store = dist.PrefixStore(f"gossip/meeting {_next_name(process_group)}", _get_default_store())
    if key:
        store.set(key, value)
    return _met(store, "torch.distributed's store", place, timeout)


def new_group_of(process_group: dist.ProcessGroup, timeout: timedelta, backend: str, options: Any) -> dist.ProcessGroup:
    """A new group of the ranks of `process_group`, which alone make this call.

    `dist.new_group` asks all ranks. With `use_local_synchronization` its names depend on the other groups of a rank,
    and come again after a group was destroyed, whose addresses the store still has.
    """
    if options is not None and getattr(dist.group.WORLD, "bound_device_id", None) is not None:
        raise UsageError(
            "torch.distributed was initialised with a device_id, so NCCL makes new groups with all ranks alone: leave "
            "device_id out of init_process_group, choose transport='gloo', or take world.group([...]) of gossip.init()"
        )
    ranks = dist.get_process_group_ranks(process_group)
    group: dist.ProcessGroup
    group, _ = _new_process_group_helper(
        len(ranks),
        dist.get_rank(process_group),
        ranks,
        dist.Backend(backend),
        _get_default_store(),
        f"gossip/group {_next_name(process_group)}",  # type: ignore[arg-type]
        backend_options=options,
        timeout=timeout,
    )
    _world.pg_group_ranks[group] = {rank: place for place, rank in enumerate(ranks)}
    return group


def _next_name(process_group: dist.ProcessGroup | None) -> str:
    """A name that nobody had before, the same on all ranks of a group, which all ask equally often."""
    ranks = "-".join(map(str, dist.get_process_group_ranks(process_group)))
    return f"{next(_names[ranks])} of {ranks}"


_names: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)
_kept: dist.Store | None = None  # torch keeps only the half of a store that is not Python's alive


def _store(launcher: Launcher, timeout: float) -> dist.Store:
    if launcher.size == 1:
        return dist.HashStore()
    if launcher.name in ("openmpi", "mpich") and "MASTER_ADDR" not in os.environ:
        return _through_mpi(launcher, timeout)
    host, port = _announced(launcher)
    if launcher.local_size < launcher.size and not named_address():
        lead_gloo(host)
    secret = os.environ.get("GOSSIP_SECRET", "").encode()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # else torchrun's agent serves it, and no rank does
        server = _listen(host, port, launcher, secret) if launcher.rank == 0 else None
        try:
            return _met(StoreClient((host, port), secret, timeout, launcher.rank), f"{host}:{port}", launcher, timeout)
        except PeerTimeout:
            if server is not None:
                server.close()
            raise
    try:
        store = dist.TCPStore(host, port, launcher.size, is_master=False, timeout=timedelta(seconds=timeout))
    except (dist.DistNetworkError, dist.DistStoreError, RuntimeError) as error:
        raise PeerTimeout(
            f"rank {launcher.rank} did not reach torchrun's agent at {host}:{port} within {timeout:g} s ({error}): is "
            "the port reachable?"
        ) from error
    # An agent that restarts the ranks keeps its store with the keys of the last attempt. Keys that a stranger cannot
    # guess do not protect from one who lists them, but keep others out of the way.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"gossip/{attempt}/{hashlib.sha256(secret).hexdigest()}"
    return _met(dist.PrefixStore(prefix, store), f"{host}:{port}", launcher, timeout)


def _met(store: dist.Store, where: str, launcher: Launcher, timeout: float) -> dist.Store:
    """`store`, once every rank has come to it."""
    store.set(f"here/{launcher.rank}", "")
    if store.add("here", 1) == launcher.size:
        store.set("all here", "")

    def missing() -> list[int]:
        return [rank for rank in range(launcher.size) if not store.check([f"here/{rank}"])]

    def failure() -> str:
        return (
            f"rank {launcher.rank} did not meet the other {launcher.size - 1} ranks at {where} within {timeout:g} s: "
            f"{called(missing())} never connected. Does every rank call gossip.init, is the port reachable, and have "
            "all the same GOSSIP_SECRET?"
        )

    def notice() -> str:  # which the first rank that came logs
        absent = missing()
        said = f"gossip.init() waited {NOTICE:g} s for {called(absent)} of {launcher.size} at {where}"
        is_first = set(range(launcher.rank)).issubset(absent)
        return f"{said}; it fails after {timeout:g} s" if absent and is_first else ""

    # Rank 0, which may hold the store, is the last to give up, so that the others can ask it who is missing.
    poll(lambda: store.check(["all here"]), timeout + (launcher.rank == 0), failure, notice, interval=0.01)
    return store


def _listen(host: str, port: int, launcher: Launcher, secret: bytes) -> StoreServer:
    """A store on the interface that `host` names, if it is ours and the others can reach it; else on all."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        if launcher.local_size < launcher.size and ipaddress.ip_address(address).is_loopback:
            address = ""  # a host's own name often resolves to the loopback, and other hosts have to come
        try:
            return StoreServer((str(address), port), secret)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return StoreServer(("", port), secret)  # the address is one that a gateway hands on
    except socket.gaierror as error:
        raise TransportUnavailable(
            f"rank 0 is to listen at {host}:{port}, and its host does not know the name {host} ({error}): set "
            "MASTER_ADDR on all ranks to an address of rank 0's host"
        ) from error
    except OSError as error:
        raise TransportUnavailable(
            f"rank 0 cannot listen at {host}:{port} ({error}): is another job there? Choose another MASTER_PORT"
        ) from error


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
        from ..mpi.backend import MpiBackend

        ranks = Communicator.over(MpiBackend.shared(timeout), timeout).group(range(launcher.size))
    except TransportUnavailable as error:
        raise TransportUnavailable(
            f"under mpirun the ranks find one another through MPI, but {error}; or set MASTER_ADDR and MASTER_PORT"
        ) from error
    words = [word.decode().split() for word in ranks.gather(f"{socket.gethostname()} {named_address()}".encode())]
    hosts = [word[0] for word in words]
    shared, all_named = len(set(hosts)) == 1, all(len(word) == 2 for word in words)
    if shared:
        # Sockets between processes of one host need no network card, and its name may not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    said = b""
    if launcher.rank == 0:
        own = ["127.0.0.1"] if shared else [named_address()] if all_named else list(addresses().values())
        secret = secrets.token_hex(32)
        # On all interfaces only where it has to be found out which of them leads to the others.
        server = StoreServer((own[0] if len(own) == 1 else "", 0), secret.encode())
        said = " ".join([str(server.port), secret, *own]).encode()
    port, secret, *candidates = ranks.gather(said)[0].decode().split()
    if not (shared or all_named):
        candidates = [common_address(ranks, hosts, candidates, int(port), secret.encode())]
        lead_gloo(candidates[0])
    return StoreClient((candidates[0], int(port)), secret.encode(), timeout, launcher.rank)
