"""`check`: whether a graph is fit for gossip, and the reason if it is not."""

from __future__ import annotations

import argparse

from topologies.analysis.facts import facts
from topologies.commands.options import SPECS, Commands, add_command, add_spec, graph
from topologies.commands.output.report import Report
from topologies.commands.show import fact_lines
from topologies.errors import SpecError, TopologyError

EXAMPLES = """\
examples
  python -m topologies check cluster.graphml
  python -m topologies check my_graphs:lopsided --size 6
  python -m topologies check my_graphs:star,centre=3 --size 6 --json

exit codes
  0  the graph is fit for gossip
  1  the graph breaks a law, and the message names the round, the rank or column, and a remedy
  2  there is no such graph: an unknown name, a missing file, an option that does not fit
"""


def add(commands: Commands) -> None:
    """The arguments of `check`."""
    command = add_command(
        commands,
        "check",
        run,
        help="is a graph fit for gossip?",
        description="Check that columns sum to 1, that sends and receives agree, that no rank sends to itself, and "
        "that all ranks connect over a period.",
        epilog=f"{SPECS}\n{EXAMPLES}",
    )
    add_spec(command)


def run(given: argparse.Namespace) -> Report:
    """Load the graph, which validates it."""
    try:
        topology = graph(given.spec, given.size, given.option)
    except SpecError:
        raise
    except TopologyError as error:
        return Report([], {"spec": given.spec, "fit": False, "reason": str(error)}, code=1, complaint=str(error))
    found = facts(topology)
    lines = [given.spec, *fact_lines(topology, found), f"  {'fit for gossip':<20} yes"]
    return Report(lines, {"spec": given.spec, "fit": True, "facts": found.as_dict()})
