"""The yardstick: an all-reduce of the same bytes by torch.distributed, after the same compute."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from gossip import World

from ..update.measuring import synchronise
from ..update.models import Task
from .peer import Peer, Running, ring


class AllReduce(Running):
    """Each step is one blocking all-reduce of the task's bytes, over NCCL where the world is and Gloo elsewhere."""

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        super().__init__(task, world, None)
        with self.groups(timeout):
            self._group = dist.new_group(backend="nccl" if world.transport == "nccl" else "gloo")
        self._values = torch.ones(max(1, task.nbytes // 4), device=world.device)

    def step(self) -> None:
        """One all-reduce."""
        with self.stats.step(0):
            began = time.perf_counter()
            dist.all_reduce(self._values, op=dist.ReduceOp.MAX, group=self._group)
            synchronise(self._world)
            last, n = self.stats.last, self._world.size
            last.seconds_exposed = last.seconds_in_flight = time.perf_counter() - began
            # What a ring sends; torch.distributed does not say what it did.
            last.bytes_sent = last.bytes_received = ring(n, self._values.nbytes)
            last.messages_sent = last.messages_received = 2 * (n - 1)


PEER = Peer(
    "torch all-reduce",
    AllReduce,
    "trains nothing: one blocking all-reduce of the same bytes after the same compute; bytes, by arithmetic, are a "
    "ring's.",
    unknown=(),
    trains=False,
)
