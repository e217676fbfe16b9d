"""The tables and sentences that the command prints, a paper's table beside the model's, and the JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

import topologies
from topologies.commands.output import units
from topologies.commands.pictures.canvas import INK, QUIET, canvas, save

from ..shared import paper, screen, tables
from ..shared.methods import Traffic
from ..shared.pictures import frame
from .calibration import Compared, Fitted
from .machine import TITLES, Cluster, Machine, traffics
from .simulation import Prediction, simulate

Found = dict[int, dict[str, Prediction]]  # number of ranks -> method -> what an update takes


def hosts(machine: Machine) -> str:
    """The machine in one line."""
    form = "lognormal" if machine.tail is None else f"Pareto tail {machine.tail:g}"
    spread = f" ± {machine.jitter * 100:.2g} % ({form})" if machine.jitter else ""
    network = f"{units.rate_text(machine.rate)}, {units.seconds_text(machine.latency)} latency"
    parts = [f"compute {screen.ms(machine.compute)} ms{spread}", network]
    if machine.ranks_per_host > 1:
        parts.append(f"{machine.ranks_per_host} ranks a host")
    if machine.slow_share:
        slow = ((machine.slow_compute, "compute"), (machine.slow_rate, "link"))
        slower = " and ".join(f"{what} {times:g} times slower" for times, what in slow if times > 1) or "no slower"
        parts.append(f"{machine.slow_share * 100:.3g} % of hosts: {slower}")
    return "; ".join(parts)


def periods(methods: Mapping[str, Traffic]) -> str:
    """Which methods average how often and how, in one line; nothing where none does."""
    found: dict[str, list[str]] = {}
    for name, method in methods.items():
        if method.window > 1:
            found.setdefault(f"by {method.collective} every {method.window} updates", []).append(TITLES[name])
    every = "; ".join(f"{how}: {', '.join(titles)}" for how, titles in found.items())
    return f"exact average {every}" if found else ""


def predictions(heading: str, methods: Iterable[str], found: Found) -> Group:
    """A row for each number of ranks, a column for each method: median, mean, and what is exposed of the mean."""
    columns = ["ranks", *(TITLES[name] for name in methods)]
    figures: dict[str, Callable[[Prediction], float]] = {
        heading: lambda prediction: prediction.seconds.median,
        "mean, ms": lambda prediction: prediction.seconds.mean,
        # A rounding error of a sum is nothing.
        "exposed, mean, ms": lambda prediction: prediction.exposed if abs(prediction.exposed) > 1e-9 else 0.0,
    }
    made: list[RenderableType] = []
    for title, figure in figures.items():
        rows = [[f"{n:,}", *(screen.ms(figure(each)) for each in row.values())] for n, row in found.items()]
        made += [tables.on_screen(title, columns, rows), ""]
    return Group(*made)


def fit_sentence(fitted: Fitted) -> str:
    """The fitted parameters, and their error."""
    merging = f"{screen.size(1 / fitted.merge)} a second" if fitted.merge else "no time"
    files = {point.file for point in fitted.points}
    error = "no more of them than unknowns, so that nothing says how well it fits: measure more sizes"
    if fitted.error is not None:
        error = f"rms error {fitted.error * 100:.2g} %"
    beside = f"{screen.ms(fitted.overhead.fixed)} ms"
    if fitted.overhead.per_byte:
        beside += f" and {screen.ms(fitted.overhead.per_byte * 1e6)} ms a megabyte"
    where = f"{len(fitted.points)} points of {len(files)} file{'s' if len(files) > 1 else ''}"
    return (
        f"fitted to {where}, {error}: rate {units.rate_text(fitted.rate)}, latency "
        f"{units.seconds_text(fitted.latency)}, merging {merging}, {beside} an update beside its compute, jitter "
        f"{fitted.jitter * 100:.2g} %"
    )


def published() -> list[dict[str, Any]]:
    """The paper's table beside the model, which has bytes over bandwidth and no jitter, latency or merging."""
    half, nodes = paper.IMAGENET, paper.IMAGENET.nodes
    chosen = {name: each for name, each in traffics(paper.PERIOD, paper.LOCAL_PERIOD).items() if name in half.seconds}
    cluster = Cluster(Machine(compute=paper.COMPUTE, rate=paper.RATE), nodes)
    graph, steps = topologies.exponential(nodes), paper.PERIOD
    found = simulate(chosen, cluster, graph, paper.NBYTES, steps, warmup=steps)
    model = {name: each.seconds.mean for name, each in found.items()}
    return [
        {"method": name, "title": TITLES[name], "paper": took, "model": model[name], "error": model[name] / took - 1}
        for name, took in half.seconds.items()
    ]


