"""A device whose memory is the host's: what the transport does with one shows without one.

Work is done when it has been asked for some times, in the order of its stream and not before. Until then, and whenever
a buffer is not in use, there is 0xFF in it, NaN in every floating-point dtype. So whoever is too early, with a copy, a
message or a read, has wrong values.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

import gossip
from gossip.transports.mpi.backend import MpiBackend
from gossip.transports.mpi.gpu import staging
from gossip.transports.mpi.gpu.cuda import Buffer, Event, Memory
from gossip.transports.mpi.gpu.routes import Route

POISON = 0xFF
QUESTIONS = 3
"""After so many, each step of a stream has passed."""


@dataclass(eq=False)
class Step:
    """Some work of a stream, after the work `after` of another."""

    act: Callable[[], object] = lambda: None
    after: Step | None = None
    left: int = QUESTIONS
    stream: deque[Step] | None = None
    passed: bool = False

    def ask(self) -> None:
        """One more question to the stream that it is in."""
        if self.passed:
            return
        head = self.stream[0] if self.stream else self
        if head.after is not None and not head.after.passed:
            head.after.ask()
            return
        head.left -= 1
        if head.left <= 0:
            head.act()
            head.passed = True
            if head.stream:
                head.stream.popleft()


@dataclass(eq=False)
class Reused:
    """An event, which may be recorded again."""

    step: Step = field(default_factory=lambda: Step(passed=True))


class TwinMemory(Memory):
    """Attributes:

    buffers: all that were made.
    used: of them, those that are with a message.
    most_used: the most of these at one time.
    """

    _out: deque[Step]  # type: ignore[assignment]
    _in: deque[Step]  # type: ignore[assignment]

    def __init__(self) -> None:
        self.made, self._idle = 0, defaultdict(list)
        self._out, self._in = deque(), deque()
        self.used = self.most_used = 0

    def mark(self) -> Event:
        return Step()

    def adopt(self) -> None:
        """Any thread may call."""

    def passed(self, event: Event) -> bool:
        step = event.step if isinstance(event, Reused) else event
        step.ask()
        return bool(step.passed)

    def copy_out(self, span: torch.Tensor, buffer: Buffer, after: Event) -> None:
        buffer.memory.fill_(POISON)
        self._start(self._out, buffer, after, lambda: buffer.memory[: len(span)].copy_(span))

    def copy_in(self, buffer: Buffer, span: torch.Tensor, after: Event) -> None:
        def act() -> None:
            span.copy_(buffer.memory[: len(span)])
            buffer.memory.fill_(POISON)

        self._start(self._in, buffer, after, act)

    @staticmethod
    def _start(stream: deque[Step], buffer: Buffer, after: Event, act: Callable[[], object]) -> None:
        assert buffer.copied.step.passed, "a buffer is used again before its copy has ended"
        buffer.copied.step = Step(act, after, stream=stream)
        stream.append(buffer.copied.step)

    def pinned(self, nbytes: int) -> Buffer:
        memory = torch.full((nbytes,), POISON, dtype=torch.uint8)
        return Buffer(memory, memory.numpy(), Reused())

    def take(self, count: int, nbytes: int) -> list[Buffer]:
        self.used += count
        self.most_used = max(self.most_used, self.used)
        return super().take(count, nbytes)

    def give_back(self, buffer: Buffer) -> None:
        assert buffer.copied.step.passed, "a buffer is given back before its copy has ended"
        buffer.memory.fill_(POISON)
        self.used -= 1
        super().give_back(buffer)


class TwinRoutes:
    """Empty tensors and those of more than `host` bytes are the device's, so that envelopes stay on the host."""

    def __init__(self, route: Route, host: int) -> None:
        self.latest, self._host = route, host

    def of(self, tensor: torch.Tensor) -> Route | None:
        """How `tensor` travels."""
        return None if 0 < tensor.nbytes <= self._host else self.latest


def staged(world: gossip.World, chunk: int = 100, host: int = 32) -> TwinMemory:
    """Let tensors of more than `host` bytes travel through buffers, `chunk` bytes at a time."""
    return _through(world, False, chunk, host)


def direct(world: gossip.World, chunk: int = 100, host: int = 32) -> TwinMemory:
    """Let MPI take them as if they were a device's and it carried these."""
    return _through(world, True, chunk, host)


def _through(world: gossip.World, direct: bool, chunk: int, host: int) -> TwinMemory:
    assert isinstance(world.base.backend, MpiBackend)
    staging.CHUNK = chunk
    memory = TwinMemory()
    world.base.backend.engine.routes = TwinRoutes(Route(memory, direct), host)  # type: ignore[assignment]
    return memory
