"""The slot of one rank: its place in the job, its step, its current call and what the run has cost so far.

The memory is a file without a name, which the ranks of one host have open. `gossip.status` finds it among the open
files of the processes, and the kernel frees it with the last of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from pathlib import Path

STEP = "step()"
"""The public call that a rank makes most often, whose parts have names of their own."""

ENDED = "exit"
"""The last entry of a rank: its script has ended."""

BEFORE = "before its first step"


class Slot(ctypes.Structure):
    """The position of a rank; times by the monotonic clock, which the processes of a host share."""

    _fields_ = (
        ("rank", ctypes.c_int64),
        ("pid", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("since", ctypes.c_double),  # when it began what it does
        ("waiting", ctypes.c_double),  # since when it waits in there; 0 while it does not
        ("reported", ctypes.c_double),  # when it last told of itself
        ("listens", ctypes.c_int64),  # whether it answers REPORT
        ("call", ctypes.c_char * 64),  # the public call that it is in
        ("doing", ctypes.c_char * 32),
        ("subject", ctypes.c_char * 64),
        ("job", ctypes.c_char * 16),  # alike on all ranks of the job, whatever their host
        ("ranks", ctypes.c_int64),  # of the job
        ("host", ctypes.c_char * 64),
        ("script", ctypes.c_char * 64),
        ("began", ctypes.c_double),  # when its first step began; 0 before
        ("counted", ctypes.c_double),  # up to when the numbers below count
        ("exposed", ctypes.c_double),  # seconds blocked in a wait
        ("flown", ctypes.c_double),  # seconds in flight, summed over flights
        ("rounds_in_flight", ctypes.c_int64),
        ("weight", ctypes.c_double),
    )

    rank: int
    pid: int
    step: int
    since: float
    waiting: float
    reported: float
    listens: int
    call: bytes
    doing: bytes
    subject: bytes
    job: bytes
    ranks: int
    host: bytes
    script: bytes
    began: float
    counted: float
    exposed: float
    flown: float
    rounds_in_flight: int
    weight: float

    def __str__(self) -> str:
        """Such as `in step 412, waiting in land for round 17 for 12.3 s`."""
        step = f"in step {self.step}" if self.doing else BEFORE
        act, since = self.act()
        return f"{step}, {act} for {time.monotonic() - since:.1f} s" if act else step

    def act(self) -> tuple[str, float]:
        """The present act of this rank, such as `waiting in land for round 17`, and when it began; "" before any."""
        doing, call = self.doing.decode(errors="replace"), self.call.decode(errors="replace")
        place = doing if call in ("", STEP) else call
        if self.waiting:
            inside = f"in {place} " if place and place != "compute" else ""
            return f"waiting {inside}for {self.subject.decode(errors='replace')}", self.waiting
        if call not in ("", STEP):
            return f"in {call}", self.since
        if doing == ENDED:
            return "at the end of its script", self.since
        return ("computing" if doing == "compute" else f"in {doing}" if doing else ""), self.since


NAME = "gossip-{}"
"""The name of a slot's file, with a token of 32 hexadecimal digits."""


def path_of(token: str) -> Path:
    """The file of the slot that `token` names, until its readers have opened it."""
    memory = Path("/dev/shm")
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / NAME.format(token)


def mapped(path: Path, initial: Slot | None = None) -> Slot:
    """The slot in `path`, readable by this user alone; a new file where there is something to begin with."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | (0 if initial is None else os.O_CREAT | os.O_EXCL)
    file = os.open(path, flags, 0o600)
    try:
        if initial is not None:
            os.write(file, bytes(initial))
        return Slot.from_buffer(mmap.mmap(file, ctypes.sizeof(Slot)))
    except ValueError as error:  # shorter than a slot
        raise OSError(str(error)) from error
    finally:
        os.close(file)
