"""`figures`: known figures about graphs beside those computed here."""

from __future__ import annotations

import argparse
import math

from topologies.analysis import Figure
from topologies.analysis import figures as known
from topologies.commands.options import Commands, add_command
from topologies.commands.output.report import Report, table

TITLES = ("known", "computed", "agree", "source", "figure")

EXAMPLES = """\
exit codes
  0  all figures agree
  1  one does not
"""


def add(commands: Commands) -> None:
    """The arguments of `figures`."""
    add_command(
        commands,
        "figures",
        run,
        help="figures of the literature beside those computed here",
        description="Compute known figures about these graphs again, and compare: rounds until the mean is exact, "
        "spectral gaps, the disagreement that a sweep leaves.",
        epilog=EXAMPLES,
    )


def run(given: argparse.Namespace) -> Report:
    """All figures."""
    found = known()
    rows = [_row(each) for each in found]
    wrong = [each.what for each in found if not each.agrees]
    lines = [*table(TITLES, rows, left=(2, 3, 4)), "", f"{len(found) - len(wrong)} of {len(found)} agree"]
    return Report(
        lines,
        {"figures": [each.as_dict() for each in found], "agree": not wrong},
        code=1 if wrong else 0,
        complaint=f"computed otherwise than known: {', '.join(wrong)}" if wrong else "",
    )


def _row(each: Figure) -> list[str]:
    computed = f"{each.computed:.{each.decimals}f}" if math.isfinite(each.computed) else "never"
    agreement = f"within {each.within:.0%}" if each.within else "yes"
    return [
        f"{each.reference:.{each.decimals}f}",
        computed,
        agreement if each.agrees else "NO",
        each.source,
        each.what,
    ]
