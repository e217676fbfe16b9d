"""Train a small convolutional network on scikit-learn's digits with six algorithms, side by side.

1,797 images of 8×8 pixels; a fifth of them is held out for the test, the rest is dealt out to the ranks. Seed, first
model, batches of each rank and number of steps are the same for all algorithms.

Ends with a table, loss curves in OUT/digits.png and all numbers in OUT/digits.json.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import gossip
from gossip import UsageError, World
from gossip.launching.launchers import Launcher
from topologies.commands.pictures.canvas import canvas, save

from ..measuring.loop import synchronise
from ..shared import digits, options, record, screen, tables
from ..shared.methods import METHODS, Method
from ..shared.pictures import frame
from ..shared.statistics import summary

LOOKS = 23  # steps between two looks at how far the ranks are apart; a prime, so that all phases of a period count

UNITS = (
    "accuracy: of the mean of the ranks' models; accuracy_of_ranks: the mean of the accuracies of each; consensus: "
    f"mean of looks every {LOOKS} steps; consensus_end: after the last step; seconds: of a step, and of them waits, "
    "blocked in the step, both of the slowest rank, medians over windows; bytes_sent, messages_sent: of a rank in a "
    "step; loss: of the training batch at each step, mean of the ranks"
)
COLUMNS = ("algorithm", "test accuracy", "mean of ranks", "ms per step", "waits ms", "sent per step", "consensus")
LEGEND = (
    "test accuracy: of the mean of the ranks' models. ms per step, and of them waits, blocked in the step: the slowest "
    "rank's median. sent: by each rank. consensus: rms over the ranks of ‖z_i - mean‖ / ‖mean‖, over the run."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.add_some(parser, "--algorithms", METHODS, "ar,sgp,osgp,local,sgp-slowmo,sgp-noaverage")
    options.add_digits(parser, steps="600")
    options.option(parser, "--period", options.count, "12", "τ of Local SGD and SlowMo")
    options.option(parser, "--seed", options.natural, "1", "of images, model and batches")
    options.add_topology(parser)
    options.add_world(parser)
    options.option(parser, "--out", Path, "out", "for the picture and the JSON", "FOLDER")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse options that cannot be trained with."""
    if given.steps < given.period:
        raise UsageError(f"--steps {given.steps} is less than one --period {given.period}: it would never be due")
    options.check_graph(given.topology, launcher.size)
    options.check_world(given)
    options.check_batch(given, launcher)
    options.check_writable(given.out / "digits.json", launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Train, print, draw, write."""
    console = screen.screen(launcher)
    trained: dict[str, dict[str, Any]] = {}
    with gossip.init(given.transport, given.timeout) as world:
        with screen.Course(console, len(given.algorithms) * given.steps) as course:
            for name in given.algorithms:
                course.part(METHODS[name].title)
                trained[name] = train(METHODS[name].over(given.topology, given.period), world, given, course)
        transport = world.transport
    if launcher.rank > 0:
        return
    graph = "" if given.topology == "exponential" else f", {given.topology}"
    title = f"digits, {launcher.size} ranks over {transport}{graph}, {given.steps} steps of {given.batch} images a rank"
    console.print(tables.on_screen(title, COLUMNS, [_row(name, run) for name, run in trained.items()]), LEGEND)
    record.write(given, launcher, given.out / "digits.json", transport=transport, unit=UNITS, results=trained)
    draw(given.out / "digits.png", trained, title)
    console.print(f"written to {given.out / 'digits.png'} and {given.out / 'digits.json'}")


def train(method: Method, world: World, given: argparse.Namespace, course: screen.Course) -> dict[str, Any]:
    """The figures of a run, as `UNITS` explains them, the same on every rank."""
    training = digits.Training(method.around, world, given.steps, batch=given.batch, lr=given.lr, seed=given.seed)
    look = digits.Consensus(world, training.model)
    stats = training.optimizer.stats
    losses, seconds, waits, distances = [], [], [], []
    for step in range(given.steps):
        began = time.perf_counter()
        loss = training.passes()
        training.update()
        synchronise(world)
        seconds.append(time.perf_counter() - began)
        waits.append(stats.last.seconds_exposed)
        losses.append(loss.item())
        if (step + 1) % LOOKS == 0:
            distances.append(look.distance())
            course.advance(LOOKS)
    course.advance(given.steps % LOOKS)
    training.optimizer.settle()
    window = given.period if method.periodic else 1
    medians = {"seconds": summary(seconds, window).median, "waits": summary(waits, window).median}
    ranks = record.gather(world, {**medians, "accuracy": training.accuracy(), "loss": losses})
    end = look.distance()
    training.average(world)
    return {
        "accuracy": training.accuracy(),
        "accuracy_of_ranks": statistics.fmean(rank["accuracy"] for rank in ranks),
        "consensus": statistics.fmean(distances or [end]),
        "consensus_end": end,
        **{name: record.highest(ranks, name) for name in medians},
        "bytes_sent": stats.run.bytes_sent / given.steps,
        "messages_sent": stats.run.messages_sent / given.steps,
        "loss": [round(float(loss), 6) for loss in np.mean([rank["loss"] for rank in ranks], axis=0)],
    }


def _row(name: str, run: dict[str, Any]) -> list[str]:
    accuracy, of_ranks, consensus = (screen.percent(run[of]) for of in ("accuracy", "accuracy_of_ranks", "consensus"))
    times = (screen.ms(run["seconds"]), screen.ms(run["waits"]))
    return [METHODS[name].title, accuracy, of_ranks, *times, screen.size(run["bytes_sent"]), consensus]


def draw(path: Path, trained: dict[str, dict[str, Any]], title: str) -> None:
    """The loss of the training batches over the steps, as means over a twentieth of them."""
    figure = canvas(8, 5, title)
    axes = figure.add_axes((0.12, 0.11, 0.85, 0.78))
    for name, run in trained.items():
        width = max(1, len(run["loss"]) // 20)
        smooth = np.convolve(run["loss"], np.full(width, 1 / width), "valid")
        axes.plot(np.arange(width, len(run["loss"]) + 1), smooth, label=METHODS[name].title, linewidth=1.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    frame(axes, "step", "training loss, mean of the ranks")
    axes.legend(frameon=False)
    save(figure, path)
