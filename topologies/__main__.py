"""The command line of the graphs: list them, show one, check one."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence

from topologies.catalogue import CATALOGUE
from topologies.errors import SpecError, TopologyError
from topologies.loading import is_file, load, load_file, parse_options
from topologies.topology import Topology
from topologies.validation import rounds_of

SHOWN_ROUNDS = 12

SPECS = """\
SPEC is one of
  NAME                     a family, see `python -m topologies list`
  package.module:factory   a Python function of the number of ranks that returns a topologies.Topology,
                           a networkx graph, or a list of graphs, one for each round
  path/to/graph.graphml    a GraphML file with the nodes 0 to n-1; u -> v means that u sends to v
"""

EXAMPLES = """\
examples
  python -m topologies show exponential --size 8
  python -m topologies show exponential --size 9 --option peers=2 --rank 4
  python -m topologies check my_graphs:lopsided --size 6
  python -m topologies check cluster.graphml

exit codes
  0  done, or the graph is fit for gossip
  1  check: the graph breaks a law, and the message says which
  2  the input is wrong: an unknown name, a missing file, an option that does not fit
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argparse itself exits with 2."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "show":
            topology = _load(given)
            if not 0 <= given.rank < topology.size:
                raise SpecError(
                    f"--rank {given.rank} does not exist among {topology.size} ranks, 0 to {topology.size - 1}"
                )
            print("\n".join(_facts(given.spec, topology) + _turns(topology, given.rank)))
        elif given.command == "check":
            print("\n".join([*_facts(given.spec, _load(given)), "  fit for gossip       yes"]))
        else:
            print("\n".join(_families()))
            print(f"\n{SPECS}\n`python -m topologies --help` tells how to show and check them.")
    except TopologyError as error:
        print(f"python -m topologies: {error}", file=sys.stderr)
        return 1 if given.command == "check" and not isinstance(error, SpecError) else 2
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m topologies",
        formatter_class=raw,
        epilog=f"{SPECS}\n{EXAMPLES}",
        description="Graphs for gossip: who sends which share of its weight to whom in each round.",
    )
    commands = parser.add_subparsers(dest="command", metavar="{list,show,check}")
    commands.add_parser("list", help="list the families and their options", description="List the families.")
    show = commands.add_parser(
        "show",
        formatter_class=raw,
        epilog=SPECS,
        help="facts about a graph, and the turns of one rank",
        description="Print size, period, peers, whether the matrices are doubly stochastic, and the turns of one rank.",
    )
    check = commands.add_parser(
        "check",
        formatter_class=raw,
        epilog=SPECS,
        help="is a graph fit for gossip?",
        description="Check that columns sum to 1, that ranks agree on who sends, that nobody sends to itself, and that "
        "all ranks connect over a period. Exit code 0 when it is so, 1 when not.",
    )
    for command in (show, check):
        command.add_argument("spec", metavar="SPEC", help="which graph, see below")
        command.add_argument("--size", type=_size, metavar="N", help="number of ranks; a file says it itself")
        command.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an option of the family, factory or file, as in peers=2; may be repeated",
        )
    show.add_argument("--rank", type=int, default=0, metavar="R", help="whose turns to show (default: 0)")
    return parser


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"the number of ranks is an integer of at least 1, not {text!r}")
    return int(text)


def _load(given: argparse.Namespace) -> Topology:
    options = parse_options(given.option)
    if given.size is not None:
        return load(given.spec, given.size, **options)
    if is_file(given.spec):
        return load_file(given.spec, **options)
    raise SpecError(f"{given.spec} comes in many sizes: say which with --size N")


def _families() -> list[str]:
    lines = ["families"]
    for name, family in CATALOGUE.items():
        options = ", ".join(
            f"{option.name}={option.default!r}"
            for option in inspect.signature(family).parameters.values()
            if option.name != "size"
        )
        summary = (family.__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<14}{summary}")
        if options:
            lines.append(f"  {'':<14}options: {options}")
    return lines


def _facts(spec: str, topology: Topology) -> list[str]:
    # Of a topology without a period, what was validated is what is told.
    rounds = range(rounds_of(topology))
    doubly = sum(topology.doubly_stochastic(round) for round in rounds)
    turns = [topology.turn(rank, round) for round in rounds for rank in topology._representatives()]
    when = "in every round" if topology.period else f"in each of the first {len(rounds)} rounds"
    return [
        f"{spec}",
        f"  ranks                {topology.size}",
        f"  period               {topology.period or 'none'}",
        f"  out-peers            {_range(len(turn.sends) for turn in turns)} a rank and round",
        f"  in-peers             {_range(len(turn.receives) for turn in turns)} a rank and round",
        f"  doubly stochastic    {when if doubly == len(rounds) else f'in {doubly} of {len(rounds)} rounds'}",
        f"  description          {topology.describe()}",
    ]


def _range(counts: Iterable[int]) -> str:
    low, *_, high = sorted([*counts] * 2)
    return str(low) if low == high else f"{low} to {high}"


def _turns(topology: Topology, rank: int) -> list[str]:
    rounds = rounds_of(topology)
    lines = [f"  turns of rank {rank}"]
    for round in range(min(rounds, SHOWN_ROUNDS)):
        keep, sends, receives = topology.turn(rank, round)
        lines.append(f"    round {round:<4} keeps {keep:<8.4g} sends {_shares(sends):<24} receives {_shares(receives)}")
    if topology.period is None or rounds > SHOWN_ROUNDS:
        lines.append("    …")
    return lines


def _shares(shares: Mapping[int, float]) -> str:
    some = [f"{share:.4g}@{peer}" for peer, share in sorted(shares.items())[:8]]
    return (" ".join(some) or "nothing") + (f" and {len(shares) - 8} more" if len(shares) > 8 else "")


if __name__ == "__main__":
    sys.exit(main())
