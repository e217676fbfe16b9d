"""torch's own: an all-reduce, DistributedDataParallel, and PostLocalSGDOptimizer with PeriodicModelAverager."""

import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gossip import World

from ..measuring.loop import synchronise
from ..measuring.models import Task
from .peer import UNTOLD, Peer, Running

BUCKETS = 4
"""DDP's default of 25 MB makes about so many of a ResNet-50's 102.4 MB, whose time the default sizes stand for."""
PRIMING = 2  # passes after which DDP has arranged its buckets by the order in which gradients arrive


class AllReduce(Running):
    """Each step is one blocking all-reduce of the task's bytes, over NCCL where the world is and Gloo elsewhere."""

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        super().__init__(task, world, period, timeout)
        self.module = None
        with self.groups():
            self._group = dist.new_group(backend="nccl" if world.transport == "nccl" else "gloo")
        self._values = torch.ones(max(1, task.nbytes // 4), device=world.device)

    def update(self) -> None:
        dist.all_reduce(self._values, op=dist.ReduceOp.MAX, group=self._group)
        synchronise(self._world)
        # The messages of a ring, as its bytes; torch.distributed does not say what it did.
        self.stats.last.messages_sent = self.stats.last.messages_received = 2 * (self._world.size - 1)


class Ddp(Running):
    """The compute is slept, `slept` seconds inside the passes; a backward pass all-reduces in buckets of so many MB."""

    def __init__(
        self, task: Task, world: World, period: int, timeout: float, slept: float = 0.0, bucket: float | None = None
    ) -> None:
        super().__init__(task, world, period, timeout)
        self._optimizer = self.clocked(task.module)
        self._passes = self.passes(task, slept)
        with self.groups():
            group = dist.new_group(backend="gloo")
        # Gradients as views of the buckets save it one pass over them.
        self._model = DistributedDataParallel(
            self._passes, process_group=group, gradient_as_bucket_view=True, bucket_cap_mb=bucket
        )
        for _ in range(PRIMING):
            self.backward()

    def backward(self) -> None:
        """A pass, whose gradients are then those of all ranks."""
        self._optimizer.zero_grad()
        self._model().backward()

    def update(self) -> None:
        self.backward()
        self._optimizer.step()


class DdpOverlap(Ddp):
    """The compute is slept in forward and backward, so that buckets travel while earlier layers compute."""

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        super().__init__(task, world, period, timeout, task.seconds, max(4, task.nbytes // BUCKETS) / 2**20)
        self._exposed = 0.0

    def compute(self) -> None:
        """A pass; its time after the last layer's sleep is a wait for the buckets."""
        self.backward()
        self._exposed = time.perf_counter() - self._passes.slept

    def update(self) -> None:
        self._optimizer.step()

    def blocked(self, step: float) -> float:
        return self._exposed


class PostLocalSgd(Running):
    """Averages in the first step and every τ-th after it, as the averager counts."""

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        # Not for every command: it brings much with it.
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
        from torch.distributed.optim import PostLocalSGDOptimizer

        super().__init__(task, world, period, timeout)
        with self.groups():
            averager = PeriodicModelAverager(period=period, process_group=dist.new_group(backend="gloo"))
        self._optimizer = PostLocalSGDOptimizer(self.clocked(task.module), averager)

    def sent(self, number: int) -> int:
        return self.ring if number % self._period == 0 else 0


BYTES = "bytes, by arithmetic, are a ring's."
ONCE = f"trains nothing: one blocking all-reduce of the same bytes after the same compute; {BYTES}"
ALL_REDUCE = Peer("torch all-reduce", AllReduce, ONCE, unknown=(), trains=False)
DDP = Peer(
    "DDP",
    Ddp,
    "all compute is slept before one backward pass that fills all gradients at once, so that nothing overlaps: what "
    f"DDP costs where it hides nothing; gradients are views of its buckets of 25 MB; {BYTES}",
)
OVERLAP = Peer(
    "DDP, overlapped",
    DdpOverlap,
    blocking=False,
    unknown=(*UNTOLD, "in_flight"),
    limits=f"a third of the compute is slept in forward and the rest in backward, layer by layer, with {BUCKETS} "
    "buckets, so that buckets travel while earlier layers compute, as DDP is made for; its waits are inside what is "
    f"given as its compute, and no barrier stands before them; {BYTES}",
)
POST_LOCAL_SGD = Peer(
    "torch post-local SGD",
    PostLocalSgd,
    periodic=True,
    limits="plain averages of the parameters, without slow momentum and without warm-up; they block, and parameters "
    f"without a gradient are left out of them; {BYTES}",
)
