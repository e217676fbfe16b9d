"""`advise`: which graph for this network, by predicted time."""

from __future__ import annotations

import argparse
import math

from topologies.analysis import Advice, Link
from topologies.analysis import advise as advice
from topologies.commands.options import SPECS, Commands, add_command, add_size
from topologies.commands.output import units
from topologies.commands.output.report import Report, cell, paragraph, table
from topologies.errors import SpecError
from topologies.loading import check_spec

TITLES = ("graph", "to agree", "rounds", "a round", "carried", "why")
LEGEND = (
    "to agree: predicted time of communication until an average disagreement has shrunk to the error; why speaks of "
    "the worst one. a round: the cost of each training step, the mean over a period. carried: by the busiest rank "
    "until they agree, sent or received, whichever is more. Training does not need agreement from scratch: an "
    "all-reduce is exact in each step, and in each step all ranks pay for it and wait for one another; gossip pays "
    "for a round, which overlap=1 hides behind the compute, and a part of the disagreement remains. All links count "
    "as alike, also inside a host."
)

EXAMPLES = """\
examples
  python -m topologies advise --size 24 --rate 10gbit --latency 50us --bytes 100MB
  python -m topologies advise base_graph exponential my_graphs:star --size 24 --rate 25Gbit/s --bytes 2GB --error 0.001
"""


def add(commands: Commands) -> None:
    """The arguments of `advise`."""
    command = add_command(
        commands,
        "advise",
        run,
        help="which graph for this network? candidates by predicted time",
        description="Rank graphs by the predicted time of communication until the ranks agree up to an error, with "
        "an all-reduce as the baseline and a reason for each.",
        epilog=f"{SPECS}\n{EXAMPLES}",
    )
    command.add_argument("specs", metavar="SPEC", nargs="*", help="which graphs (default: all families)")
    add_size(command, "number of ranks (required)")
    command.add_argument("--rate", type=units.rate, metavar="RATE", help="of each rank's link, as in 10gbit (required)")
    command.add_argument(
        "--latency", type=units.duration, default=0.0, metavar="TIME", help="of a message, as in 50us (default: 0s)"
    )
    command.add_argument("--bytes", type=units.size, metavar="SIZE", help="of a message, as in 100MB (required)")
    command.add_argument(
        "--error",
        type=fraction_of_one,
        default=0.01,
        metavar="E",
        help="the part of the disagreement that may be left (default: 0.01)",
    )


def fraction_of_one(text: str) -> float:
    """A number above 0 and below 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no error to aim at: write a number between 0 and 1, as in 0.01")
    return number


def run(given: argparse.Namespace) -> Report:
    """All candidates, soonest first."""
    missing = [f"--{name}" for name in ("size", "rate", "bytes") if getattr(given, name) is None]
    if missing:
        for spec in given.specs:
            check_spec(spec)
        raise SpecError(
            f"advise needs {' and '.join(missing)}, as in python -m topologies advise --size 24 --rate 10gbit "
            "--bytes 100MB"
        )
    link = Link(given.rate, given.latency)
    found = advice(given.size, link, given.bytes, given.error, names=given.specs or None)
    rows = [_row(each) for each in found]
    title = (
        f"{given.size} rank{'s' * (given.size > 1)}, messages of {units.bytes_text(given.bytes)}, "
        f"links of {units.rate_text(given.rate)} and {units.seconds_text(given.latency)}, error {given.error:g}"
    )
    lines = [title, "", *table(TITLES, rows, left=(0, len(TITLES) - 1)), "", *paragraph(LEGEND)]
    document = {
        "size": given.size,
        "rate": given.rate,
        "latency": given.latency,
        "bytes": given.bytes,
        "error": given.error,
        "advice": [each.as_dict() for each in found],
    }
    return Report(lines, document)


def _row(each: Advice) -> list[str]:
    return [
        each.label,
        cell(each.seconds, units.seconds_text),
        cell(each.rounds),
        cell(each.seconds_per_round, units.seconds_text),
        cell(each.bytes_per_rank, units.bytes_text),
        each.reason,
    ]
