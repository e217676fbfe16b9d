"""The ranks on this host, found without their help: each keeps its slot open, a file whose name is gone.

A reader of /proc sees the open files of its own user's processes, the superuser those of all. Nothing is left of a
killed rank but what the others of its job still hold.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import UsageError
from ..observe.slot import NAME, Slot
from ..observe.snapshot import VARIABLE, Snapshot

OPEN = re.compile("/" + NAME.format("[0-9a-f]{32}") + r"( \(deleted\))?$")
"""The end of the path of an open slot, as /proc shows it."""

STATES = {"T": "stopped", "t": "stopped", "Z": "ended", "X": "ended"}
"""States of a process, by the kernel's letter; in all others it runs."""


def on_this_host(proc: Path = Path("/proc")) -> list[Snapshot]:
    """The ranks of this user's jobs here; a rank that has died is among them while another one of its job runs.

    Raises:
        UsageError: the system is not Linux, and has no /proc.
    """
    if not proc.is_dir():
        raise UsageError(
            f"{sys.platform} shows no open files in {proc}: let the ranks write into a folder by {VARIABLE}, and give "
            "it to --folder"
        )
    holders: dict[str, dict[int, Path]] = defaultdict(dict)  # name of a slot -> process -> the file in /proc
    for process in proc.glob("[0-9]*"):
        if files := dict(_open_slots(process)):
            number = _number_of(process)
            for name, file in files.items():
                holders[name][number] = file
    latest: dict[Path, tuple[float, Snapshot]] = {}  # process -> of its worlds the one in use
    orphans = []
    for by_number in holders.values():
        slot = _read([*by_number.values()])
        if slot is None:
            continue
        owner = by_number[slot.pid].parents[1] if slot.pid in by_number else None
        if owner is None:
            orphans.append(Snapshot.of(slot, "ended"))
        elif owner not in latest or latest[owner][0] < slot.since:
            latest[owner] = slot.since, Snapshot.of(slot, _state(owner))
    found = [snapshot for _, snapshot in latest.values()]
    jobs = {snapshot.job for snapshot in found}
    return [*found, *(snapshot for snapshot in orphans if snapshot.job in jobs)]


def _open_slots(process: Path) -> Iterator[tuple[str, Path]]:
    """The names of the slots that a process has open, and their places in /proc."""
    with suppress(OSError):  # another user's, or it has just ended
        for file in (process / "fd").iterdir():
            with suppress(OSError):
                if OPEN.search(name := os.readlink(file)):
                    yield name, file


def _read(files: list[Path]) -> Slot | None:
    """The slot that these processes have open; None if it belongs to another version, or all have just ended."""
    for file in files:
        with suppress(OSError):
            data = file.read_bytes()
            return Slot.from_buffer_copy(data) if len(data) == ctypes.sizeof(Slot) else None
    return None


def _number_of(process: Path) -> int:
    """The number that a process itself goes by, in its container; 0 of one that has ended."""
    with suppress(OSError):
        for line in (process / "status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
        return int(process.name)
    return 0


def _state(process: Path) -> str:
    with suppress(OSError):
        letter = (process / "stat").read_text().rpartition(") ")[2][:1]
        return STATES.get(letter, "runs")
    return "ended"
