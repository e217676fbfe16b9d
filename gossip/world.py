"""A world: this process's rank among the others, its device, and the transport between them."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from .checks import ranks_of, shown
from .errors import UsageError, levels_to_the_user
from .launching.children import check_own_process, forget_children, tell_children
from .launching.launchers import TORCH, Launcher, local_place, several
from .observe import signals, snapshot
from .observe.ending import abort_on_errors
from .observe.process import process
from .transports import Communicator, MemoryBackend, Network
from .transports.collective import small
from .transports.connecting import connect, deadline_of, default_transport, device_of, find_launcher, requested
from .untraced import untraced


@dataclass(frozen=True, eq=False, repr=False)
class World:
    """Ranks 0..size-1 and this process's place among them. Immutable, and a context manager that closes itself.

    A sub-world (`node`, `across`, `group`) is a World too, with its ranks renumbered. Its members make it, all of them
    and in the same order; no other rank takes part.

    Attributes:
        rank: this process's number.
        size: the number of ranks.
        local_rank: this process's number among the ranks of this world on this host.
        local_size: their number.
        device: the device of this rank's tensors.
        transport: "mpi", "gloo", "nccl" or "memory".
        hosts: the host name of every rank.

    >>> import gossip
    >>> with gossip.init() as world:
    ...     print(f"rank {world.rank} of {world.size} over {world.transport}")
    rank 0 of 1 over memory
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    transport: str
    hosts: tuple[str, ...]
    base: Communicator
    _called: tuple[int, ...]
    _made: dict[str, World] = field(default_factory=dict, repr=False)

    @property
    def node(self) -> World:
        """The ranks of this world on this host; made by the first access."""
        return self._once("node", [rank for rank, host in enumerate(self.hosts) if host == self.hosts[self.rank]])

    @property
    def survivors(self) -> World:
        """The ranks of this world that have not died, renumbered."""
        hosts = dict(zip(self._called, self.hosts, strict=True))
        return _world(self.base, tuple(hosts[rank] for rank in self.base.ranks), self.device)

    @property
    def across(self) -> World:
        """The ranks with this local rank, at most one on each host; made by the first access."""
        places = list(dict.fromkeys(self.hosts))  # one order of hosts for each local rank, however ranks are numbered
        counterparts = [r for r in range(self.size) if local_place(self.hosts, r)[0] == self.local_rank]
        return self._once("across", sorted(counterparts, key=lambda r: places.index(self.hosts[r])))

    def _once(self, name: str, ranks: list[int]) -> World:
        # functools.cached_property of Python 3.11 and older holds a lock, for which ranks in other threads would wait.
        if name not in self._made:
            with self.base.board.calling(f"world.{name}"):
                self._made[name] = self.group(ranks)
        return self._made[name]

    @untraced
    def group(self, ranks: Sequence[int]) -> World:
        """A sub-world of some ranks, renumbered in the given order. Each of them makes this call.

        Args:
            ranks: of this world.

        Raises:
            UsageError: this rank is not one of them, or a rank is named twice or does not exist.
        """
        if self.base.size < self.size:
            raise UsageError("ranks of this world have died: use world.survivors, where the others are renumbered")
        self.base.refuse_closed("the making of a group")
        ranks = ranks_of(ranks, self.size)
        with self.base.board.calling("world.group(...)"):
            return _world(self.base.group(ranks), tuple(self.hosts[rank] for rank in ranks), self.device)

    def channel(self) -> Communicator:
        """A new channel between all ranks. Every rank makes its channels in the same order."""
        return self.base.channel()

    @untraced
    def all_gather(self, thing: Any) -> list[Any]:
        """The object of every rank, by rank, on every rank: for small things such as a count of batches.

        Numbers, text, bytes, tensors, and lists, tuples and dictionaries of them, of at most 64 MB. Tensors arrive on
        the host.

        >>> with init() as world:
        ...     batches = max(world.all_gather(9))
        """
        with self.base.board.calling("world.all_gather(...)"):
            return small.all_gather(self.base, thing)

    @untraced
    def mean(self, value: Any) -> Any:
        """The mean over ranks of a number, a tensor, or a list, tuple or dictionary of these; for metrics and losses.

        Computed in float64. Tensors are new and of their own dtype; those of whole numbers come back as float64.

        Raises:
            UsageError: on all ranks if they gave different keys, shapes or dtypes.

        >>> with init() as world:
        ...     world.mean({"loss": 0.5, "accuracy": torch.tensor(0.25)})
        {'loss': 0.5, 'accuracy': tensor(0.2500)}
        """
        with self.base.board.calling("world.mean(...)"):
            return small.mean(self.base, value)

    @untraced
    def all_reduce(self, tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
        """Reduce `tensor` over ranks in place, and return it; all ranks get the same bits.

        Args:
            tensor: dense; of whole numbers and booleans too, but for op="mean".
            op: "sum", "mean", "max", "min" or "product". The last three are for small tensors.

        Raises:
            UsageError: another op, or on all ranks if they gave different shapes or dtypes.

        >>> with init() as world:
        ...     world.all_reduce(torch.tensor([1, 2]), op="max")
        tensor([1, 2])
        """
        with self.base.board.calling("world.all_reduce(...)"):
            return small.all_reduce(self.base, tensor, op)

    @untraced
    def barrier(self) -> None:
        """Return once every rank has called it."""
        with self.base.board.calling("world.barrier()"):
            self.base.barrier()

    @untraced
    def stop_requested(self) -> bool:
        """Whether a scheduler (SIGTERM, SIGUSR2) or Ctrl-C asked any rank to end; the same answer on every rank.

        Every rank calls it at the same step, such as every tenth: it costs a small all-gather. A loop that calls it has
        the time to save a checkpoint after the first signal. The job ends at a second signal, or if the loop does not
        call it for 30 s. Without any call a first signal ends the job.

        >>> with init() as world:
        ...     for number in range(100):
        ...         if number % 10 == 0 and world.stop_requested():
        ...             break  # after saving, on every rank
        """
        with self.base.board.calling("world.stop_requested()"):
            return signals.stop_requested(self.base.board, self.base.gather)

    @untraced
    def close(self) -> None:
        """Wait for every rank, then close the transport, which sub-worlds share. Optimizers have to settle before."""
        if self.base.closed:
            return
        with self.base.board.calling("world.close()"):
            self.barrier()
        if self.base.number == 0:  # the first channel of its backend
            self.base.close()
        self.base.carrier.leave(self.base.lineage[-1])
        if self.base.lineage == (0,) and self.transport != "mpi":  # MPI's ranks stay ranks until it ends
            forget_children()

    def __repr__(self) -> str:
        """This rank's place, its device and its transport."""
        place = f"local rank {self.local_rank} of {self.local_size} on {self.hosts[self.rank]}"
        return f"World(rank {self.rank} of {self.size}, {place}, {self.device}, over {self.transport})"

    def __reduce__(self) -> NoReturn:
        """Refuse copies, which would receive each other's messages."""
        raise UsageError(
            f"rank {self.rank} cannot copy or pickle a World, nor an object that holds one, such as an averager: it "
            "stands for a running process. Use the same World everywhere, and call gossip.init() in another process"
        )

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # after an error the other ranks may never reach the barrier
            self.close()


def check_world(world: Any, sentence: str) -> None:
    """Raise `UsageError` unless `world` is a World, with `sentence`, in which the argument replaces {}."""
    if not isinstance(world, World):
        raise UsageError(sentence.format(shown(world)) + " (gossip.init() returns one)")


def _world(base: Communicator, hosts: tuple[str, ...], device: torch.device) -> World:
    local_rank, local_size = local_place(hosts, base.rank)
    return World(base.rank, base.size, local_rank, local_size, device, base.name, hosts, base, tuple(base.ranks))


def memory_world(network: Network, rank: int, size: int, timeout: float, hosts: Sequence[str] | None = None) -> World:
    """The world of rank `rank` of `size` threads; `hosts` are the names of pretended hosts, one for each rank."""
    base = Communicator.over(MemoryBackend(network, rank, size, timeout), timeout)
    return _world(base, tuple(hosts or [socket.gethostname()] * size), torch.device("cpu"))


def init(transport: str = "auto", timeout: float | None = None, process_group: Any = None) -> World:
    """Join the job that mpirun, torchrun or srun started; plain `python` is a job of one rank.

    In processes of mp.spawn, Lightning or Accelerate the ranks are those of torch.distributed: call this after
    `init_process_group`.

    Args:
        transport: "mpi" (the default under mpirun for CPU tensors), "nccl" (the default with a GPU for each rank),
            "gloo" (the default under torchrun without), or "auto". The variable GOSSIP_TRANSPORT replaces "auto".
        timeout: seconds after which any wait ends with an error that names the rank and its peer. None takes those of
            the variable GOSSIP_TIMEOUT, or 300.
        process_group: the ranks are those of this process group of torch.distributed, all of which make the call. The
            world speaks in a group of its own.

    In a job of several ranks an uncaught exception ends the whole job, with its traceback and a code other than 0:
    the other ranks would wait for their deadline. SIGTERM ends the job with code 143, unless the loop calls
    `stop_requested`. On SIGUSR1 a rank writes its position and the stacks of its threads to stderr, and so it does
    before a deadline ends the job.

    Raises:
        UsageError: an unknown transport, or launcher variables that contradict each other. A process group without
            this process, or a process that is the child of a rank. A folder in GOSSIP_STATUS that cannot be written.
        TransportUnavailable: this machine or process cannot run the transport.
        PeerTimeout: a rank did not come.

    >>> with init() as world:  # alone, under plain python
    ...     print(world.rank, world.size, world.transport)
    0 1 memory
    """
    name, seconds = requested(transport, process_group), deadline_of(timeout)
    launcher = find_launcher(seconds, process_group)
    if name == "auto":
        name = default_transport(launcher)
    if launcher.name not in ("none", TORCH) and (launcher.size > 1 or name == "mpi"):
        check_own_process(launcher, name)
        tell_children(launcher)
    if launcher.size > 1:
        abort_on_errors()
    base = connect(name, launcher, seconds, process_group)
    with base.board.calling("gossip.init()"):
        hosts = base.board.share(base.gather)
    base.carrier.alone = base.size == 1 and process_group is None
    process.board, process.end_job = base.board, base.end_job
    snapshot.publish()
    if base.size > 1:
        abort_on_errors()
        signals.watch(base.board)
    elif launcher.name == "none" and (told := several()):
        warnings.warn(
            f"gossip.init() made a world of one rank, and {told}: this process trains alone. Start the script with "
            "mpirun, torchrun or srun, also inside an allocation of Slurm",
            stacklevel=levels_to_the_user(),
        )
    if launcher.name == "none":
        launcher = Launcher("none", base.rank, base.size, *local_place(hosts, base.rank))
    return _world(base, hosts, device_of(name, launcher))
