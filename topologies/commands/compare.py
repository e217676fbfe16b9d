"""`compare`: several graphs on the same ranks, as a table and as a picture."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, NamedTuple

from topologies.analysis.consensus import Consensus, consensus
from topologies.analysis.facts import Facts, facts
from topologies.commands import pictures
from topologies.commands.options import SPECS, Commands, add_command, add_size, count, graph
from topologies.commands.output import units
from topologies.commands.output.report import Report, cell, paragraph, table
from topologies.commands.show import EXACT_LEFT
from topologies.errors import SpecError
from topologies.loading import check_spec
from topologies.topology import Topology

ROUNDS = 40
"""The default number of rounds of the picture."""

TITLES = ("graph", "period", "peers", "to 1e-3", "carried", "exact", "carried", "period leaves", "weights")
LEGEND = (
    "peers: out-peers a rank and round. to 1e-3, exact: rounds until the ranks' disagreement has shrunk so far, and "
    "the bytes that the busiest rank has carried by then, sent or received, whichever is more. period leaves: of the "
    "worst disagreement. weights: of push-sum, the lowest and the highest."
)

EXAMPLES = """\
examples
  python -m topologies compare exponential base_graph ring torus --size 24
  python -m topologies compare base_graph base_graph,peers=2 complete --size 25 --bytes 1.2GB --picture compare.png
"""


def add(commands: Commands) -> None:
    """The arguments of `compare`."""
    command = add_command(
        commands,
        "compare",
        run,
        help="how fast several graphs agree, by rounds and by bytes: a table and a picture",
        description="Simulate gossip over each graph and compare how many rounds, and how many bytes of the busiest "
        "rank, it takes until the ranks agree.",
        epilog=f"{SPECS}\n{EXAMPLES}",
    )
    command.add_argument("specs", metavar="SPEC", nargs="+", help="which graphs, see below")
    add_size(command, "number of ranks; where all are files, they say it themselves")
    command.add_argument(
        "--bytes", type=units.size, default=units.size("100MB"), metavar="SIZE", help="of a message (default: 100MB)"
    )
    command.add_argument(
        "--rounds",
        type=count("the number of rounds"),
        default=ROUNDS,
        metavar="N",
        help=f"how far the picture and the curves in the JSON go (default: {ROUNDS})",
    )
    command.add_argument("--picture", metavar="FILE", help="draw error against rounds and bytes; .png, .svg or .pdf")


def run(given: argparse.Namespace) -> Report:
    """Every graph once, in the given order."""
    if given.picture:
        pictures.check_file(given.picture)
    for spec in given.specs:
        check_spec(spec)
    graphs = {spec: graph(spec, given.size) for spec in given.specs}
    sizes = {spec: topology.size for spec, topology in graphs.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{spec} has {size}" for spec, size in sizes.items())
        raise SpecError(f"graphs on different numbers of ranks do not compare: {listed}")
    size = next(iter(sizes.values()))
    compared = [_compared(spec, topology, given.rounds, given.bytes) for spec, topology in graphs.items()]
    title = f"{size} rank{'s' * (size > 1)}, messages of {units.bytes_text(given.bytes)}"
    lines = [title, "", *table(TITLES, [each.row() for each in compared]), "", *paragraph(LEGEND)]
    document = {"size": size, "bytes": given.bytes, "graphs": [each.as_dict() for each in compared]}
    if given.picture:
        runs = {each.spec: each.curve for each in compared}
        document["picture"] = str(pictures.save(pictures.comparison(runs, given.bytes, title), given.picture))
        lines += ["", f"written to {document['picture']}"]
    return Report(lines, document)


class Compared(NamedTuple):
    """One graph among the others."""

    spec: str
    facts: Facts
    curve: Consensus
    """Errors and messages over the rounds of `--rounds`."""
    to_thousandth: int | None
    """Bytes that the busiest rank has carried until an error of 1e-3."""
    to_exact: int | None
    """Bytes until the exact mean."""

    def row(self) -> list[str]:
        """The row of the table."""
        facts, peers = self.facts, self.facts.degrees.out
        low, high = facts.weights
        return [
            self.spec,
            str(facts.period or "none"),
            str(peers.low) if peers.low == peers.high else f"{peers.low} to {peers.high}",
            cell(facts.rounds_to_thousandth),
            cell(self.to_thousandth, units.bytes_text),
            cell(facts.rounds_to_exact),
            cell(self.to_exact, units.bytes_text),
            cell(facts.contraction, lambda left: f"<{EXACT_LEFT:g}" if left < EXACT_LEFT else f"{left:.2g}"),
            "1" if low == high == 1 else f"{low:.2g} to {high:.2g}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """The entry of the JSON document."""
        return {
            "spec": self.spec,
            "facts": self.facts.as_dict(),
            "bytes_to_thousandth": self.to_thousandth,
            "bytes_to_exact": self.to_exact,
            "errors": self.curve.errors,
            "messages": self.curve.messages,
        }


def _compared(spec: str, topology: Topology, rounds: int, nbytes: int) -> Compared:
    found = facts(topology)
    ends = found.rounds_to_thousandth, found.rounds_to_exact
    run = consensus(topology, max(rounds, *(end or 0 for end in ends)))
    shown = slice(0, rounds + 1)
    curve = dataclasses.replace(run, errors=run.errors[shown], messages=run.messages[shown])
    carried = [None if end is None else int(run.bytes(nbytes)[end]) for end in ends]
    return Compared(spec, found, curve, *carried)
