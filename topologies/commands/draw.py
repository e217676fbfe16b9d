"""`draw`: the rounds of a graph side by side, as a picture or as text."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from topologies.arrays.edges import Edges
from topologies.commands import pictures
from topologies.commands.options import SPECS, Commands, add_command, add_spec, count, graph
from topologies.commands.output.report import Report, paragraph
from topologies.custom.files import is_file
from topologies.errors import SpecError
from topologies.specs import parsed
from topologies.topology import TOLERANCE, Topology

SIZE = 8
"""The default number of ranks."""
PERIOD_ROUNDS = 16
"""The largest default number of rounds for a schedule with a period."""
APERIODIC_ROUNDS = 4
"""The default number of rounds for a schedule without a period."""
MOST_ROUNDS = 64

EXAMPLES = """\
examples
  python -m topologies draw exponential
  python -m topologies draw base_graph --size 6 --picture base.png
  python -m topologies draw ring --size 12 --rounds 6 --rank 3
  python -m topologies draw random_pairs --size 10 --text
"""


def add(commands: Commands) -> None:
    """The arguments of `draw`."""
    command = add_command(
        commands,
        "draw",
        run,
        help="a picture of the rounds side by side",
        description="Draw the edges of each round, the rounds side by side, and how far the value of one rank has "
        "spread after each.",
        epilog=f"{SPECS}\n{EXAMPLES}",
    )
    add_spec(command, f"number of ranks; a file says it itself (default: {SIZE})")
    command.add_argument(
        "--rounds",
        type=count("the number of rounds that are drawn", most=MOST_ROUNDS),
        metavar="N",
        help=f"how many (default: one period, at most {PERIOD_ROUNDS}; {APERIODIC_ROUNDS} where there is no period)",
    )
    command.add_argument(
        "--rank", type=count("a rank", least=0), default=0, metavar="R", help="whose value is followed (default: 0)"
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("--picture", metavar="FILE", help=".png, .svg or .pdf (default: the graph's name and .png)")
    where.add_argument("--text", action="store_true", help="print the edges of each round instead of drawing them")


def run(given: argparse.Namespace) -> Report:
    """Draw the first rounds."""
    if given.picture:
        pictures.check_file(given.picture)
    file = is_file(parsed(given.spec)[0])
    topology = graph(given.spec, given.size or (None if file else SIZE), given.option)
    if given.rank >= topology.size:
        raise SpecError(f"--rank {given.rank} does not exist among {topology.size} ranks, 0 to {topology.size - 1}")
    numbers = range(given.rounds or _rounds(topology))
    title = ",".join([given.spec, *given.option])
    document: dict[str, Any] = {"spec": given.spec, "size": topology.size, "period": topology.period}
    if given.text:
        rounds = [(number, topology.edges(number)) for number in numbers]
        document["rounds"] = [_document(number, edges) for number, edges in rounds]
        lines = [line for number, edges in rounds for line in _text(number, edges)]
        return Report([f"{title}, {topology.size} ranks", *lines], document)
    figure = pictures.rounds(topology, title, numbers, given.rank)
    path = str(pictures.save(figure, given.picture or _file(title)))
    lines = [f"written to {path}"]
    if given.rounds is None and len(numbers) != topology.period:
        whole = "it never repeats" if topology.period is None else f"a period has {topology.period}"
        lines.append(f"the first {len(numbers)} rounds; {whole}, and --rounds N draws more")
    return Report(lines, {**document, "rounds": len(numbers), "picture": path})


def _rounds(topology: Topology) -> int:
    return APERIODIC_ROUNDS if topology.period is None else min(topology.period, PERIOD_ROUNDS)


def _file(title: str) -> str:
    """A file name in the current directory: base_graph,peers=2 goes to base_graph-peers-2.png."""
    name = os.path.basename(title)
    if is_file(name):
        name = os.path.splitext(name)[0]
    return re.sub(r"[^\w.]+", "-", name).strip("-") + ".png"


def _text(number: int, edges: Edges) -> list[str]:
    """One round in plain text: 0 -> 1 sends one way, 0 -- 1 both ways with the same share."""
    shares = _shares(edges)
    parts: list[str] = []
    for (j, i), share in sorted(shares.items()):
        mutual = abs(shares.get((i, j), 0.0) - share) <= TOLERANCE
        if not mutual or j < i:
            # Placeholders for spaces, so that an edge stays on one line.
            parts.append(f"{j} {'--' if mutual else '->'} {i} ({pictures.fraction(share)})".replace(" ", "\0"))
    lines = paragraph(", ".join(parts) or "no rank sends", f"  round {number:<4} ")
    return [line.replace("\0", " ") for line in lines]


def _document(number: int, edges: Edges) -> dict[str, Any]:
    listed = [{"from": j, "to": i, "share": share} for (j, i), share in sorted(_shares(edges).items())]
    return {"round": number, "edges": listed}


def _shares(edges: Edges) -> dict[tuple[int, int], float]:
    ends = zip(edges.source.tolist(), edges.target.tolist(), strict=True)
    return dict(zip(ends, edges.share.tolist(), strict=True))
