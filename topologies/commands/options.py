"""Arguments that several commands share, and the graph that a command line describes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from topologies.commands.output.report import Report
from topologies.custom.files import READERS, from_file, is_file
from topologies.errors import SpecError
from topologies.loading import check_spec, load
from topologies.specs import combined, parse_options
from topologies.topology import Topology

MOST_RANKS = 100_000_000
"""More ranks do not fit into memory, or take hours."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SPECS = f"""\
SPEC is one of
  NAME                     a family, see `python -m topologies list`
  package.module:factory   a Python function of the number of ranks that returns a topologies.Topology, or a
                           networkx graph, a weight matrix, or a list of these, one for each round
  path/to/graph.graphml    a file with the ranks 0 to n-1, u -> v where u sends to v; also
                           {" ".join(ending for ending in READERS if ending != ".graphml")}
Options follow after commas, as in base_graph,peers=2 or circulant,hops=1,2,5 or my_graphs:star,centre=3
"""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], Report], help: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """A command whose help keeps the lines of `epilog`; every command takes `--json`."""
    command = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    command.set_defaults(run=run)
    return command


def add_spec(command: argparse.ArgumentParser, size: str = "number of ranks; a file says it itself") -> None:
    """Add the arguments of one graph: SPEC, --size and --option."""
    command.add_argument("spec", metavar="SPEC", help="which graph, see below")
    add_size(command, size)
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the graph, the same as after a comma; may be repeated",
    )


def add_size(command: argparse.ArgumentParser, help: str) -> None:
    """Add the number of ranks."""
    command.add_argument("--size", type=count("the number of ranks", most=MOST_RANKS), metavar="N", help=help)


def count(what: str, least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`, and at most `most` if it is given."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{what} is an integer of at least {least}, not {text!r}")
        if most is not None and int(text) > most:
            raise argparse.ArgumentTypeError(f"{what} is an integer of at most {most}, not {text!r}")
        return int(text)

    return read


def graph(spec: str, size: int | None, more: Sequence[str] = ()) -> Topology:
    """The topology that SPEC and the texts of `--option` describe; without `size`, SPEC must be a file."""
    options = parse_options(more)
    if size is not None:
        return load(spec, size, **options)
    name, options = combined(spec, options)
    if is_file(name):
        return from_file(name, **options)
    # A misspelt name is reported before the missing size.
    check_spec(name, **options)
    raise SpecError(f"{name} comes in many sizes: say which with --size N")
