"""`python -m gossip.trace FOLDER` joins the timelines of all ranks of a traced run into one file, and sums them up.

Ranks of one machine share a clock, and their times are aligned by it to the microsecond. The clocks of two machines are
aligned by the barrier at the end of the construction of the first optimizer, whose time every file holds. Ranks leave
that barrier within 0 to 2 ms where each rank has a core, and within 5 ms with two ranks on each. Groups that never meet
are aligned as if they had met. Later the times of two machines drift as their clocks do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UsageError
from .observe.timeline import MET, VARIABLE

_EPILOG = """\
examples:
  mpirun -n 4 python -m gossip.launch --trace out/trace train.py
  python -m gossip.trace out/trace                      writes out/trace/trace.json
  python -m gossip.trace out/trace picture.json.gz

A table has a line for each rank: its compute between two steps, its step, and of the step the time in which it waited
for messages, means in ms. The rank that others wait for computes longer and waits less than they do.

Open the result at https://ui.perfetto.dev or chrome://tracing. If hosts share no folder, copy their files into one
first. The file of a killed rank is read up to its last whole step.

exit code: 0; 2 if there is nothing to join or the result cannot be written.
"""

LEFT_OVER = 5.0
"""If the barriers of two files are more seconds apart, by wall clock, the files are likely from different runs."""


class Mark(NamedTuple):
    """A rank's barrier: `met` seconds after `origin`, the zero of its file's times; `clock` names the clock of both."""

    clock: str
    origin: float
    met: float
    wall: float


class Joined(NamedTuple):
    """The result of `join`: numbers of ranks and of events written, remarks for the reader, and a table."""

    ranks: int
    events: int
    remarks: list[str]
    table: list[str]


class Times:
    """Durations of a rank's steps, in microseconds.

    >>> times = Times()
    >>> times.count({"name": "process_name", "ph": "M", "args": {"name": "rank 3 on node1"}})
    >>> for event in ({"name": "compute", "ph": "X", "dur": 9000}, {"name": "step", "ph": "X", "dur": 3000}):
    ...     times.count(event)
    >>> times.count({"name": "round exposed", "cat": "flight", "ph": "X", "dur": 5000, "args": {"exposed us": 2000}})
    >>> times.line()
    'rank 3 on node1                    1         9.00      3.00       2.00'
    """

    TITLES = f"{'':<30}{'steps':>6}{'compute ms':>13}{'step ms':>10}{'waits ms':>11}"

    def __init__(self) -> None:
        self.name, self.waited, self.unseen = "", 0, False
        self.spans: dict[str, list[int]] = defaultdict(list)

    def count(self, event: Mapping[str, Any]) -> None:
        """Take an event of the rank's file into account."""
        if event["name"] == "process_name":
            self.name = event["args"]["name"]
        elif event["ph"] == "X":
            self.spans[event["name"]].append(event["dur"])
            if event.get("cat") == "flight":
                self.waited += event["args"].get("exposed us", 0)
                self.unseen |= "exposed us" not in event["args"]  # over NCCL the host waits for no flight

    def line(self) -> str:
        """The rank's line of the table."""
        compute, step = (statistics.fmean(self.spans[name] or [0]) / 1000 for name in ("compute", "step"))
        count = len(self.spans["step"])
        waits = "-" if self.unseen else f"{self.waited / 1000 / max(count, 1):.2f}"
        return f"{self.name:<30} {count:>5}{compute:>13.2f}{step:>10.2f}{waits:>11}"


