"""The results of `python -m bench update` as a table on the screen, as Markdown and as a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from ..peers import PEERS
from ..shared import screen, tables
from ..shared.methods import METHODS
from ..shared.pictures import Bar, Bars, Panel, Row
from . import judging
from .matrix import Result, title

LEGEND = "Times in ms, medians over the updates of all ranks; where something happens every τ-th, of means over τ."
GOSSIP = [name for name, method in METHODS.items() if method.gossips]


class Column(NamedTuple):
    """A column's head, its cells, what the cells mean, and whether it is shown without --full."""

    head: str
    cell: Callable[[Result], str]
    means: str = ""
    usual: bool = False


def _cell(path: str, text: Callable[[float], str] = screen.ms) -> Callable[[Result], str]:
    """The cell of `result["a"]["b"]` for "a.b"; empty where one of them is None or missing."""

    def cell(result: Result) -> str:
        found: Any = result
        for name in path.split("."):
            found = None if found is None else found.get(name)
        return "" if found is None else text(found)

    return cell


def _judged(path: str, text: Callable[[float], str]) -> Callable[[Result], str]:
    """A figure that is measured against `none`, and cannot be told where the ranks lacked cores."""
    cell = _cell(path, text)
    return lambda result: "-" if cell(result) and judging.crowded(result) else cell(result)


def _messages(result: Result) -> str:
    sent, received = result["messages_sent"], result["messages_received"]
    return "" if sent is None else f"{sent:.3g} / {received:.3g}"


_SLOWEST = _cell("slowest.seconds.median")
EXPOSED = "update less that of `no communication`, 0 where it is no more"
HIDDEN = "the part of the time in flight that is neither exposed nor waits"
STEADY = "the line for a message right behind another, as of OSGP with less compute"
COLUMNS = (
    Column("update", _cell("seconds.median"), "of blocking methods, from a barrier before step()", usual=True),
    Column("p10 - p90", lambda r: f"{screen.ms(r['seconds']['p10'])} - {screen.ms(r['seconds']['p90'])}"),
    Column("slowest", lambda r: f"{_SLOWEST(r)} ({r['slowest']['rank']})", "update of that rank (which)"),
    Column("free", _cell("free.seconds.median"), "without that barrier, means over τ"),
    Column("compute", _cell("computing.median")),
    Column("exposed", _judged("exposed", judging.never_below_zero), EXPOSED, usual=True),
    Column("hidden", _judged("hidden", lambda share: f"{share * 100:.0f} %"), HIDDEN, usual=True),
    Column("waits", _cell("waits.median"), "blocked in the step"),
    Column("in flight", _cell("in_flight"), "from posting to arrival"),
    Column("merging", _cell("merging")),
    Column("sent", _cell("bytes_sent", screen.size), "by a rank in an update", usual=True),
    Column("received", _cell("bytes_received", screen.size)),
    Column("messages", _messages, "sent / received by a rank in an update"),
    Column("consensus", _cell("consensus", "{:.1e}".format), "rms over ranks of ‖z_i - mean‖ / ‖mean‖, mean over τ"),
)
SPARED = ["no pause", "messages", "received", "waits", "free", "slowest", "merging", "compute", "consensus"]
SPARED += ["p10 - p90", "in flight", "line", "sent"]
"""The columns that a narrow screen leaves out, in this order; the files hold everything."""
MOST_RANKS = 16  # so many stand side by side in Markdown; the JSON has all
GRAPH = Column("graph", lambda r: str(r["topology"]) if r["algorithm"] in GOSSIP else "", usual=True)
NOTE = Column(
    "note", lambda r: judging.CROWDED if judging.crowded(r) else "", usual=True,
    means=f"{judging.CROWDED} where the compute took over {round(judging.MOST * 100 - 100)} % longer than was asked or "
    "than without communication, as ranks took the cores from one another; so nothing can be said of the messages",
)  # fmt: skip
LINES = (
    Column("line", _cell("line"), "raw sockets that move a round's bytes over its hops after a pause", usual=True),
    Column("no pause", _cell("line_steady"), STEADY),
    Column("x line", _judged("over_line", lambda lines: f"{max(lines, 0):.3f}"), "exposed, in lines", usual=True),
)


class Part(NamedTuple):
    """The results that are compared with one another, of one size and compute."""

    title: str
    results: list[Result]


def parts(results: Sequence[Result]) -> list[Part]:
    """By size and compute, in the order of the results; titles name the graph where there is one."""
    graphs = {result["topology"] for result in results}
    gossips = any(result["algorithm"] in GOSSIP for result in results)
    graph = f", {graphs.pop()}" if gossips and len(graphs) == 1 else ""
    found: dict[tuple[int, float], list[Result]] = {}
    for result in results:
        found.setdefault((result["bytes"], result["compute"]), []).append(result)
    return [
        Part(f"{screen.size(nbytes)} of parameters, {screen.ms(compute)} ms of compute" + graph, each)
        for (nbytes, compute), each in found.items()
    ]


def over(result: Result, several: bool) -> str:
    """The graph of a result, behind its name, where there are `several` and it uses one."""
    return f", {result['topology']}" if several and result["algorithm"] in GOSSIP else ""


def legend(shown: Sequence[Column]) -> str:
    """The meaning of the columns whose heads do not say it."""
    return " ".join([LEGEND, *(f"{column.head}: {column.means}." for column in shown if column.means)])


