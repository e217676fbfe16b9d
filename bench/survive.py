"""Kill ranks with SIGKILL while they train, again and again, and see that the others go on.

Each run trains the small network of `bench digits` with OSGP and SlowMo on --ranks ranks, under
`mpirun --with-ft ulfm` and with on_failure="shrink". One rank is killed about a third of the way, and two more at once,
rank 0 among them, about half of the way, each at a moment of its own. For comparison as many ranks as are left train
undisturbed.

A run is good when mpirun and all ranks that are left end well, hold a weight of 1 each on average, and tell of the same
deaths. Back is the time from a kill to the end of the step in which the slowest of them went on. Starts mpirun itself,
on this host. The exit code is 1 when a run was not good.

examples
  python -m bench survive --runs 50
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gossip import UsageError
from gossip.launchers import Launcher

from . import mpirun, options, record, screen

LONGEST = 180.0
"""Seconds that a run may take before it counts as hung."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--runs", type=options.count, default=5, metavar="N", help="runs with kills (default: 5)")
    parser.add_argument(
        "--first",
        type=options.natural,
        default=0,
        metavar="SEED",
        help="of the first run; the next is one more (default: 0)",
    )
    parser.add_argument("--ranks", type=options.count, default=8, metavar="N", help="at first, 4 or more (default: 8)")
    parser.add_argument("--steps", type=options.count, default=300, metavar="N", help="updates (default: 300)")
    parser.add_argument(
        "--undisturbed", type=options.count, default=5, metavar="N", help="runs to compare with (default: 5)"
    )
    options.add_json(parser, "survive.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be run."""
    if launcher.size > 1:
        raise UsageError("it starts mpirun itself: run it as python -m bench survive, on one host")
    mpirun.find()
    if given.ranks < 4:
        raise UsageError(f"--ranks {given.ranks} leaves nobody when three are killed: take 4 or more")
    if given.steps < 30:
        raise UsageError(f"--steps {given.steps} are too few to die in: take 30 or more")
    options.check_writable(given.json, launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Run, print, write."""
    console = screen.screen(launcher)
    course = screen.Course(console, given.runs + given.undisturbed)
    with course:
        course.part("with kills")
        killed = [
            _counted(course, given, seed, kills(given, seed)) for seed in range(given.first, given.first + given.runs)
        ]
        course.part("undisturbed")
        calm = [_counted(course, given, seed, []) for seed in range(given.first, given.first + given.undisturbed)]
    good = [each for each in killed if each["good"]]
    found = {
        "good": len(good),
        "accuracy": statistics.fmean(each["accuracy"] for each in good) if good else None,
        "accuracy_undisturbed": statistics.fmean(each["accuracy"] for each in calm),
        "recoveries": sum(len(each["back"]) for each in good),
        "back_median": statistics.median(back for each in good for back in each["back"]) if good else None,
        "back_longest": max((back for each in good for back in each["back"]), default=None),
        "meeting_longest": max((s for each in good for s in each["meetings"]), default=None),
    }
    console.print_json(json.dumps(found))
    record.write(given, launcher, given.json, results={**found, "runs": killed, "undisturbed": calm})
    console.print(f"written to {given.json}")
    if len(good) < given.runs:
        sys.exit(1)


def kills(given: argparse.Namespace, seed: int) -> list[str]:
    """RANK@STEP: one about a third of the way, rank 0 and another one about half of the way."""
    draw = random.Random(seed)
    one, two = draw.sample(range(1, given.ranks), 2)
    first = given.steps // 3 + draw.randrange(given.steps // 12)
    second = given.steps // 2 + draw.randrange(given.steps // 12)
    return [f"{one}@{first}", f"{two}@{second}", f"0@{second}"]


def _counted(course: screen.Course, given: argparse.Namespace, seed: int, plan: list[str]) -> dict[str, Any]:
    found = once(given, seed, plan)
    course.advance(1)
    return found


def once(given: argparse.Namespace, seed: int, plan: list[str]) -> dict[str, Any]:
    """One job, and what became of it."""
    ranks = given.ranks if plan else given.ranks - 3
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        command = mpirun.command(ranks, *(["--with-ft", "ulfm"] if plan else []))
        try:
            done = subprocess.run(
                [*command, "-m", "bench.surviving", name, str(seed), str(given.steps), *plan],
                capture_output=True,
                text=True,
                timeout=LONGEST,
                env=mpirun.environment(),
                check=False,
            )
            code, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            code, said = -1, f"hung for {LONGEST:g} s: {error.stderr!r}"
        seconds = time.monotonic() - began
        told = {int(file.stem[5:]): json.loads(file.read_text()) for file in sorted(Path(name).glob("rank-*.json"))}
        killed = {int(file.stem[7:]): json.loads(file.read_text()) for file in Path(name).glob("killed-*.json")}
    good = (
        code == 0
        and len(told) == given.ranks - 3
        and all(abs(each["weight"] - len(told)) < 1e-9 for each in told.values())
        and len({json.dumps([death["ranks"] for death in each["deaths"]]) for each in told.values()}) == 1
    )
    return {
        "seed": seed,
        "kills": plan,
        "good": good,
        "code": code,
        "seconds": seconds,
        "accuracy": statistics.fmean(each["accuracy"] for each in told.values()) if told else None,
        "back": _back(told, killed) if good else [],
        "meetings": sorted(death["seconds"] for each in told.values() for death in each["deaths"]),
        **({} if good else {"said": said[-4000:]}),
    }


def _back(told: dict[int, dict[str, Any]], killed: dict[int, float]) -> list[float]:
    """Of each meeting after deaths, the seconds from the last of those kills until the slowest rank went on."""
    deaths = next(iter(told.values()))["deaths"]
    return [
        max(each["noticed"][number] for each in told.values() if number < len(each["noticed"]))
        - max(killed[rank] for rank in death["ranks"])
        for number, death in enumerate(deaths)
    ]