def main() -> None:
    """Join the files of a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m gossip.trace",
        description="Join the timelines of all ranks of a traced run into one file for Perfetto or chrome://tracing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help=f"what {VARIABLE}, --trace or trace_folder=... named in the run")
    parser.add_argument("out", type=Path, nargs="?", help="the file to write, .json or .json.gz (FOLDER/trace.json)")
    given = parser.parse_args()
    out = given.out or given.folder / "trace.json"
    try:
        joined = join(given.folder, out)
    except UsageError as error:
        print(f"gossip.trace: {error}", file=sys.stderr)
        sys.exit(2)
    for remark in joined.remarks:
        print(f"gossip.trace: {remark}", file=sys.stderr)
    print("\n".join(joined.table))
    print(f"{out}: {joined.ranks} ranks, {joined.events:,} events; open it at https://ui.perfetto.dev")


def join(folder: Path, out: Path) -> Joined:
    """Write the events of all ranks in `folder` to `out`, with times that count from the first event.

    Raises:
        UsageError: `folder` does not exist or holds no timeline, or `out` cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: it is the one that {VARIABLE} or --trace named in the run")
    named = {path.stem[len("rank-") :]: path for path in folder.glob("rank-*.json")}
    paths = {int(rank): path for rank, path in named.items() if rank.isdecimal()}
    if not paths:
        raise UsageError(
            f"{folder} holds no rank-0.json or the like: was the run started with {VARIABLE}={folder} or --trace, "
            "and on this host?"
        )
    found = {rank: mark(paths[rank]) for rank in sorted(paths)}
    marks = {rank: each for rank, each in found.items() if each is not None}
    remarks = [f"{paths[rank].name} ends before all ranks had met, and is left out" for rank in found.keys() - marks]
    if not marks:
        raise UsageError(f"no rank in {folder} reached its first step: there is nothing to draw")
    remarks += _doubts(marks, paths)
    shifts, count, table = offsets(marks), 0, [Times.TITLES]
    try:
        with (gzip.open if out.suffix == ".gz" else open)(out, "wt", encoding="utf-8") as file:
            for rank, shift in shifts.items():
                times = Times()
                for events in lines(paths[rank], remarks):
                    for event in events:
                        event["ts"] += shift
                        times.count(event)
                    file.write((",\n" if count else "[\n") + json.dumps(events, separators=(",", ":"))[1:-1])
                    count += len(events)
                table.append(times.line())
            file.write("\n]\n")
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): name another file after the folder") from error
    return Joined(len(marks), count, remarks, table)


def offsets(marks: Mapping[int, Mark]) -> dict[int, int]:
    """Microseconds to add to the times of each rank, so that all ranks are on one clock and no time is below 0.

    >>> here, there = Mark("a", 100.0, 0.5, 0.0), Mark("b", 7.0, 0.25, 0.0)
    >>> offsets({0: here, 1: here._replace(origin=100.125), 2: there})
    {0: 0, 1: 125000, 2: 250000}
    """
    left: dict[str, float] = {}
    for clock, origin, met, _ in marks.values():
        # On each machine the first rank to leave the barrier was woken with the least delay.
        left[clock] = min(left.get(clock, math.inf), origin + met)
    zeros = {rank: each.origin - left[each.clock] for rank, each in marks.items()}
    first = min(zeros.values())
    return {rank: round(1e6 * (zero - first)) for rank, zero in zeros.items()}


def mark(path: Path) -> Mark | None:
    """The first barrier in `path`."""
    for events in lines(path, []):
        for event in events:
            if event["name"] == MET:
                args = event["args"]
                return Mark(args["clock"], args["origin"], 1e-6 * event["ts"], args["wall"])
    return None


def lines(path: Path, remarks: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The events of a rank's file, one step at a time; a file that breaks off adds a remark."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.strip().strip("[],")
            try:
                events = json.loads(f"[{text}]")
            except json.JSONDecodeError:
                remarks.append(f"{path.name} breaks off in line {number}, and is read up to there")
                return
            if events:
                yield events


def _doubts(marks: Mapping[int, Mark], paths: Mapping[int, Path]) -> Iterator[str]:
    absent = [rank for rank in range(max(paths)) if rank not in paths]
    if absent:
        yield f"there is no rank-{absent[0]}.json, and {len(absent)} absent in all: did their hosts keep them?"
    first = marks[min(marks)]
    for rank, each in marks.items():
        if abs(each.wall - first.wall) > LEFT_OVER:
            yield (
                f"{paths[rank].name} met the others {each.wall - first.wall:+.0f} s after {paths[min(marks)].name}, by "
                "the hosts' clocks: is one of them left over from another run? Trace each run into a folder of its own"
            )


if __name__ == "__main__":
    main()
