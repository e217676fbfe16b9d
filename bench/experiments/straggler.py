"""What one slow rank, and pauses of all ranks in turn, cost the others, and what training still comes to.

The small network of `bench digits` trains on scikit-learn's digits three times with each method: undisturbed; with the
last rank at a fraction of the speed; and with pauses, one of each rank, one after another, each as long as --pause
steps. A step is the forward and backward pass and a sleep beside it that stands for the rest of the compute, so that
ranks that share cores are held up by one another as little as may be.

The slow rank makes as many steps as all others, and with landing="any" as many as it finds the time for: --steps over
--slow. Pace is what the others keep of their own undisturbed steps per second. What pauses cost is the time of a rank
beyond its undisturbed time and its own pause. Both are told by the clock of a machine that the ranks share; waits are
told by the runtime, as the share of its time that a rank was blocked. Accuracy is that of the model that the ranks hold
together, Σ w z / n. With --repeats, figures are medians over runs with one seed each.

examples
  mpirun -n 8 python -m bench straggler
  mpirun -n 4 python -m bench straggler --methods osgp,any --slow 10 --transport gloo
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

import gossip
import topologies
from gossip import GossipOptimizer, NoAverage, PushSum, UsageError, World
from gossip.launching.launchers import Launcher
from topologies import Topology

from ..shared import digits as images
from ..shared import options, record, screen
from ..shared.digits import Data
from ..update import judging
from .training import accuracy, network

Build = Callable[[torch.optim.Optimizer, World, Topology], GossipOptimizer]


class Method(NamedTuple):
    """What it is called, how it is built, and whether a rank may make fewer steps than others."""

    title: str
    build: Build
    free: bool = False


def _gossip(overlap: int, landing: str = "due") -> Build:
    return lambda sgd, world, graph: GossipOptimizer(sgd, PushSum(world, graph, overlap, landing))


METHODS = {
    "ar": Method("AR-SGD", lambda sgd, world, graph: GossipOptimizer(sgd, NoAverage(), gradients=world)),
    "osgp": Method("OSGP", _gossip(1)),
    "early-2": Method("early, 2", _gossip(2, "early")),
    "early-4": Method("early, 4", _gossip(4, "early")),
    "early-16": Method("early, 16", _gossip(16, "early")),
    "any": Method("any", _gossip(1, "any"), free=True),
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
    """What can be asked for."""
    parser.add_argument(
        "--methods",
        type=options.some_of(METHODS),
        default=list(METHODS),
        metavar="NAME,...",
        help=f"some of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument("--steps", type=options.count, default=200, metavar="N", help="updates (default: 200)")
    parser.add_argument(
        "--compute", type=options.seconds, default=0.06, metavar="SECONDS", help="slept in each step (default: 0.06)"
    )
    parser.add_argument(
        "--slow", type=options.count, default=4, metavar="K", help="times slower is the last rank (default: 4)"
    )
    parser.add_argument(
        "--pause", type=options.count, default=4, metavar="K", help="steps that a pause is as long as (default: 4)"
    )
    parser.add_argument("--batch", type=options.count, default=16, metavar="N", help="images a rank (default: 16)")
    parser.add_argument("--lr", type=options.positive, default=0.05, help="learning rate at first (default: 0.05)")
    parser.add_argument("--seed", type=options.natural, default=1, metavar="N", help="of the first run (default: 1)")
    parser.add_argument("--repeats", type=options.count, default=1, metavar="N", help="runs (default: 1)")
    options.add_topology(parser)
    options.add_world(parser)
    options.add_json(parser, "out/straggler.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be measured."""
    if given.transport == "nccl":
        raise UsageError("--transport nccl cannot land by arrival: choose mpi or gloo")
    options.check_spec(given)
    few = f"--steps {given.steps} are too few for a step of the slow rank and a pause of each rank"
    if given.steps < given.slow:
        raise UsageError(few)
    if launcher.size == 1:
        raise UsageError("one rank has nobody to wait for: start several, as in mpirun -n 8 python -m bench straggler")
    shard = images.TRAINING // launcher.size
    if given.batch > shard:
        raise UsageError(
            f"--batch {given.batch} is more than the {shard} images that each of {launcher.size} ranks has"
        )
    if given.steps < launcher.size:
        raise UsageError(few)
    options.check_topology(given, launcher)
    options.check_world(given)
    options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Train, print, write."""
    console = screen.screen(launcher)
    with gossip.init(given.transport, given.timeout) as world:
        course = screen.Course(console, len(given.methods) * len(COURSES) * given.repeats)
        found: dict[str, Any] = {}
        with course:
            for name in given.methods:
                course.part(METHODS[name].title)
                runs = []
                for seed in range(given.seed, given.seed + given.repeats):
                    data = images.load(seed, world)
                    runs.append({how: train(METHODS[name], world, data, given, seed, how) for how in COURSES})
                    course.advance(len(COURSES))
                found[name] = {"title": METHODS[name].title, **figures(runs, given), "runs": runs}
        transport = world.transport
    if launcher.rank == 0:
        title = (
            f"digits, {launcher.size} ranks over {transport}, {given.steps} steps; the last one {given.slow} times "
            f"slower, or pauses of {given.pause} steps in turn"
        )
        console.print(screen.table(title, COLUMNS, [_row(each) for each in found.values()]))
        console.print(LEGEND)
        for sentence in filter(None, (crowded(found), judging.sharing(launcher))):
            console.print(sentence)
        record.write(given, launcher, given.json, transport=transport, unit=UNITS, results=found)
        console.print(f"written to {given.json}")


def train(method: Method, world: World, data: Data, given: argparse.Namespace, seed: int, how: str) -> dict[str, Any]:
    """One run in one of the `COURSES`; the same on every rank."""
    model = network(seed).to(world.device)
    sgd = torch.optim.SGD(model.parameters(), lr=given.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    optimizer = method.build(sgd, world, topologies.load(given.topology, world.size))
    order = images.batches(data, given.batch, seed=1000 * seed + world.rank)
    slow = how == "slow" and world.rank == world.size - 1
    steps = given.steps // given.slow if slow and method.free else given.steps
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    pausing = (world.rank + 1) * steps // (world.size + 1) if how == "pauses" else -1
    world.barrier()
    began = time.perf_counter()
    for step in range(steps):
        inputs, labels = next(order)
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        time.sleep(given.compute * (given.slow if slow else 1) + given.compute * given.pause * (step == pausing))
        optimizer.step()
        scheduler.step()
    seconds = time.perf_counter() - began
    waits = optimizer.stats.run.seconds_exposed / seconds
    optimizer.settle()
    own = {
        "seconds": seconds / steps,
        "waits": waits,
        "steps": steps,
        "accuracy": accuracy(model, data),
        "weight": optimizer.weight,
    }
    ranks = record.gather(world, own)
    average(model, optimizer.weight, world)
    return {
        **{f"{name}_by_rank": [rank[name] for rank in ranks] for name in own},
        "accuracy": accuracy(model, data),
        "mass_error": sum(rank["weight"] for rank in ranks) - world.size,
    }


@torch.no_grad()
def average(model: torch.nn.Module, weight: float, world: World) -> None:
    """The model becomes Σ w z / n. It leaves its buckets by that."""
    mean = torch.nn.utils.parameters_to_vector(model.parameters()) * weight
    world.channel().sum([mean]).wait()
    torch.nn.utils.vector_to_parameters(mean / world.size, model.parameters())


def figures(runs: list[dict[str, Any]], given: argparse.Namespace) -> dict[str, float]:
    """Medians over the runs of what stands in the table."""
    pause = given.compute * given.pause / given.steps
    each: list[dict[str, float]] = []
    for run in runs:
        even, paused = (run[how]["seconds_by_rank"] for how in ("even", "pauses"))
        others = {how: statistics.median(run[how]["seconds_by_rank"][:-1]) for how in COURSES}
        each.append(
            {
                **{f"seconds_{how}": others[how] for how in COURSES},
                **{f"waits_{how}": statistics.median(run[how]["waits_by_rank"][:-1]) for how in COURSES},
                **{f"accuracy_{how}": run[how]["accuracy"] for how in COURSES},
                "pace": others["even"] / others["slow"],
                "pauses_cost": statistics.median((p - pause) / e - 1 for p, e in zip(paused, even, strict=True)),
                "weight_of_slow": run["slow"]["weight_by_rank"][-1],
            }
        )
    return {name: statistics.median(figures[name] for figures in each) for name in each[0]}


def crowded(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence on the methods whose undisturbed steps took longer without their waits than those of another one."""
    own = {each["title"]: each["seconds_even"] * (1 - each["waits_even"]) for each in found.values()}
    lacking = [title for title, took in own.items() if judging.lacks_cores(took, *own.values())]
    if not lacking:
        return ""
    return (
        f"{judging.CROWDED} for {', '.join(lacking)}: their steps took longer than another method's, waits left out. "
        "Their times and paces do not compare: start fewer ranks, or sleep longer with --compute."
    )


def _row(found: dict[str, Any]) -> list[str]:
    return [
        found["title"],
        screen.ms(found["seconds_even"]),
        screen.ms(found["seconds_slow"]),
        screen.percent(found["pace"]),
        screen.percent(found["waits_slow"]),
        screen.percent(max(0.0, found["pauses_cost"])),
        screen.percent(found["waits_pauses"]),
        *(screen.percent(found[f"accuracy_{how}"]) for how in COURSES),
        f"{found['weight_of_slow']:.2f}",
    ]
