"""Where each rank is: its step, what it does there and what it waits for, and what is known of a rank that is silent.

A rank writes its own slot, in memory that the ranks of one host share. Nothing is sent, and a step takes a
microsecond longer. A rank that waits for long reads the slot of its peer, and asks the kernel whether that process
still runs. Of a peer on another host it knows when it last heard from it.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import signal
import socket
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .slot import ENDED, Slot, mapped, path_of

REPORT = getattr(signal, "SIGUSR1", None)
"""The signal that a rank answers with its position and stacks."""

ANSWER = 2.0
"""Seconds that the others on this host have for their reports."""

PATIENCE = 0.1
"""Seconds for a process that has closed its connections to end."""

NAMED = 4
"""Peers whose state an error tells; it only numbers the others."""


class Board:
    """The slot of one rank, and what that rank knows of the others. All channels and groups of a world share it.

    Attributes:
        slot: this rank's own.
        mates: rank -> its slot, for the others on this host.
        hosts: of all ranks.
        heard: rank -> (subject, time) of the last flight with a message from it.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.slot = Slot(rank, os.getpid(), weight=1.0)
        self.mates: dict[int, Slot] = {}
        self.hosts: tuple[str, ...] = ()
        self.heard: dict[int, tuple[str, float]] = {}
        self._job = ""  # a name that the ranks of this host have in common
        self._claim: socket.socket | None = None
        self._processes: dict[int, int] = {}  # rank -> a descriptor of its process, safe from reused numbers
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

    @property
    def call(self) -> str:
        """The public call that this rank is in; "" outside of any."""
        return self.slot.call.decode()

    @contextmanager
    def calling(self, call: str) -> Iterator[None]:
        """Inside, this rank makes the public call `call`, which every rank has to make. The outermost one counts."""
        if self.slot.call:
            yield
            return
        self.slot.call, self.slot.since = call.encode(), time.monotonic()
        try:
            yield
        finally:
            self.slot.call, self.slot.since = b"", time.monotonic()

    # -- what it knows of others ---------------------------------------------------------------------------------------

    def share(self, gather: Callable[[bytes], list[bytes]]) -> tuple[str, ...]:
        """Show the slot to the ranks of this host, and see theirs; the host of every rank. Every rank calls it."""
        host, token = socket.gethostname(), secrets.token_hex(16)
        path = path_of(token)
        try:
            with suppress(OSError):  # a host without room for it does without
                self.slot = mapped(path, self.slot)
            told = gather(f"{host}\n{os.getpid()}\n{_namespace()}\n{token}".encode())
            self._look(host, [said.decode().split("\n") for said in told])
            gather(b"")
        finally:  # the memory stays as long as somebody sees it, and nothing is left of a rank that is killed
            path.unlink(missing_ok=True)
        return self.hosts

    def _look(self, host: str, told: list[list[str]]) -> None:
        self.hosts = tuple(name for name, *_ in told)
        slot, script = self.slot, Path(sys.argv[0]).name or "python"
        slot.host, slot.script = host.encode()[:63], script.encode(errors="replace")[:63]
        slot.job, slot.ranks = told[0][-1].encode()[:8], len(told)
        self._job = next(theirs for name, _, _, theirs in told if name == host)
        for rank, (name, pid, namespace, theirs) in enumerate(told):
            if rank != self.rank and name == host and re.fullmatch("[0-9a-f]{32}", theirs):
                with suppress(OSError):  # another machine or container of this name, or it has no room for a slot
                    self.mates[rank] = mapped(path_of(theirs))
                    if namespace == _namespace() and hasattr(os, "pidfd_open"):
                        self._processes[rank] = os.pidfd_open(int(pid))

    def known(self, rank: int) -> str:
        """The known state of `rank`: `rank 1, process 4711 on this host, is in step 412, computing for 31 s`."""
        parts = [f"rank {rank}"]
        if rank in self.mates:
            slot = self.mates[rank]
            parts.append(f"process {slot.pid} on this host")
            parts.append("has ended" if self.has_ended(rank, PATIENCE) else f"is {slot}")
        elif rank < len(self.hosts):
            parts.append(f"on host {self.hosts[rank]}")
        if rank in self.heard:
            subject, when = self.heard[rank]
            parts.append(f"last heard in {subject} {time.monotonic() - when:.1f} s ago")
        else:
            parts.append("never heard from in a round")
        return ", ".join(parts)

    def waiting_alike(self) -> set[int]:
        """The ranks of this host that wait in the same call for the same thing as this one, itself included."""
        own = self.slot
        mates = {r for r, slot in self.mates.items() if slot.waiting and slot.call == own.call}
        return {self.rank, *(r for r in mates if self.mates[r].subject == own.subject)}

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
        return [rank for rank in self.mates if self.has_ended(rank)]

    def has_ended(self, rank: int, patience: float = 0) -> bool:
        """Whether the process of a rank on this host has ended; False where nobody can tell."""
        process = self._processes.get(rank)
        return process is not None and bool(select.select([process], [], [], patience)[0])

    def ask(self) -> None:
        """Have the others on this host report too, one after another, and wait for each a moment."""
        for rank, process in self._processes.items():
            began = time.monotonic()
            slot = self.mates[rank]
            if not slot.listens or REPORT is None or began - slot.reported < 2 * ANSWER or self.has_ended(rank):
                continue
            with suppress(OSError):  # it has just ended
                signal.pidfd_send_signal(process, REPORT)
                while (
                    time.monotonic() - began < ANSWER
                    and slot.reported < began
                    and slot.listens
                    and not self.has_ended(rank)
                ):
                    time.sleep(0.01)

    def claims_report(self) -> bool:
        """Whether this rank tells for all of its host why the job ends: the first of them that asks."""
        if self._claim is not None or not self._job or sys.platform != "linux":
            return True
        self.slot.listens = False  # it reports now, or another rank does for it
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0gossip-{self._job}")  # a name without a file: it is free again when its process has ended
        except OSError:
            claim.close()
            return False
        self._claim = claim
        return True

    def await_report(self) -> None:
        """Let the rank of this host that reports finish; it ends this process too, where it can."""
        deadline = time.monotonic() + ANSWER * (1 + len(self.mates))
        while not self.claims_report() and time.monotonic() < deadline:
            time.sleep(0.01)


def _close(processes: dict[int, int]) -> None:
    while processes:
        os.close(processes.popitem()[1])


def _namespace() -> str:
    """Which process numbers this process goes by."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