def beside_paper(rows: Sequence[Mapping[str, Any]]) -> Group:
    """The paper's table beside the model's, and why one row differs."""
    cells = [[row["title"], screen.ms(row["paper"]), screen.ms(row["model"]), _percent(row["error"])] for row in rows]
    title = "SlowMo (ICLR 2020), table 2: ImageNet on 32 nodes, ms per update, and bytes over bandwidth"
    table = tables.on_screen(title, ("method", "paper", "model", "difference"), cells)
    return Group(table, paper.SGP_OVERLAPS, "")


def judged(compared: Sequence[Compared], unknown: Sequence[str], within: float) -> Group:
    """Measured beside predicted; `unknown` are the algorithms in the files that the model does not have."""
    cells = []
    for point, predicted, error in compared:
        times = [screen.ms(point.seconds), screen.ms(predicted)]
        said = _percent(error) + ("  missed" if abs(error) > within else "")
        cells.append([point.file.name, point.algorithm, f"{point.ranks:,}", screen.size(point.nbytes), *times, said])
    columns = ("file", "algorithm", "ranks", "size", "measured ms", "predicted ms", "error")
    made: list[RenderableType] = [tables.on_screen("points that were not fitted to", columns, cells)]
    if unknown:
        made.append(f"not in the model: {', '.join(unknown)}")
    return Group(*made, "")


def _percent(error: float) -> str:
    return f"{error * 100:+.1f} %"


# Colours of Okabe and Ito. A family has a colour, its variants have dashes: told apart by the colour-blind.
COLORS = {"none": QUIET, "ar": "#d55e00", "ar-ring": "#e69f00", "exact": "#e69f00", "local": "#cc79a7"}
COLORS |= {"sgp": "#0072b2", "osgp": "#009e73"}
DASHES = {"none": ":", "exact": ":", "tree": "--", "hierarchical": "-.", "binomial": ":", "slowmo": "--"}
DASHES |= {"noaverage": ":"}
WIDTH, HEIGHT = 9.6, 5.6


def draw(
    path: Path, methods: Sequence[str], found: Mapping[int, Mapping[str, Prediction]], title: str, subtitle: str
) -> None:
    """Means over all ranks, of `found[ranks][method]`; the legend is in the order of the curves' ends."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure = canvas(WIDTH, HEIGHT, title)
    figure.text(0.18 / WIDTH, 1 - 0.44 / HEIGHT, subtitle, size=9.5, color=QUIET, va="top")
    axes = figure.add_axes((0.09, 0.1, 0.6, 0.74))
    ranks = list(found)
    curves = {name: np.array([found[n][name].seconds.mean * 1e3 for n in ranks]) for name in methods}
    values = np.concatenate(list(curves.values()))
    seen = values[values > 0]  # where nothing is computed a curve may be 0, which has no place on a logarithmic scale
    low, high = (float(seen.min()) / 1.06, float(seen.max()) * 1.1) if len(seen) else (0.1, 10.0)
    axes.set(xscale="log", yscale="log", xlim=(ranks[0], max(ranks[-1], ranks[0] * 1.1)), ylim=(low, high))
    for name in sorted(curves, key=lambda name: -curves[name][-1]):
        base, _, variant = name.partition("-")
        color, dashes = COLORS.get(name, COLORS[base]), DASHES.get(variant or base, "-")
        label = f"{curves[name][-1]:,.0f}  {TITLES[name]}"
        axes.plot(ranks, curves[name], dashes, color=color, linewidth=2.0, solid_capstyle="round", label=label)
    shown = ranks[:: -(-len(ranks) // 9)]
    axes.set_xticks(shown, labels=[f"{n:,}" for n in shown])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high / low < 60 else (1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter("{x:,.4g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    frame(axes, "ranks", "time per update, mean, ms")
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        labelspacing=0.7,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        title=f"ms at {ranks[-1]:,} ranks",
    )
    save(figure, path)
