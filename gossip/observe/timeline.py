"""The timeline of one rank: its phases, and its flights meanwhile, written during the run.

The file holds trace events that Perfetto and chrome://tracing open as they are. Each step adds one line and one write,
and leaves the file whole. A killed run loses the events since its last step, and memory holds no more than those.
`gossip.trace` joins the files of all ranks.

Format: "Trace Event Format", Google, as a JSON array: times in microseconds, a rank as a process, complete events ("X")
that nest on each track. Flights overlap, so there are as many tracks for them as flights at once.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import UsageError
from .process import process

VARIABLE = "GOSSIP_TRACE"
"""The environment variable that names the folder, for scripts that are not to be changed."""

MET = "ranks met"
"""The event right after a barrier of all ranks; its arguments hold the clock and the zero of the file's times."""

TRACK = 1_000_000
"""The distance between the numbers of a rank's tracks, which have to be unique in a job."""

OPENING, SEPARATOR, CLOSING = b"[\n", b",\n", b"\n]\n"
"""A file is one array, with one line of events for each step."""

_encode = json.JSONEncoder(separators=(",", ":")).encode
_NUMBER = re.compile(r"(?<=\bround) \d+")

Event = dict[str, Any]


class Flight(Protocol):
    """A transport's flight, as far as it is counted and drawn."""

    subject: str
    counted: bool
    posted: float
    landed: float | None
    ranks: Sequence[int]
    sends: Mapping[int, Sequence[torch.Tensor]]
    receives: Mapping[int, Sequence[torch.Tensor]]
    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int

    def wait(self) -> None:
        """Block until it has landed."""

    def done(self) -> bool:
        """Whether it has landed."""

    def without_tensors(self) -> Flight:
        """A copy that keeps no tensors alive."""


