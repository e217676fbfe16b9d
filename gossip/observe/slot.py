"""The slot of one rank: its step and its current call, in memory that the ranks of one host share."""

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

    def __str__(self) -> str:
        """Such as `in step 412, waiting in land for round 17 for 12.3 s`."""
        doing, call = self.doing.decode(errors="replace"), self.call.decode(errors="replace")
        step = f"in step {self.step}" if doing else "before its first step"
        place = doing if call in ("", STEP) else call
        now = time.monotonic()
        if self.waiting:
            inside = f"in {place} " if place and place != "compute" else ""
            subject = self.subject.decode(errors="replace")
            return f"{step}, waiting {inside}for {subject} for {now - self.waiting:.1f} s"
        if call not in ("", STEP):
            return f"{step}, in {call} for {now - self.since:.1f} s"
        if not doing:
            return step
        if doing == ENDED:
            return f"{step}, at the end of its script for {now - self.since:.1f} s"
        return f"{step}, {'computing' if doing == 'compute' else f'in {doing}'} for {now - self.since:.1f} s"


def path_of(token: str) -> Path:
    """The file of the slot that `token` names, until its readers have opened it."""
    memory = Path("/dev/shm")
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"gossip-{token}"


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
