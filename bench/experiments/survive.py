"""Kill ranks with SIGKILL while they train, again and again, and see that the others go on.

Each run trains the small network of `bench digits` with OSGP and SlowMo on --ranks ranks, under
`mpirun --with-ft ulfm` and with on_failure="shrink". One rank is killed about a third of the way. Two more, rank 0
among them, are killed at once about half of the way. For comparison as many ranks as are left train
undisturbed.

A run is good when mpirun and all ranks that are left end well, hold a weight of 1 each on average, and tell of the same
deaths. Back is the time from a kill to the end of the step in which the slowest of them went on. Starts mpirun itself,
on this host. The record is written after every run. The exit code is 1 when a run was not good.

examples
  python -m bench survive --runs 50
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import gossip
import slowmo
import topologies
from gossip import UsageError, World
from gossip.launching.launchers import Launcher

from ..cluster import mpirun
from ..shared import digits, options, record, screen, tables
from ..shared.methods import Trained

UNITS = (
    "back: seconds from the last of the kills until the slowest rank went on; meetings: seconds of each rank's "
    "agreement on who is left; accuracy: on the test images, mean of the ranks that are left; good runs alone count"
)
COLUMNS = ("", "good", "accuracy", "recoveries", "back s", "longest")
LEGEND = (
    "accuracy: on the test images, mean of the ranks that are left and of the good runs. back: from a kill until the "
    "slowest rank went on, median."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    options.option(parser, "--runs", options.count, "5", "runs with kills")
    options.option(parser, "--first", options.natural, "0", "of the first run; the next is one more", "SEED")
    options.option(parser, "--ranks", options.count, "8", "at first, 4 or more")
    options.option(parser, "--steps", options.count, "300", "updates")
    options.option(parser, "--undisturbed", options.count, "5", "runs to compare with")
    options.add_json(parser, "out/survive.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse options that cannot be run."""
    if launcher.size > 1:
        raise UsageError("it starts mpirun itself: run it as python -m bench survive, on one host")
    if given.ranks < 4:
        raise UsageError(f"--ranks {given.ranks} leaves nobody when three are killed: take 4 or more")
    if given.steps < 30:
        raise UsageError(f"--steps {given.steps} are too few to die in: take 30 or more")
    mpirun.find()
    options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Run, print, write."""
    console = screen.screen(launcher)
    plans = [(seed, kills(given, seed)) for seed in range(given.first, given.first + given.runs)]
    plans += [(seed, []) for seed in range(given.first, given.first + given.undisturbed)]
    killed: list[dict[str, Any]] = []
    calm: list[dict[str, Any]] = []
    with screen.Course(console, len(plans)) as course:
        for seed, plan in plans:
            course.part(f"seed {seed}, {'with kills' if plan else 'undisturbed'}")
            (killed if plan else calm).append(once(given, seed, plan))
            course.advance(1)
            found = {**figures(killed, calm), "runs": killed, "undisturbed": calm}
            record.write(given, launcher, given.json, unit=UNITS, results=found)
    title = f"digits, {given.ranks} ranks, 3 of them killed, one and then two at once; undisturbed {given.ranks - 3}"
    console.print(tables.on_screen(title, COLUMNS, [_row("with kills", killed), _row("undisturbed", calm)]), LEGEND)
    failed = [each for each in killed + calm if not each["good"]]
    for each in failed:
        what = f"seed {each['seed']}, {' '.join(each['kills']) or 'undisturbed'}, exit code {each['code']}"
        console.print(f"not good: {what}: {each['said'][-500:]}", markup=False)
    console.print(f"written to {given.json}")
    if failed:
        sys.exit(1)


def figures(killed: list[dict[str, Any]], calm: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures over all runs; of the good ones alone but for their number."""
    good, fine = ([each for each in runs if each["good"]] for runs in (killed, calm))
    back, meetings = ([seconds for each in good for seconds in each[of]] for of in ("back", "meetings"))
    return {
        "good": len(good),
        "accuracy": statistics.fmean(each["accuracy"] for each in good) if good else None,
        "accuracy_undisturbed": statistics.fmean(each["accuracy"] for each in fine) if fine else None,
        "recoveries": len(back),
        "back_median": statistics.median(back) if back else None,
        "back_longest": max(back, default=None),
        "meeting_longest": max(meetings, default=None),
    }


