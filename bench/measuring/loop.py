"""The loop that times updates: compute, barrier where asked, step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gossip import World

from ..cluster import line
from ..shared import record
from ..shared.methods import Method, Trained
from ..shared.statistics import summary
from .models import Compute, Vector

COUNTERS = {
    "waits": "seconds_exposed",
    "in_flight": "seconds_in_flight",
    "merging": "seconds_merging",
    **{name: name for name in ("bytes_sent", "bytes_received", "messages_sent", "messages_received")},
}
"""Attributes of `Updates`, and the counters of the runtime that they hold."""


@dataclass
class Updates:
    """The measurements of one rank, one entry for each update."""

    seconds: list[float] = field(default_factory=list)  # of compute and step, without the barrier between them
    computing: list[float] = field(default_factory=list)  # of them, the compute, without waits in it
    waits: list[float] = field(default_factory=list)  # of them, blocked in a wait for communication
    in_flight: list[float] = field(default_factory=list)  # from posting to arrival, of the flights that landed in it
    merging: list[float] = field(default_factory=list)  # merging the messages that arrived
    bytes_sent: list[int] = field(default_factory=list)  # bytes and messages are of the flights that landed in it
    bytes_received: list[int] = field(default_factory=list)
    messages_sent: list[int] = field(default_factory=list)
    messages_received: list[int] = field(default_factory=list)
    threads: float = 0.0  # CPU seconds of all threads of the process but the main one, over the whole loop

    def add(self, others: Updates) -> None:
        """Append more of the same."""
        for name, values in vars(others).items():
            setattr(self, name, getattr(self, name) + values)

    def whole(self, window: int) -> Updates:
        """Without the updates at the end that fill no window."""
        count = len(self.seconds)
        kept = count - count % window
        lists = {name: values[:kept] for name, values in vars(self).items() if isinstance(values, list)}
        return Updates(**lists, threads=self.threads * kept / count)

    def figures(self, window: int) -> dict[str, Any]:
        """As JSON holds them: seconds, bytes and messages of one update; medians and spread over windows of updates."""
        count = len(self.seconds)
        return {
            **{name: summary(getattr(self, name), window)._asdict() for name in ("seconds", "computing", "waits")},
            **{name: summary(getattr(self, name), window).median for name in ("in_flight", "merging")},
            **{name: sum(getattr(self, name)) / count for name in COUNTERS if name.startswith(("bytes", "messages"))},
            "threads_cpu": self.threads / count,
        }


def gathered(own: Updates, world: World) -> list[Updates]:
    """The measurements of every rank, by rank, on every rank."""
    return [Updates(**each) for each in record.gather(world, dataclasses.asdict(own))]


def figures(ranks: Sequence[Updates], window: int) -> dict[str, Any]:
    """Of all ranks together, then median and mean of each, and all of the one with the highest median."""
    pool = Updates()
    for rank in ranks:
        pool.add(rank)
    own = [rank.figures(window) for rank in ranks]
    medians = [float(each["seconds"]["median"]) for each in own]
    slowest = int(np.argmax(medians))
    return {
        **pool.figures(window),
        "by_rank": medians,
        "mean_by_rank": [float(each["seconds"]["mean"]) for each in own],
        "slowest": {"rank": slowest, **own[slowest]},
    }


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    """The optimizer inside all methods: one pass over the parameters, since its own cost is not the question."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def build(method: Method, world: World, nbytes: int) -> Trained:
    """Parameters of `nbytes` and the method around their optimizer."""
    return method.around(sgd(Vector(nbytes, world)), world)


def measure(
    trained: Any, world: World, compute: Compute, steps: int, warmup: int, *, level: bool, watch: Compute | None = None
) -> Updates:
    """Time `steps` updates of compute and step, after `warmup` of them; `trained` is an optimizer or a peer.

    With `level` a barrier, which is not timed, stands between compute and step: a blocking method then waits for its
    transfer alone, and not for peers whose compute took longer. Where messages travel during the compute there must be
    none, for they would travel during the barrier too. `watch` is called after each update that is not timed.
    """
    updates = Updates()
    world.barrier()
    for number in range(-warmup, steps):
        if number == 0:
            busy = time.process_time() - time.thread_time()
        before = trained.stats.run
        began = time.perf_counter()
        compute()
        computed = time.perf_counter()
        waited = trained.stats.run.seconds_exposed - before.seconds_exposed
        if level:
            line.level(world)
        levelled = time.perf_counter()
        trained.step()
        synchronise(world)
        ended = time.perf_counter()
        if number >= 0:
            updates.seconds.append(ended - levelled + computed - began)
            updates.computing.append(computed - began - waited)
            after = trained.stats.run
            for name, counter in COUNTERS.items():
                getattr(updates, name).append(getattr(after, counter) - getattr(before, counter))
        elif watch is not None:
            watch()
    updates.threads = time.process_time() - time.thread_time() - busy
    trained.settle()
    return updates


def synchronise(world: World) -> None:
    """Let a GPU finish, so that the clock of the host means something."""
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
