"""The yardstick: an all-reduce of the same bytes by torch.distributed, after the same compute."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from gossip import World
from gossip.launchers import detect
from gossip.transports.rendezvous import connect

from .measuring import Updates, synchronise

NAME = "torch-allreduce"
TITLE = "torch all-reduce"


def measure(
    world: World, nbytes: int, compute: Callable[[], object], steps: int, warmup: int, timeout: float
) -> Updates:
    """Time compute and a blocking all-reduce of `nbytes` of float32, with the barrier of `measuring.measure`."""
    connect(detect(), timeout)
    group = dist.new_group(backend="nccl" if world.transport == "nccl" else "gloo")
    values = torch.ones(max(1, nbytes // 4), device=world.device)
    updates = Updates()
    for number in range(-warmup, steps):
        began = time.perf_counter()
        compute()
        computed = time.perf_counter()
        world.barrier()
        posted = time.perf_counter()
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=group)
        synchronise(world)
        ended = time.perf_counter()
        if number >= 0:
            updates.seconds.append(ended - posted + computed - began)
            updates.exposed.append(ended - posted)
            updates.in_flight.append(ended - posted)
            updates.merging.append(0.0)
            # What a ring sends; torch.distributed does not say what it did.
            updates.bytes_sent.append(2 * (world.size - 1) * values.nbytes // world.size)
            updates.messages_sent.append(2 * (world.size - 1))
    world.barrier()
    dist.destroy_process_group(group)
    return updates
