"""`python -m gossip.status` shows the ranks of running jobs."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import UsageError
from ..observe.snapshot import INTERVAL, VARIABLE, Snapshot, read
from .ranks import on_this_host
from .screen import watch
from .table import lines

_EPILOG = f"""\
examples:
  python -m gossip.status                           on a host of the job; Ctrl-C ends it
  ssh node3 python -m gossip.status                 the table once, for there is no terminal; with ssh -t in place
  python -m gossip.status --json | jq .step         one object a line and rank, once
  mpirun -x {VARIABLE}=/shared/status -n 64 ... python train.py
  python -m gossip.status --folder /shared/status   all hosts; a rank writes there every {INTERVAL:g} s

The columns:
  step      steps that the rank has made, or the number of the step that it is in
  act, for  what the rank does or waits for, and how long it has done so
  rounds    rounds of gossip in flight, posted and not yet landed
  exposed   share of the time since the first step in which the rank was blocked in waits; over NCCL no host waits
  hidden    share of the messages' time in flight in which the rank did not wait
  weight    the push-sum weight that the rank holds

A line above the table names the ranks that the others wait for, and those whose process has stopped or ended. Without
--folder it shows the ranks of your own user on this host; nothing has to be switched on for that. Refreshing in place
needs rich: pip install 'gossip-runtime[status]'.

exit code: 0; 1 if no rank was found; 2 for wrong options or a folder that cannot be read.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the ranks; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gossip.status",
        description="Show the ranks of running jobs: step, present act, rounds in flight, cost and weight of each.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print an object for each rank, one a line, and end")
    how.add_argument("--once", action="store_true", help="print the table and end; so it is without a terminal too")
    how.add_argument("--interval", type=seconds, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument("--folder", type=Path, help=f"read all hosts' ranks here, where {VARIABLE} lets them write")
    given = parser.parse_args(arguments)
    if given.folder is not None and not given.folder.is_dir():
        parser.error(f"there is no folder {given.folder}: the ranks write into that which {VARIABLE} named for them")

    def look() -> list[Snapshot]:
        return on_this_host() if given.folder is None else list(read(given.folder))

    try:
        if not (ranks := look()):
            place = f"here on {socket.gethostname()}" if given.folder is None else f"in {given.folder}"
            print(f"gossip.status: no rank of a job is found {place}", file=sys.stderr)
            return 1
        if given.json:
            print(*(json.dumps(asdict(each)) for each in sorted(ranks, key=_place)), sep="\n")
        elif given.once or not sys.stdout.isatty():
            print(*lines(ranks), sep="\n")
        else:
            watch(look, given.interval)
    except (UsageError, OSError) as error:
        print(f"gossip.status: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the usual end
        return 0
    return 0


def _place(each: Snapshot) -> tuple[str, int]:
    return each.job, each.rank


def seconds(text: str) -> float:
    """The seconds of --interval."""
    number = float(text)
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from 0.1 to 3600")
    return number


if __name__ == "__main__":
    sys.exit(main())
