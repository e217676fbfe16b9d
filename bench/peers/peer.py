"""The interface of a peer to the loop that times updates, and the code that the peers share."""

import importlib.metadata
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from unittest import mock

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from gossip import Stats, World
from gossip.launching.launchers import detect
from gossip.transports.torch.rendezvous import connect

from ..measuring.loop import sgd
from ..measuring.models import Layers, Task, sleeping

UNTOLD = ("merging", "messages_sent", "messages_received")  # figures that no peer tells and no arithmetic gives


class Running:
    """A peer at work: `compute`, `step`, and `stats` of the last step, for `bench.measuring.loop.measure`.

    Both change the parameters of `module`, which is None where nothing is trained. A step is blocked for the time
    beyond the steps of the optimizer inside it.
    """

    _optimizer: Optimizer

    def __init__(self, task: Task, world: World, period: int, timeout: float) -> None:
        self.module: nn.Module | None = task.module
        self.stats = Stats()
        # The bytes that each rank sends in an all-reduce by a ring, as Gloo does.
        self.ring = 2 * (world.size - 1) * task.nbytes // world.size
        self._compute, self._world, self._period, self._timeout = task.compute, world, period, timeout
        self._closing: list[dist.ProcessGroup] = []
        self._began = self._inside = 0.0

    def passes(self, task: Task, seconds: float = 0.0) -> Layers:
        """The parameters of `task` in layers whose passes take `seconds`, after all compute has been slept."""
        self._compute = sleeping(task.seconds)
        chain = task.module if isinstance(task.module, Layers) else Layers(task.module.parameters())
        chain.take(seconds)
        return chain

    def compute(self) -> None:
        """The compute of an update."""
        self._compute()

    def step(self) -> None:
        """The rest of the update, timed."""
        with self.stats.step(0):
            self._inside, began = 0.0, time.perf_counter()
            self.update()
            last = self.stats.last
            last.seconds_exposed = last.seconds_in_flight = self.blocked(time.perf_counter() - began)
            last.bytes_sent = last.bytes_received = self.sent(self.stats.past.steps)

    def update(self) -> None:
        """The step itself."""
        self._optimizer.step()

    def sent(self, number: int) -> int:
        """Bytes that this rank sends in step `number`, counted from 0; it receives as many."""
        return self.ring

    def blocked(self, step: float) -> float:
        """Seconds of a step that count as a wait."""
        return step - self._inside

    def settle(self) -> None:
        """Land everything in flight."""

    def close(self) -> None:
        """Give back its process groups; every rank does so."""
        self._world.barrier()
        for group in self._closing:
            dist.destroy_process_group(group)

    @contextmanager
    def groups(self) -> Iterator[None]:
        """Process groups that a peer makes inside end with this, and waits in them have a deadline."""
        connect(detect(), self._timeout)
        make = dist.new_group

        def new_group(*given: Any, **more: Any) -> Any:
            group = make(*given, **{"timeout": timedelta(seconds=self._timeout), **more})
            if isinstance(group, dist.ProcessGroup):  # on ranks outside, torch returns something else
                self._closing.append(group)
            return group

        with mock.patch.object(dist, "new_group", new_group):
            yield

    def clocked(self, module: nn.Module) -> Optimizer:
        """The optimizer that all algorithms are built around, on a watch."""
        optimizer = sgd(module)

        def begin(*_: object) -> None:
            self._began = time.perf_counter()

        def end(*_: object) -> None:
            self._inside += time.perf_counter() - self._began

        # The first post-hook is the innermost: a peer's own hooks, which come later, count as the peer's time.
        optimizer.register_step_pre_hook(begin)
        optimizer.register_step_post_hook(end)
        return optimizer


class Peer(NamedTuple):
    """A library that is measured beside our own methods; `periodic`, `blocking` and `gossips` as in `Method`."""

    title: str  # in tables
    build: Callable[[Task, World, int, float], Running]  # of a task, a world, τ and a timeout; every rank calls it
    limits: str  # what a reader of its row has to know
    package: str | None = None  # the distribution that it needs beside torch
    periodic: bool = False
    blocking: bool = True
    refuses: Callable[[int], str] = lambda ranks: ""  # the reason why it cannot run on so many ranks
    unknown: tuple[str, ...] = UNTOLD  # figures that it leaves blank
    trains: bool = True  # parameters, by emulated passes on the CPU; the yardstick trains nothing and runs anywhere
    gossips: bool = False  # each has graphs of its own, or none

    @property
    def missing(self) -> str:
        """Why it cannot be measured here, if so: its package is not installed, or cannot be imported."""
        if self.package is None:
            return ""
        name = self.package.replace("-", "_")
        try:
            importlib.import_module(name)
        except (ImportError, OSError, AttributeError, RuntimeError) as error:  # as one that was built for another torch
            absent = isinstance(error, ModuleNotFoundError) and error.name == name
            return f"{self.package} " + ("is not installed" if absent else f"cannot be imported ({error})")
        return ""

    @property
    def version(self) -> str:
        """Of its package, or of torch."""
        return importlib.metadata.version(self.package or "torch")
