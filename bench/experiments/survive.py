"""Kill ranks with SIGKILL while they train, again and again, and see that the others go on.

Each run trains the small network of `bench digits` with OSGP and SlowMo on --ranks ranks, under
`mpirun --with-ft ulfm` and with on_failure="shrink". One rank is killed about a third of the way, and two more at once,
rank 0 among them, about half of the way, each at a moment of its own. For comparison as many ranks as are left train
undisturbed.

A run is good when mpirun and all ranks that are left end well, hold a weight of 1 each on average, and tell of the same
deaths. Back is the time from a kill to the end of the step in which the slowest of them went on. Starts mpirun itself,
on this host. The record is written after every run. The exit code is 1 when a run was not good.

examples
  python -m bench survive --runs 50
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gossip import UsageError
from gossip.launching.launchers import Launcher

from ..cluster import mpirun
from ..shared import options, record, screen

LONGEST = 180.0
"""Seconds that a run may take before it counts as hung."""

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
    options.add_json(parser, "out/survive.json")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse what cannot be run."""
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
    console.print(screen.table(title, COLUMNS, [_row("with kills", killed), _row("undisturbed", calm)]))
    console.print(LEGEND)
    for each in killed + calm:
        if not each["good"]:
            what = f"seed {each['seed']}, {' '.join(each['kills']) or 'undisturbed'}, exit code {each['code']}"
            console.print(f"not good: {what}: {each['said'][-500:]}", markup=False)
    console.print(f"written to {given.json}")
    if not all(each["good"] for each in killed + calm):
        sys.exit(1)


def figures(killed: list[dict[str, Any]], calm: list[dict[str, Any]]) -> dict[str, Any]:
    """What all runs together come to; of the good ones alone but for their number."""
    back = _all(killed, "back")
    return {
        "good": sum(each["good"] for each in killed),
        "accuracy": _mean(killed),
        "accuracy_undisturbed": _mean(calm),
        "recoveries": len(back),
        "back_median": statistics.median(back) if back else None,
        "back_longest": max(back, default=None),
        "meeting_longest": max(_all(killed, "meetings"), default=None),
    }


def _row(name: str, runs: list[dict[str, Any]]) -> list[str]:
    back, accuracy = _all(runs, "back"), _mean(runs)
    return [
        name,
        f"{sum(each['good'] for each in runs)} of {len(runs)}",
        "" if accuracy is None else screen.percent(accuracy),
        *([str(len(back)), f"{statistics.median(back):.2f}", f"{max(back):.2f}"] if back else [""] * 3),
    ]


def _all(runs: list[dict[str, Any]], what: str) -> list[float]:
    return [seconds for each in runs if each["good"] for seconds in each[what]]


def _mean(runs: list[dict[str, Any]]) -> float | None:
    found = [each["accuracy"] for each in runs if each["good"]]
    return statistics.fmean(found) if found else None


def kills(given: argparse.Namespace, seed: int) -> list[str]:
    """RANK@STEP: one about a third of the way, rank 0 and another one about half of the way."""
    draw = random.Random(seed)
    one, two = draw.sample(range(1, given.ranks), 2)
    first = given.steps // 3 + draw.randrange(given.steps // 12)
    second = given.steps // 2 + draw.randrange(given.steps // 12)
    return [f"{one}@{first}", f"{two}@{second}", f"0@{second}"]


def once(given: argparse.Namespace, seed: int, plan: list[str]) -> dict[str, Any]:
    """One job, and what became of it."""
    ranks = given.ranks if plan else given.ranks - 3
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        command = mpirun.command(ranks, *(["--with-ft", "ulfm"] if plan else []))
        command += ["-m", "bench.experiments.surviving", name, str(seed), str(given.steps), *plan]
        outcome = mpirun.run(command, LONGEST, mpirun.environment())
        seconds = time.monotonic() - began
        told = {int(file.stem[5:]): json.loads(file.read_text()) for file in sorted(Path(name).glob("rank-*.json"))}
        killed = {int(file.stem[7:]): json.loads(file.read_text()) for file in Path(name).glob("killed-*.json")}
    good = (
        outcome.code == 0
        and len(told) == given.ranks - 3
        and all(abs(each["weight"] - len(told)) < 1e-9 for each in told.values())
        and len({json.dumps([death["ranks"] for death in each["deaths"]]) for each in told.values()}) == 1
    )
    return {
        "seed": seed,
        "kills": plan,
        "good": good,
        "code": outcome.code,
        "seconds": seconds,
        "accuracy": statistics.fmean(each["accuracy"] for each in told.values()) if told else None,
        "back": _back(told, killed) if good else [],
        "meetings": sorted(death["seconds"] for each in told.values() for death in each["deaths"]),
        **({} if good else {"said": str(outcome)}),
    }


def _back(told: dict[int, dict[str, Any]], killed: dict[int, float]) -> list[float]:
    """Of each meeting after deaths, the seconds from the last of those kills until the slowest rank went on."""
    deaths = next(iter(told.values()))["deaths"]
    return [
        max(each["noticed"][number] for each in told.values() if number < len(each["noticed"]))
        - max(killed[rank] for rank in death["ranks"])
        for number, death in enumerate(deaths)
    ]
