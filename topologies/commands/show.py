"""`show`: facts about a graph, and the turns of one rank."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from topologies.analysis.facts import Facts, facts
from topologies.analysis.reach import Span
from topologies.commands.options import SPECS, Commands, add_command, add_spec, count, graph
from topologies.commands.output.report import Report
from topologies.errors import SpecError
from topologies.topology import Topology

SHOWN_ROUNDS = 12
"""The default number of turns."""
MOST_ROUNDS = 1000
EXACT_LEFT = 1e-10
"""A contraction below this is rounding."""

EXAMPLES = """\
examples
  python -m topologies show exponential --size 8
  python -m topologies show exponential,peers=2 --size 9 --rank 4
  python -m topologies show random_pairs --size 100000 --rank 99999 --round 1000..1010
"""


def add(commands: Commands) -> None:
    """The arguments of `show`."""
    command = add_command(
        commands,
        "show",
        run,
        help="facts about a graph, and the turns of one rank",
        description="Print size, period, peers, messages, whether the matrices are doubly stochastic, how fast ranks "
        "agree, and the turn of one rank in each round.",
        epilog=f"{SPECS}\n{EXAMPLES}",
    )
    add_spec(command)
    command.add_argument(
        "--rank", type=count("a rank", least=0), default=0, metavar="R", help="whose turns to show (default: 0)"
    )
    command.add_argument(
        "--round",
        type=span,
        metavar="A[..B]",
        help=f"which rounds, the last one included (default: one period, at most {SHOWN_ROUNDS})",
    )


def span(text: str) -> range:
    """Rounds written as 7 or as 3..7, the last one included.

    >>> span("3..7")
    range(3, 8)
    """
    match = re.fullmatch(r"([0-9]+)(?:\.\.([0-9]+))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of rounds: write 7, or 3..7 with the last one included")
    first, last = int(match[1]), int(match[2] or match[1])
    if last - first >= MOST_ROUNDS:
        raise argparse.ArgumentTypeError(f"{text!r} are {last - first + 1} rounds: show at most {MOST_ROUNDS}")
    return range(first, last + 1)


def run(given: argparse.Namespace) -> Report:
    """Facts and turns."""
    topology = graph(given.spec, given.size, given.option)
    if given.rank >= topology.size:
        raise SpecError(f"--rank {given.rank} does not exist among {topology.size} ranks, 0 to {topology.size - 1}")
    found = facts(topology)
    rounds = given.round or range(min(topology.period or SHOWN_ROUNDS, SHOWN_ROUNDS))
    turns = [topology.turn(given.rank, round) for round in rounds]
    lines = [given.spec, *fact_lines(topology, found), f"  turns of rank {given.rank}"]
    for round, turn in zip(rounds, turns, strict=True):
        lines.append(
            f"    round {round:<4} keeps {turn.keep:<8.4g} sends {_shares(turn.sends):<24} "
            f"receives {_shares(turn.receives)}"
        )
    if given.round is None and rounds.stop != topology.period:
        lines.append("    …")
    document = {
        "spec": given.spec,
        "facts": {**found.as_dict(), "description": topology.describe()},
        "rank": given.rank,
        "turns": [{"round": round, **turn._asdict()} for round, turn in zip(rounds, turns, strict=True)],
    }
    return Report(lines, document)


def fact_lines(topology: Topology, found: Facts) -> list[str]:
    """The facts, one a line."""
    judged, doubly = found.judged_rounds, found.doubly_stochastic_rounds
    every = "in every round" if judged == found.period else f"in each of the first {judged} rounds"
    some = f"in {doubly} of {judged} rounds"
    tried = "more rounds than were simulated"
    closer = tried if found.rounds_to_thousandth is None else "never, the error only shrinks"
    low, high = found.weights
    rows = [
        ("ranks", str(found.size)),
        ("period", "1, the same in every round" if found.period == 1 else str(found.period or "none")),
        ("out-peers", f"{_span(found.degrees.out)} a rank and round"),
        ("in-peers", f"{_span(found.degrees.into)} a rank and round"),
        ("busiest rank", f"{found.messages_per_round:.3g} message{'s' * (found.messages_per_round != 1)} a round"),
        ("doubly stochastic", every if doubly == judged else some),
        ("symmetric", "yes" if found.symmetric else "no"),
        ("connects over any", _rounds(found.window, "")),
        ("spectral gap", _number(found.spectral_gap)),
        ("left by a period", _left(found.contraction)),
        ("exact after", _rounds(found.rounds_to_exact, closer)),
        ("error 1e-3 after", _rounds(found.rounds_to_thousandth, tried)),
        ("weights", "1" if low == high == 1 else f"{low:.3g} to {high:.3g}"),
        ("description", topology.describe()),
    ]
    return [f"  {name:<20} {text}" for name, text in rows if text]


def _left(left: float | None) -> str:
    if left is None:
        return ""
    return f"{f'less than {EXACT_LEFT:g}' if left < EXACT_LEFT else f'{left:.3g}'} of the worst disagreement"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _rounds(count: int | None, none: str) -> str:
    return none if count is None else "1 round" if count == 1 else f"{count} rounds"


def _span(span: Span) -> str:
    return str(span.low) if span.low == span.high else f"{span.low} to {span.high}, {span.mean:.3g} in the mean,"


def _shares(shares: Mapping[int, float]) -> str:
    some = [f"{share:.4g}@{peer}" for peer, share in sorted(shares.items())[:8]]
    return (" ".join(some) or "nothing") + (f" and {len(shares) - 8} more" if len(shares) > 8 else "")
