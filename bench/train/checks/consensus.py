"""How far the workers are from one another, step by step: local steps drift until their average, gossip holds a balance
between drift and rounds, and an exact average brings all to one point for as long as the next step takes.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from gossip import World
from gossip.launching.launchers import Launcher
from gossip.testing import run as on_threads
from topologies.commands.pictures.canvas import INK, canvas, save
from topologies.commands.pictures.curves import LOOKS

from ...shared import record, screen, tables
from ...shared.methods import Method
from ...shared.pictures import frame
from ..runs import Run
from ..studies.grids import RATES
from ..training import DECAYS, task, train

TASK, SEEDS, PERIOD = "textures", 3, 12
METHODS = (
    *(Method("local"), Method("sgp"), Method("osgp"), Method("sgp", "average")),
    *(Method("sgp", "slowmo", momentum=0.2), Method("sgp", "noaverage", momentum=0.2)),
)

Distances = dict[str, np.ndarray]  # after each step, shape (steps,), by method


def distances(run: Run) -> np.ndarray:
    """sqrt(mean_i ‖z_i − z̄‖²) / ‖z̄‖ after each step, shape (steps,), z̄ the plain mean over the workers."""
    shared = task(run)

    def path(world: World) -> Tensor:
        """Where one worker is after each step, shape (steps, d)."""
        been: list[Tensor] = []
        train(run, shared, world, lambda model: been.append(parameters_to_vector(model.parameters()).detach()))
        return torch.stack(been)

    z = torch.stack(on_threads(run.workers, path, timeout=300)).double()
    mean = z.mean(0)
    apart: np.ndarray = ((z - mean).square().sum(2).mean(0).sqrt() / mean.norm(dim=1)).numpy()
    return apart


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, draw, write."""
    console = screen.screen(launcher)
    torch.set_num_threads(1)
    measured: Distances = {}
    with screen.Course(console, len(METHODS) * SEEDS) as course:
        for method in METHODS:
            course.part(method.title)
            each = []
            for seed in range(SEEDS):
                each.append(distances(Run(TASK, method, RATES[TASK][1], seed)))
                course.advance(1)
            measured[method.title] = np.sqrt(np.mean(np.square(each), axis=0))
    steps = len(measured[METHODS[0].title])
    stretches = list(pairwise([0, *(round(share * steps) for share in DECAYS), steps]))
    rows = [[title, *(f"{np.mean(path[a:b]):.2%}" for a, b in stretches)] for title, path in measured.items()]
    heads = ("method", *(f"steps {a} to {b - 1}" for a, b in stretches))
    console.print(tables.on_screen(f"mean ‖z_i - mean‖ / ‖mean‖, {TASK}, {SEEDS} seeds", heads, rows))
    base = given.out / "consensus"
    results = [{"method": title, "distance": [float(f"{x:.4g}") for x in path]} for title, path in measured.items()]
    record.write(given, launcher, base.with_suffix(".json"), workload=TASK, seeds=list(range(SEEDS)), results=results)
    draw(base.with_suffix(".png"), measured)
    console.print(f"written to {base}.json and .png")


def draw(path: Path, measured: Distances) -> None:
    """Means over whole periods of all steps, and each step of three periods in the middle of the highest rate."""
    figure = canvas(11.6, 4.6, f"How far the workers are from one another: ‖z_i − mean‖ / ‖mean‖, {TASK}")
    steps = len(next(iter(measured.values())))
    whole = np.arange(0, steps - PERIOD + 1, PERIOD)
    near = np.arange(3 * PERIOD + 1) + steps // 3 // PERIOD * PERIOD
    for place, (x, title) in enumerate(((whole + PERIOD / 2, f"means over {PERIOD} steps"), (near, "step by step"))):
        axes = figure.add_axes((0.06 + 0.36 * place, 0.12, 0.29, 0.72))
        for look, (name, distance) in zip(LOOKS, measured.items(), strict=False):
            y = distance[near] if place else [distance[step : step + PERIOD].mean() for step in whole]
            axes.plot(x, np.multiply(100, y), label=name, **{**look, "marker": ""}, linewidth=1.6)
        axes.set_yscale("linear" if place else "log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title, loc="left", size=10.5, color=INK)
        frame(axes, "step", "%")
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5, labelcolor=INK)
    save(figure, path)
