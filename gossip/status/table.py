"""The text of the table: a line for each rank, and above them the ranks that the others wait for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..observe.snapshot import Snapshot

TITLES = ("rank", "step", "act", "for", "rounds", "exposed", "hidden", "weight")
ACT = TITLES.index("act")
"""The column of text; the others hold numbers."""

LONG = 2.0
"""Seconds of a wait after which others are looked at."""

NAMED = 4
"""Ranks that the warning tells of; it only numbers the others."""

STATES = {"stopped": ", stopped by a signal", "ended": ", its process has ended", "silent": ", silent"}


class Part(NamedTuple):
    """The ranks of one job on one host: a heading, a warning or "", and the ranks with their cells."""

    heading: str
    warning: str
    rows: list[tuple[Snapshot, list[str]]]


def parts(snapshots: Iterable[Snapshot]) -> Iterator[Part]:
    """The table of each job and host, by rank; the first of a job has the warning about all of its ranks."""
    jobs: dict[str, list[Snapshot]] = defaultdict(list)
    for snapshot in sorted(snapshots, key=lambda each: (each.job, each.rank)):
        jobs[snapshot.job].append(snapshot)
    for job, ranks in jobs.items():
        warning = held_up(ranks)
        for host in dict.fromkeys(each.host for each in ranks):
            own = [each for each in ranks if each.host == host]
            heading = f"{own[0].script}, job {job}: {len(own)} of {own[0].ranks} ranks, on {host}"
            yield Part(heading, warning, [(each, cells(each)) for each in own])
            warning = ""


def held_up(ranks: Sequence[Snapshot]) -> str:
    """A sentence about the ranks of a job that others wait for, or that have stopped; "" where all is well."""
    waiting = [each for each in ranks if each.waits and each.state == "runs" and each.seconds > LONG]
    idle = [each for each in ranks if each.state != "runs"]
    busy = [each for each in ranks if waiting and not each.waits and each.state == "runs" and each.seconds > LONG]
    if not (named := idle or busy):
        return ""
    acts = "; ".join(f"rank {each.rank} is {_act(each)}, for {_seconds(each.seconds)}" for each in named[:NAMED])
    more = f"; and {len(named) - NAMED} more" if len(named) > NAMED else ""
    others = f"{len(waiting)} of {len(ranks)} ranks wait: " if waiting else ""
    return f"{others}{acts}{more}"


def cells(each: Snapshot) -> list[str]:
    """The cells of a rank.

    >>> from gossip.observe.slot import Slot
    >>> cells(Snapshot.of(Slot(3, 4711, weight=0.5), "stopped"))
    ['3', '0', 'before its first step, stopped by a signal', '-', '0', '-', '-', '0.5']
    """
    seconds = _seconds(each.seconds) if each.seconds else "-"
    shares = ("-" if share is None else f"{share:.0%}" for share in (each.exposed, each.hidden))
    place = (str(each.rank), str(each.step), _act(each), seconds, str(each.rounds_in_flight))
    return [*place, *shares, f"{each.weight:.3g}"]


def lines(snapshots: Iterable[Snapshot]) -> list[str]:
    """The whole table as plain text."""
    found: list[str] = []
    for heading, warning, rows in parts(snapshots):
        table = [list(TITLES), *(row for _, row in rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        found += ["", heading, *filter(None, [warning])]
        for row in table:
            padded = (c.ljust(w) if n == ACT else c.rjust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
            found.append(" ".join(padded))
    return found[1:]


def _act(each: Snapshot) -> str:
    return each.act + STATES.get(each.state, "")


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