class Timeline:
    """The timeline of one rank, in `path`; an existing file is replaced."""

    def __init__(self, path: Path, rank: int, host: str) -> None:
        self._origin = time.perf_counter()
        self._rank, self._host = rank, host
        self._idle = self._origin  # when the last step ended
        self._events: list[Event] = []
        self._late: list[Flight] = []
        self._free: list[int] = []  # for each track of flights the time at which its last one landed
        self._levels: dict[str, float] = {}
        self._path, self._users = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: FileIO | None = path.open("wb", buffering=0)
        except OSError as error:
            raise UsageError(
                f"rank {rank} on {host} cannot write its timeline to {path} ({error.strerror}): name a folder that "
                f"every rank can write to, by {VARIABLE} or trace_folder=..."
            ) from error
        self._end = 0
        self._name("process_name", name=f"rank {rank} on {host}")
        self._name("process_sort_index", sort_index=rank)
        self._name("thread_name", name="main")

    @staticmethod
    def of(folder: str | os.PathLike[str], rank: int, host: str, user: object = None) -> Timeline:
        """The timeline of `rank` in `folder`, which all optimizers of this rank in this process share."""
        path = Path(folder).absolute() / f"rank-{rank}.json"
        with process.lock:
            timeline: Timeline | None = process.timelines.get(path)
            if timeline is None:
                timeline = process.timelines[path] = Timeline(path, rank, host)
            if user is not None:
                timeline._users += 1
                weakref.finalize(user, timeline._part).atexit = False
            return timeline

    def _part(self) -> None:  # a process has few file descriptors: the next user opens the file again
        with process.lock:
            self._users -= 1
            if not self._users and self._file is not None:
                self._file.close()

    # -- events --------------------------------------------------------------------------------------------------------

    def align(self) -> None:
        """Note the end of a barrier of all ranks, by which `gossip.trace` aligns the files."""
        self._idle = time.perf_counter()
        place = {"rank": self._rank, "host": self._host}
        zero = {"clock": clock(), "origin": self._origin, "wall": time.time()}
        self._add("i", MET, ts=self._us(self._idle), s="p", args=place | zero)
        self.write()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A step, and before it the time since the previous one: forward, backward, the user's own code."""
        began = time.perf_counter()
        self._span("compute", self._idle, began, step=number)
        try:
            yield
        finally:
            self._idle = time.perf_counter()
            self._span("step", began, self._idle, step=number)
            self.write()

    @contextmanager
    def span(self, name: str, subject: str, inner: AbstractContextManager[object]) -> Iterator[None]:
        """A phase of a step, inside `inner`; it is noted when it ends, also by an error."""
        began = time.perf_counter()
        try:
            with inner:
                yield
        finally:
            self._span(name, began, time.perf_counter(), **({"of": subject} if subject else {}))

    def level(self, name: str, unit: str, value: float) -> None:
        """Note a number if it has changed."""
        if self._levels.get(name) != value:
            self._levels[name] = value
            self._add("C", name, ts=self._us(time.perf_counter()), args={unit: value})

    def flew(self, flight: Flight, waited: float) -> None:
        """Note a flight for which the rank waited from time `waited` on; a device's flight may not have landed yet."""
        if flight.landed is None:
            self._late.append(flight.without_tensors())
            return
        exposed = max(0.0, flight.landed - max(waited, flight.posted))
        hidden = flight.landed - flight.posted - exposed
        how = "hidden" if hidden > exposed else "exposed"
        self._draw(flight, how, flight.landed, {"exposed us": round(1e6 * exposed), "hidden us": round(1e6 * hidden)})

    # -- the file ------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Append the events since the last call, and leave the file whole."""
        # No host waits for the flights of a device: each ends when it is first seen to have landed.
        for flight in list(self._late):
            if flight.done():
                self._late.remove(flight)
                self._draw(flight, "", flight.landed or time.perf_counter(), {"end": "no later than this"})
        if not self._events:
            return
        # Events are noted when they end and sorted by when they begin: one that contains others precedes them.
        self._events.reverse()
        self._events.sort(key=lambda event: (event["ts"], -event.get("dur", 0)))
        line = (SEPARATOR if self._end else OPENING) + _encode(self._events)[1:-1].encode()
        self._events.clear()
        if self._file is None:
            return
        try:
            if self._file.closed:
                self._file = self._path.open("rb+", buffering=0)
            self._file.seek(self._end)
            if self._file.write(line + CLOSING) < len(line + CLOSING):
                raise OSError("its disk is full")
            self._end += len(line)
        except OSError as error:  # a run is worth more than its timeline
            print(f"gossip: rank {self._rank} on {self._host} ends its timeline here: {error}", file=sys.stderr)
            self._file = None

    def _draw(self, flight: Flight, how: str, landed: float, more: dict[str, Any]) -> None:
        began, ended = self._us(flight.posted), self._us(landed)
        track = next((number for number, free in enumerate(self._free, 1) if free <= began), len(self._free) + 1)
        if track > len(self._free):
            self._free.append(ended)
            self._name("thread_name", track, name="flights" if track == 1 else f"flights {track}")
            self._name("thread_sort_index", track, sort_index=track)
        self._free[track - 1] = ended
        args = {
            "of": flight.subject,
            "to": [flight.ranks[peer] for peer in flight.sends],
            "from": [flight.ranks[peer] for peer in flight.receives],
            "bytes sent": flight.bytes_sent,
            "bytes received": flight.bytes_received,
            **more,
        }
        # All rounds have one name, so that a viewer adds them up.
        name = f"{_NUMBER.sub('', flight.subject)} {how}".rstrip()
        self._add("X", name, track, cat="flight", ts=began, dur=ended - began, args=args)

    def _span(self, name: str, began: float, ended: float, **args: object) -> None:
        start = self._us(began)
        more = {"args": args} if args else {}
        self._add("X", name, 0, cat="step", ts=start, dur=self._us(ended) - start, **more)

    def _name(self, kind: str, track: int = 0, **args: object) -> None:
        self._add("M", kind, track, ts=0, args=args)

    def _add(self, kind: str, name: str, track: int = 0, /, **more: Any) -> None:
        tid = track * TRACK + self._rank
        self._events.append({"ph": kind, "name": name, "pid": self._rank, "tid": tid, **more})

    def _us(self, moment: float) -> int:
        """Whole microseconds: all times are rounded down, so that nested events stay nested in every viewer."""
        return int((moment - self._origin) * 1e6)


def clock() -> str:
    """The name of this machine's clock: times of two ranks with the same name can be compared as they are."""
    # On Linux `time.perf_counter` counts from the boot of the kernel, which the containers of a machine share.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/time')}"
    except OSError:
        return socket.gethostname()
