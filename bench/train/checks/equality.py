"""Virtual workers are real ones: every method of the studies, on threads and under mpirun, ends with one result.

`check` trains both and compares; `python -m bench.train.checks.equality FOLDER STEPS` is what each rank of mpirun runs.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
from ..training import task, train

RANKS, STEPS = 8, 50
TOLERANCE = 1e-6
LONGEST = 900.0
"""Seconds that mpirun may take."""


class Difference(NamedTuple):
    """The largest difference of a parameter or push-sum weight between the two, over all ranks, and of what."""

    run: Run
    largest: float


def methods() -> list[Method]:
    """Every one of the studies, with τ at most 12 and one slow momentum, so that each is there once."""
    every = [run.method for study in STUDIES.values() for arm in study.arms for run in arm.candidates]
    return list(dict.fromkeys(_plain(method) for method in every))


def _plain(method: Method) -> Method:
    slow = method.outer in SLOW
    return replace(method, period=12, momentum=0.5 if slow else 0.0)


def runs(steps: int) -> list[Run]:
    """Each method on images, and as many as maintain their buffers on text, with AdamW."""
    return [
        *(Run("digits", method, lr=0.05, steps=steps, workers=RANKS) for method in methods()),
        *(
            Run("topics", method, lr=0.003, steps=steps, workers=RANKS)
            for method in (Method("local"), Method("osgp", "slowmo", momentum=0.5), Method("sgp", "noaverage"))
        ),
    ]


def compare(steps: int = STEPS, chosen: Sequence[int] | None = None) -> list[Difference]:
    """Train `runs(steps)`, or those of them that are chosen by number, both ways.

    Raises:
        UsageError: mpirun failed; its output is in the message.
    """
    every = runs(steps)
    numbers = list(range(len(every))) if chosen is None else list(chosen)
    with tempfile.TemporaryDirectory() as name:
        _mpirun(name, steps, numbers)
        real = [dict(np.load(Path(name) / f"{rank}.npz")) for rank in range(RANKS)]
    found = []
    for number in numbers:
        run = every[number]
        shared = task(run)
        virtual = on_threads(RANKS, lambda world, run=run, shared=shared: train(run, shared, world))  # type: ignore[misc]
        apart = [
            np.abs(_vector(one.parameters, one.weight) - other[str(number)]).max()
            for one, other in zip(virtual, real, strict=True)
        ]
        found.append(Difference(run, float(np.max(apart))))  # which is NaN where one is
    return found


def _vector(parameters: torch.Tensor, weight: float) -> np.ndarray:
    return np.append(parameters.double().numpy(), weight)


def _mpirun(folder: str, steps: int, numbers: Sequence[int]) -> None:
    command = [*mpirun.command(RANKS), "-m", "bench.train.checks.equality", folder, str(steps), *map(str, numbers)]
    outcome = mpirun.run(command, LONGEST, mpirun.environment())
    if outcome.code != 0:
        raise UsageError(f"mpirun -n {RANKS} {outcome}")


def check(given: argparse.Namespace, launcher: Launcher) -> int:
    """Compare, print a table, and return the exit code: 1 where something differs."""
    torch.set_num_threads(1)
    found = compare()
    title = f"{STEPS} steps on {RANKS} threads and on {RANKS} ranks of mpirun: the largest difference of a parameter"
    rows = [[each.run.method.title, each.run.workload, f"{each.largest:.1e}"] for each in found]
    screen.screen(launcher).print(tables.on_screen(title, ("method", "trains", "difference"), rows))
    return int(not all(each.largest <= TOLERANCE for each in found))


def main(folder: str, steps: int, numbers: Sequence[int]) -> None:
    """One rank of mpirun: train the runs of these numbers, and save what they come to."""
    torch.set_num_threads(1)
    every = runs(steps)
    found: dict[str, Any] = {}
    with gossip.init() as world:
        for number in numbers:
            trained = train(every[number], task(every[number]), world)
            found[str(number)] = _vector(trained.parameters, trained.weight)
        np.savez(Path(folder) / f"{world.rank}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(number) for number in sys.argv[3:]])
