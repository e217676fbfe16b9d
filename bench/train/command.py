"""Studies of accuracy: virtual workers train small models with every method, and claims about them are tested.

Workers are threads of one process, over the transport of `gossip.testing.run`, with the averaging and slow momentum
that real ranks run; --check-virtual starts mpirun and shows that the parameters are the same. A study is written down
before it runs: a hypothesis, arms, candidates that are tuned on seeds 0 to 4, and claims. Ten fresh seeds test the
claims, by paired t-tests with Holm's correction. --plan prints it.

Each finished run is a file in OUT/runs, named by a digest of its settings. The same command goes on where it was
stopped, and studies share what they have in common. Ends with tables, OUT/PRESET.md, .json and .png.

examples
  python -m bench train --quick
  python -m bench train --preset table1 --jobs 2
  python -m bench train --preset tau --plan
  python -m bench train --check-virtual
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from gossip import UsageError
from gossip.launching.cores import bound
from gossip.launching.launchers import Launcher

from ..cluster import mpirun
from ..shared import options, record, screen
from . import report
from .checks import consensus as apart
from .checks import equality, quadratic
from .runs import Store, expected_seconds
from .studies import STUDIES
from .study import Study, choose, results, verdicts
from .training import conduct_all

MEASURED = {"quadratic": quadratic.run, "consensus": apart.run}  # measurements that test no claim, and so have no plan


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--preset", choices=(*STUDIES, *MEASURED), help="which study (default: quick)")
    for name, text in (
        ("--quick", "the same as --preset quick: under three minutes"),
        ("--plan", "print the plan and the time it would take, run nothing"),
        ("--tuning-only", "run the tuning seeds alone, for all arms, and test no claim"),
        ("--rehearse", "an eighth of the steps on three seeds, in OUT/rehearsal: does it run?"),
        ("--check-virtual", "train every method on threads and under mpirun, and compare"),
    ):
        parser.add_argument(name, action="store_true", help=text)
    options.option(parser, "--jobs", options.count, "1", "runs at a time")
    options.option(parser, "--out", Path, "out/train", "for tables, pictures and finished runs", "FOLDER")


def check(given: argparse.Namespace, launcher: Launcher) -> None:
    """Refuse options that do not go together."""
    if launcher.size > 1:
        raise UsageError("its workers are threads of one process: start it as `python -m bench train`, by itself")
    asked = [name for name in ("preset", "quick", "plan", "tuning_only", "rehearse") if getattr(given, name)]
    if given.check_virtual and (asked or given.jobs > 1):
        raise UsageError(
            "--check-virtual compares the methods of all studies and writes nothing: leave the other options"
        )
    if given.quick and given.preset:
        raise UsageError(f"--quick and --preset {given.preset}: ask for one of them")
    given.preset = given.preset or "quick"
    if given.preset in MEASURED and (given.plan or given.tuning_only or given.rehearse or given.jobs > 1):
        raise UsageError(
            f"--preset {given.preset} has no plan, tunes nothing and trains one run at a time: leave --plan, "
            "--tuning-only, --rehearse and --jobs"
        )
    if given.rehearse and given.tuning_only:
        raise UsageError("--rehearse and --tuning-only: a rehearsal has its own few seeds, so ask for one of them")
    if given.jobs > bound():
        raise UsageError(f"--jobs {given.jobs} is more than the {bound()} cores: each run is one core's work")
    if given.check_virtual:
        mpirun.find()
    if given.rehearse:
        given.out = given.out / "rehearsal"
    if not given.plan:
        options.check_writable(given.out / f"{given.preset}.json", launcher)


def run(given: argparse.Namespace, launcher: Launcher) -> None:
    """Plan, run, test, print, draw, write; or one of the other things."""
    if given.check_virtual:
        sys.exit(equality.check(given, launcher))
    if given.preset in MEASURED:
        MEASURED[given.preset](given, launcher)
        return
    study = STUDIES[given.preset]
    if given.rehearse:
        study = study.rehearsal()
    console = screen.screen(launcher)
    store = Store(given.out / "runs")
    plan = report.plan(study)
    console.print(plan, markup=False, soft_wrap=True)
    console.print(_forecast(study, store, given), highlight=False)
    if given.plan:
        return
    tuning = study.tuning_runs(all_arms=given.tuning_only)
    testing = 0 if given.tuning_only else len(study.arms) * len(study.testing)
    try:
        with screen.Course(console, len(tuning) + testing) as course:
            course.part(f"{study.name}: tuning")
            known = conduct_all(tuning, store, given.jobs, course)
            chosen = choose(study, known)
            if not given.tuning_only:
                course.part(f"{study.name}: testing")
                known |= conduct_all(study.testing_runs(chosen), store, given.jobs, course)
    except KeyboardInterrupt:
        print(f"stopped; {store.folder} keeps what has finished, and the same command goes on", file=sys.stderr)
        sys.exit(130)
    seeds = study.tuning if given.tuning_only else study.testing
    found = results(study, chosen, known, seeds)
    judged = [] if given.tuning_only else verdicts(study, found)
    said = report.findings(study, found, judged)
    console.print(said, markup=False, soft_wrap=True)
    console.print(report.legend(seeds))
    base = given.out / (f"{study.name}-tuning" if given.tuning_only else study.name)
    base.with_suffix(".md").write_text("\n".join([plan, said, report.legend(seeds), ""]))
    record.write(
        given,
        launcher,
        base.with_suffix(".json"),
        hypothesis=study.hypothesis,
        claims=list(map(asdict, study.claims)),
        tuning_seeds=study.tuning,
        results=report.numbers(found, judged),
    )
    report.draw(base.with_suffix(".png"), study.title, found, study.axis)
    console.print(f"written to {base}.md, .json and .png")


def _forecast(study: Study, store: Store, given: argparse.Namespace) -> str:
    """How many runs are missing, and how long they take."""
    tuning = study.tuning_runs(all_arms=given.tuning_only)
    known = store.finished(tuning)
    # Where it is not known yet what is tested: in cost an arm's candidates are alike.
    tuned = all(run in known for run in tuning)
    chosen = choose(study, known) if tuned else {arm.name: arm.candidates[0] for arm in study.arms}
    testing = [] if given.tuning_only else study.testing_runs(chosen)
    runs = list(dict.fromkeys([*tuning, *testing]))
    known = store.finished(runs)
    minutes = expected_seconds(runs, known) / given.jobs / 60
    return f"{len(runs)} runs, {len(known)} done; some {minutes:.1f} minutes for the others, {given.jobs} at a time"
