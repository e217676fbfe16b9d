"""Train a small convolutional network on scikit-learn's digits with six algorithms, side by side.

1,797 images of 8×8 pixels; a fifth of them is held out for the test, the rest is dealt out to the ranks. Seed, first
model, batches of each rank and number of steps are the same for all algorithms.

Ends with a table, loss curves in OUT/digits.png and all numbers in OUT/digits.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gossip
from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..shared import digits as images
from ..shared import options, screen
from ..shared.algorithms import ALGORITHMS
from . import report
from .training import train

METHODS = ("ar", "sgp", "osgp", "local", "sgp-slowmo", "sgp-noaverage")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument(
        "--algorithms",
        type=options.some_of(ALGORITHMS),
        default=list(METHODS),
        metavar="NAME,...",
        help=f"some of {', '.join(ALGORITHMS)} (default: {','.join(METHODS)})",
    )
    parser.add_argument("--steps", type=options.count, default=600, metavar="N", help="updates (default: 600)")
    parser.add_argument("--batch", type=options.count, default=16, metavar="N", help="images a rank (default: 16)")
    parser.add_argument("--lr", type=options.positive, default=0.05, help="learning rate at first (default: 0.05)")
    parser.add_argument(
        "--period", type=options.count, default=12, metavar="N", help="τ of Local SGD and SlowMo (default: 12)"
    )
    parser.add_argument("--seed", type=options.natural, default=1, metavar="N", help="(default: 1)")
    options.add_topology(parser)
    options.add_world(parser)
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="(default: out)")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be trained."""
    if given.steps < given.period:
        raise UsageError(f"--steps {given.steps} is less than one --period {given.period}: it would never be due")
    options.check_topology(given, launcher)
    options.check_world(given)
    shard = images.TRAINING // launcher.size
    if given.batch > shard:
        raise UsageError(
            f"--batch {given.batch} is more than the {shard} images that each of {launcher.size} ranks has"
        )
    options.check_writable(given.out / "digits.json", launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Train, print, draw, write."""
    console = screen.screen(launcher)
    with gossip.init(given.transport, given.timeout) as world:
        course = screen.Course(console, len(given.algorithms) * given.steps)
        data = images.load(given.seed, world)
        with course:
            trained = {}
            for name in given.algorithms:
                course.part(ALGORITHMS[name].title)
                trained[name] = train(ALGORITHMS[name], world, data, given, course)
        transport = world.transport
    if launcher.rank == 0:
        report.write(given, launcher, transport, trained, console)
