"""The promise of theory, on a quadratic of known smoothness and noise: a mean squared gradient of 1/√(mTτ).

f_i(x) = ½ (x − b_i)ᵀ A_i (x − b_i) with A_i diagonal, entries from L/4 to L that are from L/2 to 3L/4 in the mean over
the workers, and gradients with noise of variance σ² in each step. With m workers, T outer iterations of τ steps and the
learning rate γ = √(m/(Tτ))/L, SlowMo's bound on the mean of ‖∇f(x̄)‖² over the steps falls like 1/√(mTτ): a slope of −½
in Tτ, and of −½ in m, which is a linear speed-up. The base optimizer is plain SGD, over the real averaging and slow
momentum. Workers differ in A_i, so that how far they drift apart tells in where their mean goes.
Source: Wang et al., SlowMo, ICLR 2020, arXiv 1910.00643, theorem 1 and corollary 1.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gossip import World
from gossip.launching.launchers import Launcher
from gossip.testing import run as on_threads
from topologies.commands.pictures.canvas import GREY, INK, canvas, save
from topologies.commands.pictures.curves import LOOKS

from ...shared import record, screen, tables
from ...shared.methods import Method
from ...shared.pictures import frame

DIMENSIONS, L, SIGMA, SPREAD = 32, 1.0, 1.0, 0.2
WORKERS, ITERATIONS, PERIOD, SEEDS = (1, 2, 4, 8, 16), (4, 8, 16, 32), 12, 3
METHODS = {f"{base}-SlowMo": Method(base.lower(), "slowmo", PERIOD, momentum=0.5) for base in ("Local", "SGP")}
Measured = dict[tuple[str, int, int], float]  # mean squared gradient by method, workers and outer iterations


class Problem(NamedTuple):
    """The diagonals of A_i, shape (m, d), the minima b_i of the workers, shape (m, d), and where all begin."""

    curvatures: torch.Tensor
    minima: torch.Tensor
    start: torch.Tensor

    def gradients(self, x: torch.Tensor) -> torch.Tensor:
        """∇f of the mean of the workers' functions at x, shape (..., d)."""
        return (self.curvatures * (x.unsqueeze(-2) - self.minima)).mean(-2)


def problem(workers: int, seed: int) -> Problem:
    """Begins at a distance of 1 from the common minimum, for any number of workers."""
    generator = torch.Generator().manual_seed(10**6 + seed)  # of no worker's noise
    apart = torch.rand(workers, DIMENSIONS, generator=generator, dtype=torch.float64) - 0.5
    curvatures = (torch.linspace(0.5, 0.75, DIMENSIONS, dtype=torch.float64) + 0.25 * (apart - apart.mean(0))) * L
    minima = SPREAD * torch.randn(workers, DIMENSIONS, generator=generator, dtype=torch.float64)
    away = torch.randn(DIMENSIONS, generator=generator, dtype=torch.float64)
    common = (curvatures * minima).mean(0) / curvatures.mean(0)
    return Problem(curvatures, minima, common + away / away.norm())


