"""The interface of a peer to the loop that times updates, and the code that the peers share."""

import importlib
import importlib.metadata
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from gossip import Stats, World
from gossip.launching.launchers import detect
from gossip.transports.torch.rendezvous import connect

from ..measuring.loop import sgd
from ..measuring.models import Task


class Running(ABC):
    """A peer at work: `compute`, `step`, and `stats` of the last step, for `bench.measuring.loop.measure`.

    Attributes:
        module: what is trained, which `compute` and `step` change; None where nothing is.
        stats: seconds blocked and, where arithmetic says them, bytes of the last step.
    """

    def __init__(self, task: Task, world: World, module: nn.Module | None) -> None:
        self.module = module
        self.stats = Stats()
        self._compute = task.compute
        self._world = world
        self._closing: list[dist.ProcessGroup] = []

    def compute(self) -> None:
        """The compute of an update."""
        self._compute()

    @abstractmethod
    def step(self) -> None:
        """The rest of the update."""

    def settle(self) -> None:
        """Land everything in flight."""

    def close(self) -> None:
        """Give back its process groups; every rank does so."""
        self._world.barrier()
        for group in self._closing:
            dist.destroy_process_group(group)

    @contextmanager
    def groups(self, timeout: float) -> Iterator[None]:
        """Process groups that a peer makes inside end with this, and waits in them have a deadline."""
        connect(detect(), timeout)
        make = dist.new_group

        def new_group(*given: Any, **more: Any) -> Any:
            group = make(*given, **{"timeout": timedelta(seconds=timeout), **more})
            if isinstance(group, dist.ProcessGroup):  # on ranks outside, torch returns something else
                self._closing.append(group)
            return group

        with mock.patch.object(dist, "new_group", new_group):
            yield


class Training(Running):
    """A peer that trains: a step is blocked for the time beyond the steps of the optimizer inside it."""

    def __init__(self, task: Task, world: World) -> None:
        super().__init__(task, world, task.module)
        self._number = 0
        self._began = self._inside = 0.0

    @abstractmethod
    def update(self) -> None:
        """The step itself."""

    @abstractmethod
    def sent(self, number: int) -> int:
        """Bytes that this rank sends in step `number`, counted from 0; it receives as many."""

    def step(self) -> None:
        """One step, timed."""
        with self.stats.step(0):
            self._inside = 0.0
            began = time.perf_counter()
            self.update()
            last = self.stats.last
            last.seconds_exposed = last.seconds_in_flight = self.blocked(time.perf_counter() - began)
            last.bytes_sent = last.bytes_received = self.sent(self._number)
            self._number += 1

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

    def blocked(self, step: float) -> float:
        """Seconds of a step that count as a wait."""
        return step - self._inside


UNTOLD = ("merging", "messages_sent", "messages_received")
"""Figures that no peer tells and no arithmetic gives."""


def anywhere(ranks: int) -> str:
    """No reason: it runs on any number of ranks."""
    return ""


class Peer(NamedTuple):
    """A library that is measured beside our own methods.

    title: in tables. build: for a task, a world, a period τ and a timeout; every rank calls it. limits: what a reader
    of its row has to know. package: the distribution that it needs beside torch. `periodic` and `blocking` as in
    `Method`. refuses: a reason why it cannot run on so many ranks. unknown: figures that it leaves
    blank. trains: parameters, through the emulated pass and on the CPU; the yardstick does not, and takes any.
    """

    title: str
    build: Callable[[Task, World, int, float], Running]
    limits: str
    package: str | None = None
    periodic: bool = False
    blocking: bool = True
    refuses: Callable[[int], str] = anywhere
    unknown: tuple[str, ...] = UNTOLD
    trains: bool = True

    @property
    def gossips(self) -> bool:
        """No: each has graphs of its own, or none."""
        return False

    @property
    def missing(self) -> str:
        """Why it cannot be measured here, if so: its package is not installed, or cannot be imported."""
        if self.package is None:
            return ""
        name = self.package.replace("-", "_")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return f"{self.package} is not installed"
            return f"{self.package} cannot be imported ({error})"
        except (ImportError, OSError, AttributeError, RuntimeError) as error:  # as one that was built for another torch
            return f"{self.package} cannot be imported ({error})"
        return ""

    @property
    def version(self) -> str:
        """Of its package, or of torch."""
        return importlib.metadata.version(self.package or "torch")


def ring(ranks: int, nbytes: int) -> int:
    """Bytes that each of so many ranks sends in an all-reduce by a ring, as Gloo does."""
    return 2 * (ranks - 1) * nbytes // ranks


FORWARD = 1 / 3
"""Share of a pass that its forward takes: the backward of a layer is two products where the forward is one."""


class Passes(nn.Module):
    """A chain of layers, one for each parameter, whose passes take `seconds` and leave the gradients that stood there.

    The last layer's gradient is there first, as in a network. Nothing is copied: a gradient is the same memory in every
    pass, so that filling it costs next to nothing beside what is measured.

    Attributes:
        computed: when the backward pass had nothing left to sleep.
    """

    def __init__(self, module: nn.Module, seconds: float = 0.0) -> None:
        super().__init__()
        self.module = module
        self.computed = 0.0
        self._slopes = []
        for parameter in module.parameters():
            assert parameter.grad is not None, "the task fills its gradients"
            self._slopes.append(parameter.grad)
            parameter.grad = None
        self._forward = seconds * FORWARD
        self._backward = (seconds - self._forward) / len(self._slopes)

    def forward(self) -> torch.Tensor:
        """A loss to call backward() on."""
        _sleep(self._forward)
        reached = torch.zeros((), requires_grad=True)
        for parameter, slope in zip(self.module.parameters(), self._slopes, strict=True):
            reached = _layer(reached, parameter, slope, self)
        return reached

    def slept(self) -> None:
        """The backward pass of one layer."""
        _sleep(self._backward)
        self.computed = time.perf_counter()


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reached: torch.Tensor, parameter: nn.Parameter, slope: torch.Tensor, of: Passes) -> Any:
        ctx.slope, ctx.of = slope, of
        return reached.clone()

    @staticmethod
    def backward(ctx: Any, *above: Any) -> Any:
        ctx.of.slept()
        # Another tensor on the same memory: autograd takes it as it is, where it would copy the slope itself.
        return above[0], ctx.slope.detach(), None, None


_layer: Callable[..., torch.Tensor] = _Layer.apply


def _sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
