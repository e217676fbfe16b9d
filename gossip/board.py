"""Where each rank is: its step, what it does there and what it waits for, and what is known of a rank that is silent.

A rank writes its own slot, in memory that the ranks of one host share, so that nothing is sent and a step takes a
microsecond longer. Who waits in vain reads the slot of the one that it waits for, and asks the kernel whether that
process still runs. Of other hosts it knows when it last heard from them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import secrets
import select
import signal
import socket
import struct
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

REPORT = getattr(signal, "SIGUSR1", None)
"""What a rank answers with its position and stacks."""

ANSWER = 2.0
"""Seconds that the others on this host have for their reports."""

PATIENCE = 0.1
"""Seconds for a process that closes its connections to end, and for its launcher to take note of the exit code."""

ENDED = "exit"
"""What a rank does whose script has ended."""

NAMED = 4
"""Peers of whom an error tells what is known; the others only by their number."""


class Slot(ctypes.Structure):
    """What a rank tells of itself; times by the monotonic clock, which the processes of a host share."""

    _fields_ = (
        ("rank", ctypes.c_int64),
        ("pid", ctypes.c_int64),
        ("step", ctypes.c_int64),
        ("since", ctypes.c_double),  # when it began what it does
        ("waiting", ctypes.c_double),  # since when it waits in there; 0 while it does not
        ("reported", ctypes.c_double),  # when it last told of itself
        ("listens", ctypes.c_int64),  # whether it answers REPORT
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
    doing: bytes
    subject: bytes

    def __str__(self) -> str:
        """Such as `in step 412, waiting in land for round 17 for 12.3 s`."""
        doing = self.doing.decode(errors="replace")
        step = f"in step {self.step}" if doing else "before its first step"
        now = time.monotonic()
        if self.waiting:
            place = f"in {doing} " if doing and doing != "compute" else ""
            subject = self.subject.decode(errors="replace")
            return f"{step}, waiting {place}for {subject} for {now - self.waiting:.1f} s"
        if not doing:
            return step
        if doing == ENDED:
            return f"{step}, at the end of its script for {now - self.since:.1f} s"
        return f"{step}, {'computing' if doing == 'compute' else f'in {doing}'} for {now - self.since:.1f} s"


class Board:
    """The slot of one rank, and what that rank knows of the others. All channels and groups of a world share it.

    Attributes:
        slot: this rank's own.
        mates: rank -> its slot, for the others on this host.
        hosts: of all ranks.
        heard: rank -> in what a message of it last landed here, and when.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.slot = Slot(rank, os.getpid())
        self.mates: dict[int, Slot] = {}
        self.hosts: tuple[str, ...] = ()
        self.heard: dict[int, tuple[str, float]] = {}
        self._processes: dict[int, int] = {}  # rank -> a descriptor of its process, which no later one can be taken for
        weakref.finalize(self, _close, self._processes)

    # -- what this rank does -------------------------------------------------------------------------------------------

    def enter(self, doing: str) -> None:
        """This rank begins with `doing`."""
        slot = self.slot
        slot.doing = doing.encode()
        slot.since = time.monotonic()
        slot.waiting = 0.0

    def wait(self, subject: str) -> None:
        """It waits."""
        self.slot.subject = subject.encode()[:63]
        self.slot.waiting = time.monotonic()

    def go_on(self) -> None:
        """It waits no longer."""
        self.slot.waiting = 0.0

    def __enter__(self) -> Board:
        """Around a step, whose number was set before."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.slot.step += 1
            self.enter("compute")

    # -- what it knows of others ---------------------------------------------------------------------------------------

    def share(self, gather: Callable[[bytes], list[bytes]]) -> tuple[str, ...]:
        """Show the slot to the ranks of this host, and see theirs; the host of every rank. Every rank calls it."""
        host, token = socket.gethostname(), secrets.token_hex(16)
        path = _path(token)
        try:
            with suppress(OSError):  # a host without room for it does without
                self.slot = _mapped(path, self.slot)
            told = gather(f"{host}\n{os.getpid()}\n{_namespace()}\n{token}".encode())
            self._look(host, [said.decode().split("\n") for said in told])
            gather(b"")
        finally:  # the memory stays as long as somebody sees it, and nothing is left of a rank that is killed
            path.unlink(missing_ok=True)
        return self.hosts

    def _look(self, host: str, told: list[list[str]]) -> None:
        self.hosts = tuple(name for name, *_ in told)
        for rank, (name, pid, namespace, theirs) in enumerate(told):
            if rank != self.rank and name == host and re.fullmatch("[0-9a-f]{32}", theirs):
                with suppress(OSError):  # another machine or container of this name, or it has no room for a slot
                    self.mates[rank] = _mapped(_path(theirs))
                    if namespace == _namespace() and hasattr(os, "pidfd_open"):
                        self._processes[rank] = os.pidfd_open(int(pid))

    def known(self, rank: int) -> str:
        """What is known of `rank`, such as `rank 1, process 4711 on this host, is in step 412, computing for 31 s`."""
        parts = [f"rank {rank}"]
        if rank in self.mates:
            slot = self.mates[rank]
            ended = self.ended(rank, PATIENCE)
            parts.append(f"process {slot.pid} on this host")
            parts.append(ended or f"is {slot}")
        elif rank < len(self.hosts):
            parts.append(f"on host {self.hosts[rank]}")
        if rank in self.heard:
            subject, when = self.heard[rank]
            parts.append(f"last heard in {subject} {time.monotonic() - when:.1f} s ago")
        else:
            parts.append("never heard from in a round")
        return ", ".join(parts)

    def left(self, rank: int) -> float:
        """Seconds since the script of a rank on this host has ended; 0 while it runs, or where nobody can tell."""
        slot = self.mates.get(rank)
        if slot is None or slot.doing.decode() != ENDED:
            return 0.0
        return time.monotonic() - slot.since

    def known_of(self, ranks: list[int]) -> str:
        """The same of several ranks, in brackets; "" of none."""
        return f" ({'; '.join(map(self.known, ranks[:NAMED]))})" if ranks else ""

    def fallen(self) -> list[int]:
        """The ranks of this host whose processes have ended."""
        return [rank for rank in self.mates if self.ended(rank)]

    def ended(self, rank: int, patience: float = 0) -> str:
        """How the process of a rank on this host ended, in words; "" while it runs, or where nobody can tell."""
        process = self._processes.get(rank)
        if process is None or not select.select([process], [], [], patience)[0]:
            return ""
        deadline = time.monotonic() + PATIENCE
        while (status := _exit_status(process)) is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if status is None:
            return "has ended"
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name} (exit code {128 - code})"
        return f"exited with code {code}"

    def ask(self) -> None:
        """Have the others on this host report too, those that have not just done so, and wait for it a moment."""
        began = time.monotonic()
        asked = []
        for rank, process in self._processes.items():
            slot = self.mates[rank]
            if slot.listens and REPORT is not None and began - slot.reported > 2 * ANSWER and not self.ended(rank):
                with suppress(OSError):  # it has just ended
                    signal.pidfd_send_signal(process, REPORT)
                    asked.append(rank)
        while time.monotonic() - began < ANSWER and any(
            self.mates[rank].reported < began and not self.ended(rank) for rank in asked
        ):
            time.sleep(0.01)


def _close(processes: dict[int, int]) -> None:
    while processes:
        os.close(processes.popitem()[1])


def _path(token: str) -> Path:
    memory = Path("/dev/shm")
    return (memory if memory.is_dir() else Path(tempfile.gettempdir())) / f"gossip-{token}"


def _mapped(path: Path, initial: Slot | None = None) -> Slot:
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


def _namespace() -> str:
    """Which process numbers this process goes by."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _exit_status(process: int) -> int | None:
    """The status of a process that has ended, which Linux tells others than its parent from 6.15 on."""
    import fcntl

    # struct pidfd_info: mask and cgroup id, pid to fsgid, exit code; PIDFD_GET_INFO is _IOWR(0xFF, 11, ...) of 64 bytes
    exited, layout = 1 << 3, struct.Struct("=QQ11Ii")
    info = bytearray(layout.pack(exited, *[0] * 13))
    try:
        fcntl.ioctl(process, 3 << 30 | layout.size << 16 | 0xFF << 8 | 11, info)
    except OSError:
        return None
    mask, *_, status = layout.unpack(info)
    return int(status) if mask & exited else None
