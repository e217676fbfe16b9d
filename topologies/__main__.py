"""The command line of the graphs: `python -m topologies --help`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from topologies.commands import advise, check, compare, draw, figures, listing, show
from topologies.commands.options import SPECS
from topologies.commands.output.report import json_text
from topologies.errors import TopologyError

EXAMPLES = """\
examples
  python -m topologies show exponential --size 8
  python -m topologies check cluster.graphml
  python -m topologies compare exponential base_graph ring --size 24 --bytes 100MB --picture compare.png
  python -m topologies draw base_graph,peers=2 --size 6
  python -m topologies advise --size 24 --rate 10gbit --latency 50us --bytes 100MB

quantities
  rates in bits a second: 100mbit, 10gbit, 25Gbit/s; times: 50us, 1ms, 0.5s; sizes: 100MB, 1.024MB, 4GiB

exit codes
  0  done, or the graph is fit for gossip
  1  check: the graph breaks a law, and the message says which; figures: one disagrees
  2  the input is wrong: an unknown name, a missing file, an option that does not fit
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse itself exits with 2."""
    parser = _parser()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on stderr: if the encoding has no ő, \u0151 is written.
        sys.stdout.reconfigure(errors="backslashreplace")
    given = parser.parse_args(arguments)
    if given.command is None:
        given = parser.parse_args(["list"])
    try:
        report = given.run(given)
    except TopologyError as error:
        print(f"python -m topologies: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"python -m topologies: so many ranks do not fit into memory ({error})", file=sys.stderr)
        return 2
    try:
        if given.json:
            print(json_text(report.document), flush=True)
        elif report.lines:
            print("\n".join(report.lines), flush=True)
    except OSError as error:
        # Otherwise the interpreter's last flush would report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A closed pipe is no error: the reader has enough, as in `| head`.
        if not isinstance(error, BrokenPipeError):
            print(f"python -m topologies: the output cannot be written: {error}", file=sys.stderr)
            return 2
    if report.complaint:
        print(f"python -m topologies: {report.complaint}", file=sys.stderr)
    return int(report.code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m topologies",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"{SPECS}\n{EXAMPLES}",
        description="Graphs for gossip: the share of its weight that each rank sends to each peer in each round. Each "
        "command has a --help with examples, and --json for programs.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for module in (listing, show, check, compare, draw, advise, figures):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
