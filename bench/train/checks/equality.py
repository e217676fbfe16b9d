"""Virtual workers are real ones: every method of the studies, on threads and under mpirun, ends with one result."""

import argparse
import functools
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import gossip
from gossip import UsageError
from gossip.launching.launchers import Launcher
from gossip.testing import run as on_threads

from ...cluster import mpirun
from ...shared import screen, tables
from ...shared.methods import SLOW, Method
from ..runs import Run
from ..studies import STUDIES
from ..training import Trained, task, train

RANKS, STEPS = 8, 50
TOLERANCE = 1e-6


def runs(steps: int = STEPS) -> list[Run]:
    """Each method of the studies on images, with τ = 12 and one slow momentum, and a few on text, with AdamW."""
    every = [run.method for study in STUDIES.values() for arm in study.arms for run in arm.candidates]
    methods = [replace(method, period=12, momentum=0.5 if method.outer in SLOW else 0.0) for method in every]
    text = (Method("local"), Method("osgp", "slowmo", momentum=0.5), Method("sgp", "noaverage"))
    return [
        *(Run("digits", method, lr=0.05, steps=steps, workers=RANKS) for method in dict.fromkeys(methods)),
        *(Run("topics", method, lr=0.003, steps=steps, workers=RANKS) for method in text),
    ]


def compare() -> dict[Run, float]:
    """Train `runs()` both ways: the largest difference of a parameter or push-sum weight, over all ranks."""
    with tempfile.TemporaryDirectory() as name:
        command = [*mpirun.command(RANKS), "-m", "bench.train.checks.equality", name]
        outcome = mpirun.run(command, 900, mpirun.environment())
        if outcome.code != 0:
            raise UsageError(f"mpirun -n {RANKS} {outcome}")
        real = [np.load(Path(name) / f"{rank}.npz") for rank in range(RANKS)]
        found = {}
        for number, run in enumerate(runs()):
            virtual = on_threads(RANKS, functools.partial(train, run, task(run)))
            pairs = zip(map(_vector, virtual), real, strict=True)
            # The maximum is NaN where one of them is.
            found[run] = float(np.max([np.abs(one - other[str(number)]).max() for one, other in pairs]))
    return found


def _vector(trained: Trained) -> np.ndarray:
    return np.append(trained.parameters.double().numpy(), trained.weight)


def check(given: argparse.Namespace, launcher: Launcher) -> int:
    """Compare, print a table, and return the exit code: 1 where something differs."""
    torch.set_num_threads(1)
    found = compare()
    title = f"{STEPS} steps on {RANKS} threads and on {RANKS} ranks of mpirun: the largest difference of a parameter"
    rows = [[run.method.title, run.workload, f"{largest:.1e}"] for run, largest in found.items()]
    screen.screen(launcher).print(tables.on_screen(title, ("method", "trains", "difference"), rows))
    return int(not all(largest <= TOLERANCE for largest in found.values()))


def main(folder: str) -> None:
    """One rank of mpirun: train all runs, and save the parameters and weights."""
    torch.set_num_threads(1)
    with gossip.init() as world:
        found = {str(number): _vector(train(run, task(run), world)) for number, run in enumerate(runs())}
        np.savez(Path(folder) / f"{world.rank}.npz", **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
