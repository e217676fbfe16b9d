"""The cost of one slow rank, and of pauses of all ranks in turn, for the others, and the accuracy that remains.

The small network of `bench digits` trains on scikit-learn's digits three times with each method: undisturbed; with the
last rank at a fraction of the speed; and with pauses, one of each rank, one after another, each as long as --pause
steps. A step is the forward and backward pass and a sleep beside it that stands for the rest of the compute, so that
ranks that share cores disturb one another little.

The slow rank makes as many steps as all others, and with landing="any" as many as it finds the time for: --steps over
--slow. Pace is what the others keep of their own undisturbed steps per second. The cost of pauses is the time of a rank
beyond its undisturbed time and its own pause. Both are told by the clock of a machine that the ranks share; waits are
told by the runtime, as the share of its time that a rank was blocked. Accuracy is that of the model that the ranks hold
together, Σ w z / n. With --repeats, figures are medians over runs with one seed each.

examples
  mpirun -n 8 python -m bench straggler
  mpirun -n 4 python -m bench straggler --methods osgp,any --slow 10 --transport gloo
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

import gossip
from gossip import UsageError, World
from gossip.launching.launchers import Launcher

from ..shared import digits, options, record, screen, tables
from ..shared.methods import METHODS as KNOWN
from ..shared.methods import Method
from ..update import judging

METHODS = {
    **{name: KNOWN[name] for name in ("ar", "osgp")},
    **{f"early-{τ}": Method("osgp", overlap=τ, landing="early", label=f"early, {τ}") for τ in (2, 4, 16)},
    "any": Method("osgp", landing="any", label="any"),
}
COURSES = ("even", "slow", "pauses")

UNITS = (
    "of even, slow and pauses: seconds of a step and waits, the share of them in which a rank was blocked; accuracy of "
    "Σ w z / n, and of each rank; weight, settled; mass_error: Σ w - n. pace: kept by the others than the slow rank; "
    "pauses_cost: of the time of an undisturbed run; medians over the ranks, without the slow one"
)
COLUMNS = (
    *("method", "ms", "one slow", "pace kept", "waits", "pauses cost", "waits"),
    *("accuracy", "one slow", "pauses", "weight"),
)
LEGEND = (
    "ms: of a step. one slow, pace kept, waits: of the other ranks, while one is slow. pauses cost, waits: of all. "
    "accuracy: on the test images, undisturbed, with one slow rank, with pauses. weight: of the slow rank, 1 if even."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.add_some(parser, "--methods", METHODS, None)
    options.add_digits(parser, steps="200")
    options.option(parser, "--compute", options.seconds, "0.06", "slept in each step", "SECONDS")
    options.option(parser, "--slow", options.count, "4", "times slower is the last rank", "K")
    options.option(parser, "--pause", options.count, "4", "steps that a pause is as long as", "K")
    options.option(parser, "--seed", options.natural, "1", "of the first run")
    options.option(parser, "--repeats", options.count, "1", "runs")
    options.add_topology(parser)
    options.add_world(parser)
    options.add_json(parser, "out/straggler.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse options that cannot be measured."""
    if given.transport == "nccl":
        raise UsageError("--transport nccl cannot land by arrival: choose mpi or gloo")
    options.check_graph(given.topology)
    few = f"--steps {given.steps} are too few for a step of the slow rank and a pause of each rank"
    if given.steps < given.slow:
        raise UsageError(few)
    if launcher.size == 1:
        raise UsageError("one rank has nobody to wait for: start several, as in mpirun -n 8 python -m bench straggler")
    options.check_batch(given, launcher)
    if given.steps < launcher.size:
        raise UsageError(few)
    options.check_graph(given.topology, launcher.size)
    options.check_world(given)
    options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Train, print, write."""
    console = screen.screen(launcher)
    found: dict[str, Any] = {}
    with gossip.init(given.transport, given.timeout) as world:
        with screen.Course(console, len(given.methods) * len(COURSES) * given.repeats) as course:
            for name in given.methods:
                course.part(METHODS[name].title)
                method = METHODS[name].over(given.topology, 1)
                runs = []
                for seed in range(given.seed, given.seed + given.repeats):
                    runs.append({how: train(method, world, given, seed, how) for how in COURSES})
                    course.advance(len(COURSES))
                found[name] = {"title": METHODS[name].title, **figures(runs, given), "runs": runs}
        transport = world.transport
    if launcher.rank > 0:
        return
    title = (
        f"digits, {launcher.size} ranks over {transport}, {given.steps} steps; the last one {given.slow} times "
        f"slower, or pauses of {given.pause} steps in turn"
    )
    sentences = filter(None, (LEGEND, crowded(found), judging.sharing(launcher)))
    console.print(tables.on_screen(title, COLUMNS, list(map(_row, found.values()))), *sentences, sep="\n")
    record.write(given, launcher, given.json, transport=transport, unit=UNITS, results=found)
    console.print(f"written to {given.json}")


def train(method: Method, world: World, given: argparse.Namespace, seed: int, how: str) -> dict[str, Any]:
    """One run in one of the `COURSES`; the same figures on every rank."""
    slow = how == "slow" and world.rank == world.size - 1
    steps = given.steps // given.slow if slow and method.landing == "any" else given.steps
    training = digits.Training(method.around, world, steps, batch=given.batch, lr=given.lr, seed=seed)
    pausing = (world.rank + 1) * steps // (world.size + 1) if how == "pauses" else -1
    world.barrier()
    began = time.perf_counter()
    for step in range(steps):
        training.passes()
        time.sleep(given.compute * (given.slow if slow else 1) + given.compute * given.pause * (step == pausing))
        training.update()
    seconds = time.perf_counter() - began
    optimizer = training.optimizer
    waits = optimizer.stats.run.seconds_exposed / seconds
    optimizer.settle()
    own = {"seconds": seconds / steps, "waits": waits, "steps": steps, "accuracy": training.accuracy()}
    own["weight"] = optimizer.weight
    ranks = record.gather(world, own)
    training.average(world)
    return {
        **{f"{name}_by_rank": [rank[name] for rank in ranks] for name in own},
        "accuracy": training.accuracy(),
        "mass_error": sum(rank["weight"] for rank in ranks) - world.size,
    }


def figures(runs: list[dict[str, Any]], given: argparse.Namespace) -> dict[str, float]:
    """The figures of the table, medians over the runs."""
    pause = given.compute * given.pause / given.steps
    each: list[dict[str, float]] = []
    for run in runs:
        even, paused = (run[how]["seconds_by_rank"] for how in ("even", "pauses"))
        found = {f"seconds_{how}": statistics.median(run[how]["seconds_by_rank"][:-1]) for how in COURSES}
        found |= {f"waits_{how}": statistics.median(run[how]["waits_by_rank"][:-1]) for how in COURSES}
        found |= {f"accuracy_{how}": run[how]["accuracy"] for how in COURSES}
        found["pace"] = found["seconds_even"] / found["seconds_slow"]
        found["pauses_cost"] = statistics.median((p - pause) / e - 1 for p, e in zip(paused, even, strict=True))
        found["weight_of_slow"] = run["slow"]["weight_by_rank"][-1]
        each.append(found)
    return {name: statistics.median(figures[name] for figures in each) for name in each[0]}


def crowded(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on the methods whose undisturbed steps took longer without their waits than those of another one."""
    own = {each["title"]: each["seconds_even"] * (1 - each["waits_even"]) for each in found.values()}
    lacking = [title for title, took in own.items() if judging.lacks_cores(took, *own.values())]
    sentence = (
        f"{judging.CROWDED} for {', '.join(lacking)}: their steps took longer than another method's, waits left out. "
        "Their times and paces do not compare: start fewer ranks, or sleep longer with --compute."
    )
    return sentence if lacking else ""


def _row(found: dict[str, Any]) -> list[str]:
    shares = [found["pace"], found["waits_slow"], max(0.0, found["pauses_cost"]), found["waits_pauses"]]
    shares += [found[f"accuracy_{how}"] for how in COURSES]
    times = (screen.ms(found["seconds_even"]), screen.ms(found["seconds_slow"]))
    return [found["title"], *times, *map(screen.percent, shares), f"{found['weight_of_slow']:.2f}"]