def _row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    found = figures(runs, [])
    accuracy = "" if found["accuracy"] is None else screen.percent(found["accuracy"])
    back = [f"{found[f'back_{which}']:.2f}" if found["recoveries"] else "" for which in ("median", "longest")]
    return [name, f"{found['good']} of {len(runs)}", accuracy, str(found["recoveries"] or ""), *back]


def kills(given: argparse.Namespace, seed: int) -> list[str]:
    """RANK@STEP: one about a third of the way, rank 0 and another one about half of the way."""
    draw = random.Random(seed)
    one, two = draw.sample(range(1, given.ranks), 2)
    first = given.steps // 3 + draw.randrange(given.steps // 12)
    second = given.steps // 2 + draw.randrange(given.steps // 12)
    return [f"{one}@{first}", f"{two}@{second}", f"0@{second}"]


def once(given: argparse.Namespace, seed: int, plan: list[str]) -> dict[str, Any]:
    """Run one job with the kills of `plan`, and return its figures."""
    ranks = given.ranks if plan else given.ranks - 3
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        command = mpirun.command(ranks, *(["--with-ft", "ulfm"] if plan else []))
        command += ["-m", "bench.experiments.survive", name, str(seed), str(given.steps), *plan]
        outcome = mpirun.run(command, 180, mpirun.environment())  # after which it counts as hung
        seconds = time.monotonic() - began
        told = [json.loads(file.read_text()) for file in sorted(Path(name).glob("rank-*.json"))]
        killed = {int(file.stem[7:]): json.loads(file.read_text()) for file in Path(name).glob("killed-*.json")}
    good = (
        outcome.code == 0
        and len(told) == given.ranks - 3
        and all(abs(each["weight"] - len(told)) < 1e-9 for each in told)
        and len({json.dumps([death["ranks"] for death in each["deaths"]]) for each in told}) == 1
    )
    back = []  # of each meeting after deaths, the seconds from the last of those kills until the slowest rank went on
    for number, death in enumerate(told[0]["deaths"] if good else ()):
        last = max(each["noticed"][number] for each in told if number < len(each["noticed"]))
        back.append(last - max(killed[rank] for rank in death["ranks"]))
    return {
        "seed": seed,
        "kills": plan,
        "good": good,
        "code": outcome.code,
        "seconds": seconds,
        "accuracy": statistics.fmean(each["accuracy"] for each in told) if told else None,
        "back": back,
        "meetings": sorted(death["seconds"] for each in told for death in each["deaths"]),
        **({} if good else {"said": str(outcome)}),
    }


def train(folder: str, seed: str, steps: str, *plan: str) -> None:
    """One rank of a job: train, be killed where `plan` says so, and write what this rank has come to into the folder.

    The ranks that are left deal the images out anew.
    """
    torch.set_num_threads(1)
    world = gossip.init("mpi", timeout=30)
    out, doomed = Path(folder), dict(kill.split("@") for kill in plan).get(str(world.rank))

    def build(sgd: torch.optim.Optimizer, world: World) -> Trained:
        osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
        inner = gossip.GossipOptimizer(sgd, osgp, on_failure="shrink" if plan else "raise")
        return slowmo.SlowMo(inner, gossip.ExactAverage(world), period=12)

    training = digits.Training(build, world, int(steps), batch=16, lr=0.05, seed=int(seed))
    optimizer = training.optimizer
    noticed: list[float] = []
    for step in range(int(steps)):
        if doomed == str(step):
            threading.Timer(0.02 * random.random(), _die, (out / f"killed-{world.rank}.json",)).start()
        training.passes()
        training.update()
        if len(optimizer.deaths) > len(noticed):
            noticed += [time.monotonic()] * (len(optimizer.deaths) - len(noticed))
            left = world.survivors
            training.deal(left, 100 * step + left.rank)
    optimizer.settle()
    left = world.survivors
    weight = sum(record.gather(left, optimizer.weight))
    training.average(left)
    deaths = [death._asdict() for death in optimizer.deaths]
    found = {"weight": weight, "accuracy": training.accuracy(), "deaths": deaths, "noticed": noticed}
    (out / f"rank-{world.rank}.json").write_text(json.dumps(found))
    world.close()


def _die(note: Path) -> None:
    note.write_text(json.dumps(time.monotonic()))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train(*sys.argv[1:])
