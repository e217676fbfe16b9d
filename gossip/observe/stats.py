"""Counters of every step, cheap enough to be always on: rounds, messages, bytes and seconds. A report of all weight."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace

import torch
from torch.autograd import profiler

from .board import Board
from .slot import STEP
from .timeline import Flight, Timeline

_UNSEEN: AbstractContextManager[object] = nullcontext()


@dataclass
class Counters:
    """Sums over one step or over a run. Seconds are this rank's; bytes are payload and envelopes as handed over.

    A message counts in the step that waits for it: of OSGP in the next one, or in the last with its `settle()`.

    Attributes:
        steps: calls of `step()`.
        rounds_posted, rounds_landed: gossip rounds started and merged.
        messages_sent, messages_received, bytes_sent, bytes_received: of all that travelled, averages included.
        seconds_exposed: blocked in a wait, which is what communication costs a step beside the merging.
        seconds_in_flight: from posting to arrival, summed over flights, hidden or not; over NCCL, where no host waits,
            to when the arrival was asked for.
        seconds_merging: spent on merging what arrived.
        oldest_age: the age in steps of the oldest flight that landed.
        weight: the push-sum weight held at the end; over NCCL, where reading it would stop the host, the first one.
    """

    steps: int = 0
    rounds_posted: int = 0
    rounds_landed: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds_exposed: float = 0.0
    seconds_in_flight: float = 0.0
    seconds_merging: float = 0.0
    oldest_age: int = 0
    weight: float = 1.0

    def add(self, step: Counters) -> None:
        """Count one more step."""
        for each in fields(self):
            name, value = each.name, getattr(step, each.name)
            if name == "oldest_age":
                self.oldest_age = max(self.oldest_age, value)
            elif name == "weight":
                self.weight = value
            else:
                setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class WeightReport:
    """The weight of all ranks in one step, the same on every rank.

    Attributes:
        ranks: n, the number of ranks and the sum of their first weights.
        held: Σ w.
        in_flight: the weight that was given and is not yet merged.
        spread: rms over ranks of w − Σ w / n; 0 if every round so far was doubly stochastic and has landed.
    """

    ranks: int
    held: float
    in_flight: float
    spread: float

    @classmethod
    def of(cls, ranks: int, sums: torch.Tensor) -> WeightReport:
        """The report of `ranks` ranks, from their sums of w, of weight in flight, and of w²."""
        held, in_flight, squares = sums.tolist()
        return cls(ranks, held, in_flight, max(0.0, squares / ranks - (held / ranks) ** 2) ** 0.5)

    def __str__(self) -> str:
        """The numbers, and the weight that was lost."""
        return f"{self!r}, lost {self.lost:g}"

    @property
    def lost(self) -> float:
        """n − Σ w − weight in flight: 0 but for rounding; positive if a share was lost, negative if merged twice."""
        return self.ranks - self.held - self.in_flight


@dataclass
class Stats:
    """Counters of the last step and of the run.

    Work between two steps, such as `settle()`, counts for the step before.

    Attributes:
        last: the last step.
        route: how the parameters travel: out of memory of a "host", "direct" out of a device's, or "staged" through
            pinned memory of the host; empty where nobody else shares them.
        timeline: where the run is traced, the same is told there as it happens.
        board: where this rank shows what it is at.

    >>> Stats().run.bytes_sent
    0
    """

    last: Counters = field(default_factory=Counters)
    past: Counters = field(default_factory=Counters)
    route: str = ""
    timeline: Timeline | None = field(default=None, repr=False, compare=False)
    board: Board = field(default_factory=lambda: Board(0), repr=False, compare=False)

    @property
    def run(self) -> Counters:
        """All steps so far."""
        total = replace(self.past)
        total.add(self.last)
        return total

    def scalars(self) -> dict[str, float]:
        """The counters as plain numbers for a logger: of the last step as "gossip/…", of the run as "gossip/run/…".

        >>> Stats().scalars()["gossip/weight"]
        1.0
        """
        pairs = (("gossip", self.last), ("gossip/run", self.run))
        return {f"{place}/{name}": float(value) for place, each in pairs for name, value in vars(each).items()}

    def span(self, name: str, subject: str = "") -> AbstractContextManager[object]:
        """A part of the step, for errors, `torch.profiler` and the timeline; next to nothing while nobody looks."""
        slot = self.board.slot
        slot.doing, slot.since, slot.waiting = name.encode(), time.monotonic(), 0.0
        return self._seen(name, subject)

    def _seen(self, name: str, subject: str = "") -> AbstractContextManager[object]:
        if self.timeline is None and not profiler._is_profiler_enabled:
            return _UNSEEN
        seen = profiler.record_function(f"gossip::{name}") if profiler._is_profiler_enabled else _UNSEEN
        return seen if self.timeline is None else self.timeline.span(name, subject, seen)

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Count the time inside as a new step; the last one joins the past."""
        self.past.add(self.last)
        self.last = Counters(steps=1, weight=self.last.weight)
        slot = self.board.slot
        if not self.past.steps:
            slot.began = time.monotonic()
        slot.step, slot.call = number, STEP.encode()
        try:
            with _UNSEEN if self.timeline is None else self.timeline.step(number):
                yield
                if self.timeline is not None:
                    self.timeline.level("sent in a step", "bytes", self.last.bytes_sent)
        finally:
            slot.call = b""
        slot.step = number + 1
        slot.doing, slot.since, slot.waiting = b"compute", time.monotonic(), 0.0

    def weigh(self, weight: torch.Tensor, rounds_in_flight: int = 0) -> None:
        """Note the push-sum weight that is held now, except on a GPU, where reading it would stop the host.

        Readers of the slot see it, and the seconds of the run.
        """
        if not weight.is_cuda:
            self.last.weight = weight.item()
            if self.timeline is not None:
                self.timeline.level("push-sum weight", "w", self.last.weight)
        past, last, slot = self.past, self.last, self.board.slot
        slot.exposed = past.seconds_exposed + last.seconds_exposed
        slot.flown = past.seconds_in_flight + last.seconds_in_flight
        slot.weight, slot.rounds_in_flight = last.weight, rounds_in_flight
        slot.counted = time.monotonic()

    def write(self) -> None:
        """Write the timeline, if there is one."""
        if self.timeline is not None:
            self.timeline.write()

    def wait(self, flight: Flight) -> None:
        """Wait for `flight`, and count what it carried and how long that took."""
        began = time.perf_counter()
        with self._seen("wait", flight.subject):
            flight.wait()
        now = time.perf_counter()
        last = self.last
        last.seconds_exposed += now - began
        if flight.counted:
            return
        flight.counted = True
        last.seconds_in_flight += (flight.landed or now) - flight.posted
        last.messages_sent += flight.messages_sent
        last.messages_received += flight.messages_received
        last.bytes_sent += flight.bytes_sent
        last.bytes_received += flight.bytes_received
        if self.timeline is not None:
            self.timeline.flew(flight, began)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Count the time inside as merging."""
        began = time.perf_counter()
        with self._seen("merge"):
            yield
        self.last.seconds_merging += time.perf_counter() - began