def limits(results: Sequence[Result]) -> list[str]:
    """A sentence for each other library: what a reader of its rows has to know."""
    names = dict.fromkeys(result["algorithm"] for result in results if result["algorithm"] in PEERS)
    return [f"{PEERS[name].title}: {PEERS[name].limits}" for name in names]


def columns(results: Sequence[Result]) -> list[Column]:
    """The columns that are not empty; the graph's, where there are several graphs."""
    several = len({result["topology"] for result in results}) > 1
    found = [*([GRAPH] if several else []), *COLUMNS, *LINES, NOTE]
    return [column for column in found if any(column.cell(result) for result in results)]


def fitting(part: Part, width: int, full: bool = False) -> list[Column]:
    """The usual columns, or with `full` all, as many as `width` characters have room for."""
    chosen = [column for column in columns(part.results) if full or column.usual]
    for head in SPARED:
        heads, rows = _table(part, chosen)
        if sum(2 + max(map(len, column)) for column in zip(heads, *rows, strict=True)) <= width:
            break
        chosen = [column for column in chosen if column.head != head]
    return chosen


def on_screen(part: Part, shown: Sequence[Column]) -> Table:
    """The table of a part with these columns."""
    table = tables.on_screen(part.title, *_table(part, shown))
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    return table


def _table(part: Part, shown: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows."""
    rows = [[title(result["algorithm"]), *(column.cell(result) for column in shown)] for result in part.results]
    return ["algorithm", *(column.head for column in shown)], rows


def markdown(heading: str, results: Sequence[Result], left_out: Sequence[str] = ()) -> str:
    """A heading, tables and a verdict for each part, the legend, and the limits of other libraries."""
    paragraphs = [f"# {heading}"]
    for part in parts(results):
        chosen = columns(part.results)
        paragraphs += [f"## {part.title}", tables.markdown(*_table(part, chosen))]
        paragraphs += [*filter(None, [judging.verdict(part.results)]), *by_rank(part)]
    paragraphs.append(legend(columns(results)))
    paragraphs.append("\n".join(f"- {sentence}" for sentence in (*limits(results), *left_out)))
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def by_rank(part: Part) -> list[str]:
    """A heading, and a table with the median and the mean of each rank: means show ranks that wait now and then."""
    means = [result["mean_by_rank"] for result in part.results]
    size = len(means[0])
    last = sorted(range(size), key=lambda rank: max(ranks[rank] / sum(ranks) for ranks in means), reverse=True)
    shown = sorted(last[:MOST_RANKS])
    which = f"the {len(shown)} slowest of {size} ranks" if len(shown) < size else "by rank"
    several = GRAPH in columns(part.results)
    rows = []
    for result, ranks in zip(part.results, means, strict=True):
        rows.append([title(result["algorithm"]) + over(result, several)])
        for rank in shown:
            bold = "**" if ranks[rank] == max(ranks) else ""
            rows[-1].append(f"{screen.ms(result['by_rank'][rank])} / {bold}{screen.ms(ranks[rank])}{bold}")
    heads = ["algorithm", *(f"rank {rank}" for rank in shown)]
    return [f"Update {which}, median / mean; the slowest mean of a line is bold:", tables.markdown(heads, rows)]


# Of Okabe and Ito, told apart by the colour-blind and by their lightness.
GREY, VERMILION, BLUE = "#c9d1d9", "#d55e00", "#0072b2"
PICTURE = Bars(
    "Time per update", row=0.4, head=1.02, gap=0.62, right=0.755,
    columns={"ms": 0.825, "exposed": 0.91, "hidden": 0.985}, bold="ms",
    colors={GREY: "compute and update", VERMILION: "exposed communication", BLUE: "hidden communication"},
    mark="compute, then the line alone",
)  # fmt: skip


def draw(path: Path, parts: Sequence[Part], heading: str) -> None:
    """A panel for each part, a bar for each result: above, the update's time; below, its messages' time in flight."""
    PICTURE.draw(path, heading, [_panel(part) for part in parts])


def spans(result: Result) -> tuple[float, float, float]:
    """Seconds of compute (all but what is exposed), exposed, hidden; an unmeasured base is taken to be the compute."""
    total, waits = float(result["seconds"]["median"]), float(result["waits"]["median"])
    told = result["exposed"] is not None and not judging.crowded(result)
    # Some wait while they compute.
    exposed = max(0.0, result["exposed"]) if told else max(waits, total - float(result["computing"]["median"]))
    return total - exposed, exposed, max(0.0, float(result["in_flight"] or 0.0) - max(exposed, waits))


def _panel(part: Part) -> Panel:
    several = len({result["topology"] for result in part.results}) > 1
    rows = []
    for result in part.results:
        compute, exposed, hidden = spans(result)
        shown = min(hidden, compute)
        bars = [Bar(compute, GREY, -0.1, 0.46), Bar(exposed, VERMILION, -0.1, 0.46, start=compute)]
        bars.append(Bar(shown, BLUE, 0.25, 0.16, start=compute - shown))
        name, beyond, share = title(result["algorithm"]), screen.ms(exposed) if exposed else "0", ""
        if judging.crowded(result):
            name, beyond, share = f"{name} ({judging.CROWDED})", "-", "-"
        elif result["hidden"] is not None:
            share = f"{result['hidden'] * 100:.0f} %"
        rows.append(Row(name + over(result, several), bars, (screen.ms(result["seconds"]["median"]), beyond, share)))
    line = part.results[0]["line"]
    base = next((result["seconds"]["median"] for result in part.results if result["algorithm"] == "none"), None)
    return Panel(part.title, rows, mark=base + line if line and base else None)
