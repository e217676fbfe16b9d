"""The loop that times updates: compute, barrier where asked, step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from gossip import Stats, World
from topologies import Topology

from ..cluster import line
from ..shared import record
from ..shared.algorithms import Algorithm, Trained
from ..shared.statistics import summary
from .models import Vector


@dataclass
class Updates:
    """What one rank measured, one entry for each update.

    Attributes:
        seconds: of compute and step, without the barrier between them.
        computing: of them, the compute.
        waits: of them, blocked in a wait for communication.
        in_flight: from posting to arrival, summed over the flights that landed in the update.
        merging: taking in what arrived.
        bytes_sent, bytes_received, messages_sent, messages_received: of the flights that landed in the update.
        threads: CPU seconds of all threads of the process but the main one, over the whole loop.
    """

    seconds: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    in_flight: list[float] = field(default_factory=list)
    merging: list[float] = field(default_factory=list)
    bytes_sent: list[int] = field(default_factory=list)
    bytes_received: list[int] = field(default_factory=list)
    messages_sent: list[int] = field(default_factory=list)
    messages_received: list[int] = field(default_factory=list)
    threads: float = 0.0

    def add(self, others: Updates) -> None:
        """Take in more of the same."""
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
            "seconds": summary(self.seconds, window)._asdict(),
            "computing": summary(self.computing, window)._asdict(),
            "waits": summary(self.waits, window)._asdict(),
            "in_flight": summary(self.in_flight, window).median,
            "merging": summary(self.merging, window).median,
            "bytes_sent": sum(self.bytes_sent) / count,
            "bytes_received": sum(self.bytes_received) / count,
            "messages_sent": sum(self.messages_sent) / count,
            "messages_received": sum(self.messages_received) / count,
            "threads_cpu": self.threads / count,
        }


def pooled(ranks: Sequence[Updates]) -> Updates:
    """The updates of all ranks, one rank's behind another's."""
    pool = Updates()
    for rank in ranks:
        pool.add(rank)
    return pool


def gathered(own: Updates, world: World) -> list[Updates]:
    """What every rank measured, by rank, on every rank."""
    return [Updates(**each) for each in record.gather(world, dataclasses.asdict(own))]


def figures(ranks: Sequence[Updates], window: int) -> dict[str, Any]:
    """Of all ranks together, then median and mean of each, and all of the one with the highest median."""
    own = [rank.figures(window) for rank in ranks]
    medians = [float(each["seconds"]["median"]) for each in own]
    slowest = max(range(len(own)), key=medians.__getitem__)
    return {
        **pooled(ranks).figures(window),
        "by_rank": medians,
        "mean_by_rank": [float(each["seconds"]["mean"]) for each in own],
        "slowest": {"rank": slowest, **own[slowest]},
    }


class Steps(Protocol):
    """What can be timed: an optimizer, or what stands in for one."""

    @property
    def stats(self) -> Stats:
        """Counters of the last step."""

    def step(self) -> object:
        """One step."""

    def settle(self) -> None:
        """Land everything in flight."""


def sgd(model: torch.nn.Module) -> torch.optim.SGD:
    """The optimizer that all algorithms are built around: one pass, for what it costs is not the question."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def build(algorithm: Algorithm, world: World, graph: Topology, nbytes: int, period: int) -> Trained:
    """Parameters of `nbytes` and the algorithm around their optimizer."""
    return algorithm.build(sgd(Vector(nbytes, world)), world, graph, period)


def measure(
    optimizer: Steps,
    world: World,
    compute: Callable[[], object],
    steps: int,
    warmup: int,
    *,
    level: bool,
    watch: Callable[[], object] | None = None,
) -> Updates:
    """Time `steps` updates of compute and step, after `warmup` of them.

    With `level` a barrier, which is not timed, stands between compute and step: a blocking method then waits for its
    transfer alone, and not for peers whose compute took longer. Where messages travel during the compute there must be
    none, for they would travel during the barrier too. `watch` is called after each update that is not timed.
    """
    updates = Updates()
    world.barrier()
    for number in range(-warmup, steps):
        if number == 0:
            busy = _other_threads()
        began = time.perf_counter()
        compute()
        computed = time.perf_counter()
        if level:
            line.level(world)
        levelled = time.perf_counter()
        optimizer.step()
        synchronise(world)
        ended = time.perf_counter()
        if number < 0:
            if watch is not None:
                watch()
        else:
            last = dataclasses.replace(optimizer.stats.last)
            updates.seconds.append(ended - levelled + computed - began)
            updates.computing.append(computed - began)
            updates.waits.append(last.seconds_exposed)
            updates.in_flight.append(last.seconds_in_flight)
            updates.merging.append(last.seconds_merging)
            updates.bytes_sent.append(last.bytes_sent)
            updates.bytes_received.append(last.bytes_received)
            updates.messages_sent.append(last.messages_sent)
            updates.messages_received.append(last.messages_received)
    updates.threads = _other_threads() - busy
    optimizer.settle()
    return updates


def _other_threads() -> float:
    return time.process_time() - time.thread_time()


def synchronise(world: World) -> None:
    """Let a GPU finish, so that the clock of the host means something."""
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
