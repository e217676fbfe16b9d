"""SlowMo's table 2, the time per iteration, measured again at a hundredth of its bytes and rate.

102.4 MB of ResNet-50 over 10 Gbit/s take as long as 1.024 MB over 100 Mbit/s, so hosts with such links show the paper's
milliseconds. Run it on ranks with a host and a link each; `python -m bench cluster` makes them on one machine. Every
update sleeps for as long as the paper's computes, then steps.

Two halves. ImageNet: 271 ms of compute, as OSGP takes in the paper, on 32 nodes there; milliseconds can be compared.
WMT: 50 ms of compute and the same message. The paper's Transformer has other bytes and its table does not tell its
compute. So there the order can be compared, and roughly each row over SGP. Rows: AR-SGD, Local SGD (τ = 12), SGP and
OSGP with and without SlowMo (τ = 48; with Local SGD 12), both without SlowMo's averages, and no communication.

The prediction is bytes over bandwidth. It takes c, an update without communication, and the line: raw sockets that move
the same bytes over the same hops after the same barrier. All are measured in the same run. L is the line after a pause,
when a shaper lets a first burst through at once, and S the line without a pause: twice the bytes take so much more. An
exact average of n ranks takes A = 2(n - 1)/n L.
  AR  c + A      Local SGD  c + A/τ      SGP  c + L      OSGP  max(c, S)      SlowMo  A/τ more
Rows that are more than 5 % from the prediction are marked. Rows that are more than 10 % from the paper get a sentence
that says why. The order OSGP < Local SGD < SGP < AR is checked. A miss is no error: the exit code stays 0.

Blocking methods are timed from a barrier just before the step, OSGP without one. Without a barrier, and where something
happens in every τ-th update only, the mean over τ updates counts. The ImageNet half of 8 ranks takes about eight
minutes, WMT three. Where all ranks share a host, there is no network: it shows that the command works.

Writes JSON, and beside it the same as CSV, as Markdown and as a picture (PNG).

examples
  python -m bench cluster --nodes 8 --rate 100mbit -- python -m bench table2 --transport mpi
  python -m bench cluster --nodes 8 --launcher torchrun -- python -m bench table2 --transport gloo --halves imagenet
  mpirun -n 4 python -m bench table2 --halves wmt --period 4 --local-period 2 --steps 4
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..shared import options, paper, record, screen, tables
from ..shared.methods import METHODS
from ..shared.pictures import Bar, Bars, Panel, Row
from .beside import WITHIN, Beside, beside
from .rows import HALVES, ROWS, Periods, measure_all, warmup_of

UNITS = (
    "seconds, bytes and messages of one update; measured: seconds.median, over windows of `window` updates of all "
    "ranks; predicted: from `none` and the line; paper: as printed; over_paper: where the line is the paper's, measured"
    " / paper, or over_sgp / paper_over_sgp where model and compute are others; outside: of 5 % around predicted"
)
LEGEND = (
    "ms of an update, medians over those of all ranks; of OSGP and what happens every τ-th, over means of τ updates.",
    "predicted: from `no communication` and the line, both of this run. x: measured over predicted; "
    f"! beyond {WITHIN * 100:.0f} %.",
    "Blocking methods are timed from a barrier just before the step, OSGP without one.",
)
SAME = {"x paper": "over_paper"}
OTHER = {"over SGP": "over_sgp", "paper's over SGP": "paper_over_sgp"}
"""Where the paper's seconds are another quantity, each row is compared over its SGP."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.add_some(parser, "--halves", HALVES, ",".join(HALVES))
    steps = "measured updates of each row; updates that fill no window of τ are left out"
    options.option(parser, "--steps", options.count, str(2 * paper.PERIOD), steps)
    options.option(parser, "--warmup", options.natural, "4", "updates before, or a window if that is more")
    options.option(parser, "--period", options.count, str(paper.PERIOD), "τ of SlowMo")
    local = "τ of Local SGD, with SlowMo or without"
    options.option(parser, "--local-period", options.count, str(paper.LOCAL_PERIOD), local)
    options.add_world(parser)
    options.add_files(parser, "table2")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured."""
    for option, period in (("--period", given.period), ("--local-period", given.local_period)):
        if given.steps < period:
            raise UsageError(f"--steps {given.steps} is less than one {option} {period}: no window would be full")
    options.check_world(given)
    start = "python -m bench cluster --nodes 8 -- python -m bench table2"
    if launcher.size < 2:
        raise UsageError(f"one rank has nobody to speak to: start it on several hosts, or as `{start}`")
    options.check_files(given, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, set side by side, print, write."""
    console, periods = screen.screen(launcher), Periods(given.period, given.local_period)
    updates = len(given.halves) * sum(warmup_of(row, given, periods) + given.steps for row in ROWS)
    with screen.Course(console, updates) as course:
        transport, measured = measure_all(given, course)
    if launcher.rank > 0:
        return
    halves = [beside(name, found, launcher.size, periods) for name, found in measured.items()]
    ranks = f"{launcher.size} ranks over {transport}, compute by sleep, {given.steps} updates a row"
    console.print(f"table2: {ranks}", "")
    for half in halves:
        on_screen = tables.on_screen(f"{half.half.paper.title}\n{setting(half)}", *table(half))
        console.print(on_screen, *said(half), "", sep="\n")
    console.print(*LEGEND, sep="\n")
    results = [result for half in halves for result in half.results]
    record.write(
        given,
        launcher,
        given.json,
        transport=transport,
        unit=UNITS,
        halves=[half.record() for half in halves],
        results=results,
    )
    tables.write_csv(options.beside(given, "csv"), results)
    options.beside(given, "md").write_text(markdown(f"SlowMo's table 2, {ranks}", halves))
    draw(options.beside(given, "png"), halves, ranks)
    console.print(f"written to {given.json}, and as .csv, .md and .png to {given.out / given.json.stem}")


