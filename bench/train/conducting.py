"""Do the runs of a study that have not been done, several at a time, and keep each as soon as it has finished."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack

import torch

from ..shared.screen import Course
from .runs import Outcome, Run, Store
from .training import conduct

Finished = dict[Run, Outcome]


def finished(runs: Iterable[Run], store: Store) -> Finished:
    """Those that stand in the store."""
    return {run: outcome for run in runs if (outcome := store.find(run)) is not None}


def conduct_all(runs: Sequence[Run], store: Store, jobs: int, course: Course) -> Finished:
    """What came of every run; those in the store are not done again.

    With jobs above 1 each run is in one of so many processes, with one thread for each worker and one core's work. When
    this is interrupted the processes end, and what has finished is kept.
    """
    found = finished(runs, store)
    course.advance(len(found))
    missing = [run for run in runs if run not in found]
    with ExitStack() as stack:
        for run, outcome in _in_turn(missing) if jobs == 1 else _side_by_side(missing, jobs, stack):
            store.keep(run, outcome)
            found[run] = outcome
            course.advance(1)
    return found


def _in_turn(runs: Sequence[Run]) -> Iterator[tuple[Run, Outcome]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            yield run, conduct(run)
    finally:
        torch.set_num_threads(threads)


def _side_by_side(runs: Sequence[Run], jobs: int, stack: ExitStack) -> Iterator[tuple[Run, Outcome]]:
    if not runs:
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)
    stack.push(lambda kind, error, trace: _end(pool, broken_off=error is not None))
    under_way = {pool.submit(conduct, run): run for run in runs}
    for future in as_completed(under_way):
        yield under_way[future], future.result()


def _prepare() -> None:
    """In a process of its own: one core, and Ctrl-C ends it at once, for nothing half done is kept."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)


def _end(pool: ProcessPoolExecutor, broken_off: bool) -> bool:
    pool.shutdown(wait=not broken_off, cancel_futures=True)
    if broken_off:
        for process in multiprocessing.active_children():
            process.terminate()
    return False


def expected_seconds(runs: Sequence[Run], known: Finished) -> float:
    """Of one core for the runs that are missing: as their workloads say, or as finished ones have shown."""
    total = 0.0
    for run in runs:
        if run in known:
            continue
        alike = [(other, outcome) for other, outcome in known.items() if other.workload == run.workload]
        if alike:
            pace = sum(outcome.seconds for _, outcome in alike) / sum(other.seconds for other, _ in alike)
        total += run.seconds * (pace if alike else 1.0)
    return total
