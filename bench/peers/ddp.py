"""torch's DistributedDataParallel: gradients are all-reduced in the backward pass, bucket by bucket."""

from __future__ import annotations

import time

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gossip import World

from ..update.models import Task
from .passes import Passes
from .peer import UNTOLD, Peer, Training, ring

BUCKETS = 4
"""Its default of 25 MB makes about so many of a ResNet-50's 102.4 MB, whose time the default sizes stand for."""

PRIMING = 2
"""Passes after which it has arranged its buckets by the order in which gradients arrive."""


class Ddp(Training):
    """The compute is slept, then one backward pass fills all gradients at once and all-reduces them."""

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        super().__init__(task, world)
        self._optimizer = self.clocked(task.module)
        self._sent = ring(world.size, task.nbytes)
        self._passes = Passes(task.module, self.slept(task))
        with self.groups(timeout):
            group = dist.new_group(backend="gloo")
        # Gradients as views of the buckets save it one pass over them.
        self._model = DistributedDataParallel(
            self._passes, process_group=group, gradient_as_bucket_view=True, bucket_cap_mb=self.bucket(task)
        )
        for _ in range(PRIMING):
            self.backward()

    def slept(self, task: Task) -> float:
        """Seconds of the compute that are slept inside forward and backward."""
        return 0.0

    def bucket(self, task: Task) -> float | None:
        """Megabytes of a bucket; None for its default, 25."""
        return None

    def backward(self) -> None:
        """A pass, whose gradients are then those of all ranks."""
        self._optimizer.zero_grad()
        self._model().backward()

    def update(self) -> None:
        """A pass and the optimizer's step."""
        self.backward()
        self._optimizer.step()

    def sent(self, number: int) -> int:
        """What a ring sends."""
        return self._sent


class DdpOverlap(Ddp):
    """The compute is slept in forward and backward, so that buckets travel while earlier layers compute."""

    _exposed = 0.0

    def slept(self, task: Task) -> float:
        """All of it."""
        return task.seconds

    def bucket(self, task: Task) -> float | None:
        """A quarter of all."""
        return max(4, task.nbytes // BUCKETS) / 2**20

    def compute(self) -> None:
        """A pass; what it takes after its last layer's sleep is a wait for the buckets."""
        self.backward()
        self._exposed = time.perf_counter() - self._passes.computed

    def update(self) -> None:
        """The optimizer's step."""
        self._optimizer.step()

    def _blocked(self, step: float) -> float:
        return self._exposed


PEER = Peer(
    "DDP",
    Ddp,
    "all compute is slept before one backward pass that fills all gradients at once, so that nothing overlaps: what "
    "DDP costs where it hides nothing; gradients are views of its buckets of 25 MB; bytes, by arithmetic, are a "
    "ring's.",
)
OVERLAP = Peer(
    "DDP, overlapped",
    DdpOverlap,
    f"a third of the compute is slept in forward and the rest layer by layer in backward, with {BUCKETS} buckets, so "
    "that buckets travel while earlier layers compute, as DDP is made for; its waits are inside what is given as its "
    "compute, and no barrier stands before them; bytes, by arithmetic, are a ring's.",
    blocking=False,
    unknown=(*UNTOLD, "in_flight"),
)
