"""What the training on digits comes to: table, picture, JSON."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from gossip.launching.launchers import Launcher

from ..shared import record, screen
from ..shared.algorithms import ALGORITHMS
from ..shared.statistics import smooth

Trained = dict[str, dict[str, Any]]

UNITS = "see bench/training.py; seconds and bytes of one step"
COLUMNS = ("algorithm", "test accuracy", "mean of ranks", "ms per step", "waits ms", "sent per step", "consensus")
LEGEND = (
    "test accuracy: of the mean of the ranks' models. ms per step, and of them waits, blocked in the step: the slowest "
    "rank's median. sent: by each rank. consensus: rms over the ranks of ‖z_i - mean‖ / ‖mean‖, over the run."
)


def write(given: argparse.Namespace, launcher: Launcher, transport: str, trained: Trained, console: Console) -> None:
    """On rank 0 alone."""
    graph = "" if given.topology == "exponential" else f", {given.topology}"
    title = f"digits, {launcher.size} ranks over {transport}{graph}, {given.steps} steps of {given.batch} images a rank"
    console.print(screen.table(title, COLUMNS, [_row(name, run) for name, run in trained.items()]))
    console.print(LEGEND)
    record.write(given, launcher, given.out / "digits.json", transport=transport, unit=UNITS, results=trained)
    draw(given.out / "digits.png", trained, title)
    console.print(f"written to {given.out / 'digits.png'} and {given.out / 'digits.json'}")


def _row(name: str, run: dict[str, Any]) -> list[str]:
    return [
        ALGORITHMS[name].title,
        screen.percent(run["accuracy"]),
        screen.percent(run["accuracy_of_ranks"]),
        screen.ms(run["seconds"]),
        screen.ms(run["waits"]),
        screen.size(run["bytes_sent"]),
        screen.percent(run["consensus"]),
    ]


def draw(path: Path, trained: Trained, title: str) -> None:
    """The loss of the training batches over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, run in trained.items():
        width = max(1, len(run["loss"]) // 20)
        axes.plot(
            range(1, len(run["loss"]) + 1), smooth(run["loss"], width), label=ALGORITHMS[name].title, linewidth=1.5
        )
    axes.set(xlabel="step", ylabel="training loss, mean of the ranks", yscale="log", title=title)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