def mean_squared_gradient(method: Method, workers: int, iterations: int, seed: int) -> float:
    """The mean over all steps of ‖∇f(x̄)‖², x̄ the mean of the workers' parameters before the step."""
    steps = iterations * method.period
    given = problem(workers, seed)
    # γ = √(m/(Tτ))/L, with slow momentum lengthening each step by 1/(1 − β)
    lr = (1 - method.momentum) * math.sqrt(workers / steps) / L

    def path(world: World) -> torch.Tensor:
        """Where one worker is before each step, shape (steps, d)."""
        x = torch.nn.Parameter(given.start.clone())
        optimizer = method.around(torch.optim.SGD([x], lr=lr), world)
        generator = torch.Generator().manual_seed(1000 * seed + world.rank)
        noise = torch.randn(steps, DIMENSIONS, generator=generator, dtype=torch.float64) * SIGMA / math.sqrt(DIMENSIONS)
        been = []
        for ξ in noise:
            been.append(x.detach().clone())
            # ∇f_i(x) + ξ,  E‖ξ‖² = σ²
            x.grad = given.curvatures[world.rank] * (x.detach() - given.minima[world.rank]) + ξ
            optimizer.step()
        optimizer.settle()
        return torch.stack(been)

    paths = torch.stack(on_threads(workers, path))
    return float(given.gradients(paths.mean(0)).pow(2).sum(1).mean())


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of log y over log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Measure, print, draw, write."""
    console = screen.screen(launcher)
    torch.set_num_threads(1)
    measured: Measured = {}
    with screen.Course(console, len(METHODS) * len(WORKERS) * len(ITERATIONS)) as course:
        for name, method in METHODS.items():
            course.part(name)
            for m, t in product(WORKERS, ITERATIONS):
                measured[name, m, t] = statistics.fmean(mean_squared_gradient(method, m, t, k) for k in range(SEEDS))
                course.advance(1)
    rows = []
    for name, m in product(METHODS, WORKERS):
        values = [measured[name, m, t] for t in ITERATIONS]
        rows.append([name, str(m), *(f"{value:.2e}" for value in values), f"{slope(ITERATIONS, values):.2f}"])
    for name in METHODS:
        along = (slope(WORKERS, [measured[name, m, t] for m in WORKERS]) for t in ITERATIONS)
        rows.append([name, "slope in m", *(f"{value:.2f}" for value in along), ""])
    heads = ("method", "m", *(f"Tτ={t * PERIOD}" for t in ITERATIONS), "slope in Tτ")
    console.print(tables.on_screen(f"mean ‖∇f‖² over the steps, {SEEDS} seeds", heads, rows))
    points = list(product(WORKERS, ITERATIONS))
    volumes = [m * t for m, t in points]
    slopes = {name: slope(volumes, [measured[name, m, t] for m, t in points]) for name in METHODS}
    for name, found in slopes.items():
        console.print(f"{name}: a slope of {found:.2f} in mTτ; the bound's is -0.5")
    base = given.out / "quadratic"
    results = [
        {"method": name, "workers": m, "iterations": t, "period": PERIOD, "mean_squared_gradient": value}
        for (name, m, t), value in measured.items()
    ]
    record.write(given, launcher, base.with_suffix(".json"), L=L, sigma=SIGMA, slopes=slopes, results=results)
    draw(base.with_suffix(".png"), measured, slopes)
    console.print(f"written to {base}.json and .png")


def draw(path: Path, measured: Measured, slopes: dict[str, float]) -> None:
    """‖∇f‖² over mTτ: with a linear speed-up the points of all m lie on one line, of slope −½."""
    figure = canvas(10.4, 4.6, "Mean squared gradient on a quadratic, over mTτ")
    for place, name in enumerate(METHODS):
        axes = figure.add_axes((0.085 + 0.5 * place, 0.13, 0.4, 0.7))
        for look, workers in zip(LOOKS, WORKERS, strict=False):
            x, y = [workers * t * PERIOD for t in ITERATIONS], [measured[name, workers, t] for t in ITERATIONS]
            axes.plot(x, y, label=f"m = {workers}", **look, linewidth=1.6)
        ends = np.array([WORKERS[0] * ITERATIONS[0] * PERIOD, WORKERS[-1] * ITERATIONS[-1] * PERIOD], dtype=float)
        middle = measured[name, WORKERS[2], ITERATIONS[1]] * math.sqrt(WORKERS[2] * ITERATIONS[1] * PERIOD)
        axes.plot(ends, middle / np.sqrt(ends), color=GREY, linewidth=1.2, zorder=0, label="slope −½")
        axes.set(xscale="log", yscale="log")
        axes.set_title(f"{name}, τ = {PERIOD}: slope {slopes[name]:.2f}", loc="left", size=10.5, color=INK)
        frame(axes, "mTτ", "mean ‖∇f‖² over the steps")
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    save(figure, path)
