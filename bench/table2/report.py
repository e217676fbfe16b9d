"""The table on the screen and as Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from ..shared import screen, tables
from ..shared.methods import METHODS
from .beside import WITHIN, Beside

LEGEND = (
    "ms of an update, medians over those of all ranks; of OSGP and what happens every τ-th, over means of τ updates.",
    "predicted: from `no communication` and the line, both of this run. x: measured over predicted; "
    f"! beyond {WITHIN * 100:.0f} %.",
    "Blocking methods are timed from a barrier just before the step, OSGP without one.",
)

Result = Mapping[str, Any]


class Column(NamedTuple):
    """Its head, and what stands in it."""

    head: str
    cell: Callable[[Result], str]


def _ms(name: str) -> Callable[[Result], str]:
    return lambda result: "" if result[name] is None else screen.ms(result[name])


def _times(name: str, digits: int = 3) -> Callable[[Result], str]:
    return lambda result: "" if result[name] is None else f"{result[name]:.{digits}f}"


def _marked(result: Result) -> str:
    return f"{result['over_predicted']:.3f}{' !' if result['outside'] else ''}"


COLUMNS = (
    Column("predicted", _ms("predicted")),
    Column("paper", _ms("paper")),
    Column("measured", _ms("measured")),
    Column("x predicted", _marked),
)
SAME = (Column("x paper", _times("over_paper")),)
OTHER = (Column("over SGP", _times("over_sgp")), Column("paper's over SGP", _times("paper_over_sgp")))


def setting(half: Beside) -> str:
    """What it was in the paper, and is here."""
    paused, steady = (screen.ms(seconds) for seconds in half.line)
    line = f"line {paused} ms, {steady} without a pause"
    return f"Paper: {half.half.paper.nodes} nodes. Here: {screen.ms(half.half.compute)} ms of compute, {line}"


def columns(half: Beside) -> list[Column]:
    """The paper's seconds beside ours where they are the same quantity, and otherwise what each has over its SGP."""
    return [*COLUMNS, *(SAME if half.half.same else OTHER)]


def rows(half: Beside) -> list[list[str]]:
    """A line for each result, its title first."""
    chosen = columns(half)
    return [
        [METHODS[result["algorithm"]].title, *(column.cell(result) for column in chosen)] for result in half.results
    ]


def said(half: Beside) -> list[str]:
    """The sentences below its table."""
    return [f"{half.order}.", *half.notes]


def on_screen(half: Beside) -> Table:
    """For a terminal."""
    title = f"{half.half.paper.title}\n{setting(half)}"
    return tables.on_screen(title, ["algorithm", *(column.head for column in columns(half))], rows(half))


def markdown(heading: str, halves: Sequence[Beside]) -> str:
    """A heading, a table and its sentences for each half, and the legend."""
    paragraphs = [f"# {heading}"]
    for half in halves:
        heads = ["algorithm", *(column.head for column in columns(half))]
        paragraphs += [f"## {half.half.paper.title}", f"{setting(half)}.", tables.markdown(heads, rows(half))]
        paragraphs.append("\n".join(f"- {sentence}" for sentence in said(half)))
    return "\n\n".join([*paragraphs, "\n".join(LEGEND)]) + "\n"
