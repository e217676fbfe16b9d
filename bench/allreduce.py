"""The yardstick: an all-reduce of the same bytes by torch.distributed, after the same compute."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from gossip import Stats, World
from gossip.launchers import detect
from gossip.transports.rendezvous import connect

from .measuring import synchronise

NAME = "torch-allreduce"
TITLE = "torch all-reduce"


class AllReduce:
    """Each step is one blocking all-reduce of `nbytes` of float32, over NCCL where the world is and Gloo elsewhere."""

    def __init__(self, world: World, nbytes: int, timeout: float) -> None:
        connect(detect(), timeout)
        self._world = world
        self._group = dist.new_group(backend="nccl" if world.transport == "nccl" else "gloo")
        self._values = torch.ones(max(1, nbytes // 4), device=world.device)
        self.stats = Stats()

    def step(self) -> None:
        """One all-reduce."""
        with self.stats.step(0):
            began = time.perf_counter()
            dist.all_reduce(self._values, op=dist.ReduceOp.MAX, group=self._group)
            synchronise(self._world)
            last, n = self.stats.last, self._world.size
            last.seconds_exposed = last.seconds_in_flight = time.perf_counter() - began
            # What a ring sends; torch.distributed does not say what it did.
            last.bytes_sent = last.bytes_received = 2 * (n - 1) * self._values.nbytes // n
            last.messages_sent = last.messages_received = 2 * (n - 1)

    def settle(self) -> None:
        """Nothing is ever in flight."""

    def close(self) -> None:
        """Give the group back; every rank does so."""
        self._world.barrier()
        dist.destroy_process_group(self._group)
