"""A snapshot of a rank for readers outside of the job; each rank can write its own into a folder that hosts share.

A thread writes it every two seconds, and only where GOSSIP_STATUS names a folder. `gossip.status` reads it.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import UsageError
from .process import process
from .slot import BEFORE, Slot

VARIABLE = "GOSSIP_STATUS"
"""The environment variable that names the folder."""

INTERVAL = 2.0
"""Seconds between two snapshots of a rank in the folder."""

SILENT = 10.0
"""Seconds after which a rank that writes no snapshot counts as silent; the clocks of hosts may differ by some."""

FILES = "[0-9a-f]" * 8 + "-[0-9]*.json"
"""The names of the files: job and rank."""

FORGOTTEN = 24 * 3600.0
"""Seconds after which a job that begins removes a snapshot, which a killed rank has left."""


@dataclass
class Snapshot:
    """The position of a rank at one moment, and the costs of the run so far.

    Attributes:
        job: the same for all ranks of a job.
        rank, ranks: this rank's number, and the number of ranks.
        host, pid, script: the process.
        state: "runs", "stopped" by a signal, "ended", or "silent" in the folder.
        step: the number of steps that were made, or of the step that goes on.
        act: such as "computing" or "waiting in land for round 17".
        seconds: for how long.
        waits: whether the rank waits for others.
        rounds_in_flight: rounds of gossip that were posted and have not landed.
        exposed: the share of the time since the first step in which the rank was blocked in waits; None before.
        hidden: the share of the messages' time in flight in which the rank did not wait; None without messages.
        weight: the push-sum weight that the rank holds.
    """

    job: str
    rank: int
    ranks: int
    host: str
    pid: int
    script: str
    state: str
    step: int
    act: str
    seconds: float
    waits: bool
    rounds_in_flight: int
    exposed: float | None
    hidden: float | None
    weight: float

    @classmethod
    def of(cls, slot: Slot, state: str = "runs") -> Snapshot:
        """The snapshot of the rank that writes `slot`.

        >>> Snapshot.of(Slot(3, 4711, job=b"5f0c", ranks=4, weight=1.0)).act
        'before its first step'
        """
        act, since = slot.act()
        elapsed = slot.counted - slot.began
        return cls(
            job=slot.job.decode(errors="replace"),
            rank=slot.rank,
            ranks=slot.ranks,
            host=slot.host.decode(errors="replace"),
            pid=slot.pid,
            script=slot.script.decode(errors="replace"),
            state=state,
            step=slot.step,
            act=act or BEFORE,
            seconds=round(time.monotonic() - since, 3) if act else 0.0,
            waits=slot.waiting > 0,
            rounds_in_flight=slot.rounds_in_flight,
            exposed=round(slot.exposed / elapsed, 4) if slot.began and elapsed > 0 else None,
            hidden=round(max(0.0, 1 - slot.exposed / slot.flown), 4) if slot.flown > 0 else None,
            weight=slot.weight,
        )


class Publisher:
    """Writes the snapshots of this process into `folder` until its script ends.

    Raises:
        UsageError: this rank cannot write there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._ended, self._pid = folder, threading.Event(), os.getpid()
        self._path: Path | None = None
        board = process.board
        assert board is not None, "the ranks have met"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.write()
            _forget(folder)
        except OSError as error:
            raise UsageError(
                f"rank {board.rank} on {board.slot.host.decode()} cannot write its status to {folder} "
                f"({error.strerror}): name a folder that every rank can write to, by {VARIABLE}"
            ) from error
        self._thread = threading.Thread(target=self._run, name="gossip-status", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def _run(self) -> None:
        try:
            while not self._ended.wait(INTERVAL):
                self.write()
        except OSError as error:  # a run is worth more than its status
            print(f"gossip: this rank writes no more status to {self._folder}: {error}", file=sys.stderr)

    def write(self) -> None:
        """Write the snapshot of the last world, and remove that of a world before."""
        with process.lock:
            board = process.board
            assert board is not None
            snapshot = Snapshot.of(board.slot)
            path = self._folder / f"{snapshot.job}-{snapshot.rank}.json"
            if self._path not in (None, path):
                self._remove()
            self._path = path
            new = path.with_suffix(".new")
            new.write_text(json.dumps({"written": time.time(), **asdict(snapshot)}), encoding="utf-8")
            new.replace(path)

    def _remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _end(self) -> None:
        if os.getpid() == self._pid:  # not in a forked child
            self._ended.set()
            self._thread.join(INTERVAL)
            with suppress(OSError):
                self._remove()


def publish() -> None:
    """Write snapshots into the folder of GOSSIP_STATUS from now on, if it is set; of a further world at once too."""
    folder = os.environ.get(VARIABLE)
    if process.publisher is not None:
        process.publisher.write()
    elif folder:
        process.publisher = Publisher(Path(folder))


def read(folder: Path) -> Iterator[Snapshot]:
    """The snapshots in `folder`."""
    for path in folder.glob(FILES):
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # of a rank that has just ended
            told = json.loads(path.read_text(encoding="utf-8"))
            age = max(0.0, time.time() - told.pop("written"))
            snapshot = Snapshot(**told)
            snapshot.seconds = round(snapshot.seconds + age, 3) if snapshot.act != BEFORE else 0.0
            if age > SILENT:
                snapshot.state = "silent"
            yield snapshot


def _forget(folder: Path) -> None:
    for path in folder.glob(FILES):
        with suppress(FileNotFoundError):  # every rank looks
            if time.time() - path.stat().st_mtime > FORGOTTEN:
                path.unlink()