def setting(half: Beside) -> str:
    """Nodes of the paper, compute and line here."""
    paused, steady = (screen.ms(seconds) for seconds in half.line)
    line = f"line {paused} ms, {steady} without a pause"
    return f"Paper: {half.half.paper.nodes} nodes. Here: {screen.ms(half.half.compute)} ms of compute, {line}"


def table(half: Beside) -> tuple[list[str], list[list[str]]]:
    """The heads of the columns, and a row for each result."""
    over = SAME if half.half.same else OTHER
    rows = []
    for result in half.results:
        row = [METHODS[result["algorithm"]].title, *(_ms(result[name]) for name in ("predicted", "paper", "measured"))]
        row.append(f"{result['over_predicted']:.3f}{' !' if result['outside'] else ''}")
        rows.append([*row, *("" if result[name] is None else f"{result[name]:.3f}" for name in over.values())])
    return ["algorithm", "predicted", "paper", "measured", "x predicted", *over], rows


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else screen.ms(seconds)


def said(half: Beside) -> list[str]:
    """The sentences below its table."""
    order = " < ".join(METHODS[name].title for name in half.order)
    return [f"order of the paper, {order}: {'measured too' if half.holds else 'not so here'}.", *half.notes]


def markdown(heading: str, halves: Sequence[Beside]) -> str:
    """A heading, a table and its sentences for each half, and the legend."""
    paragraphs = [f"# {heading}"]
    for half in halves:
        paragraphs += [f"## {half.half.paper.title}", f"{setting(half)}.", tables.markdown(*table(half))]
        paragraphs.append("\n".join(f"- {sentence}" for sentence in said(half)))
    return "\n\n".join([*paragraphs, "\n".join(LEGEND)]) + "\n"


# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
COLORS = {"#c9d1d9": "predicted from bytes", "#0072b2": "measured", "#e69f00": "paper"}
EDGES = {"predicted": 0.82, "measured": 0.905, "paper": 0.985}


def draw(path: Path, halves: Sequence[Beside], heading: str) -> None:
    """A panel for each half."""
    picture = Bars(
        "SlowMo's table 2, measured",
        row=0.46,
        head=1.3,
        gap=1.0,
        right=0.735,
        columns=EDGES,
        bold="measured",
        colors=COLORS,
    )
    picture.draw(path, heading, list(map(_panel, halves)))


def drawn_paper(half: Beside) -> float:
    """The factor of the paper's bars: where they are of another model, its SGP is as long as ours."""
    [sgp] = [result for result in half.results if result["algorithm"] == "sgp"]
    return 1.0 if half.half.same else float(sgp["measured"] / sgp["paper"])


def _panel(half: Beside) -> Panel:
    factors = {"predicted": 1.0, "measured": 1.0, "paper": drawn_paper(half)}
    rows = []
    for result in half.results:
        bars = [
            Bar((result[name] or 0.0) * factors[name], color, place * 0.25, 0.25)
            for place, (name, color) in enumerate(zip(EDGES, COLORS, strict=True), start=-1)
        ]
        rows.append(Row(METHODS[result["algorithm"]].title, bars, [_ms(result[name]) for name in EDGES]))
    scaled = "" if half.half.same else "; its bars scaled to our SGP"
    return Panel(half.half.paper.title, rows, setting(half) + scaled)
