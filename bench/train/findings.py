"""The findings of a study: the candidate that each arm was tested with, its figures, and the verdicts on the claims."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..shared.statistics import Comparison, holm, paired
from .runs import Finished, Outcome, Run
from .study import LEVEL, Arm, Claim, Study, better


class Figure(NamedTuple):
    """Mean and standard deviation over seeds; the latter is 0 where there is one seed."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Result:
    """The figures of one arm.

    Attributes:
        run: the candidate, its seed unused.
        outcomes: by seed.
        tuning: the mean score of each candidate on the tuning seeds, in their order.
    """

    arm: Arm
    run: Run
    outcomes: Mapping[int, Outcome]
    tuning: tuple[float, ...]

    def figure(self, measure: str) -> Figure:
        """Mean and deviation of an attribute of the outcomes."""
        values = self.values(measure)
        return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def values(self, measure: str) -> list[float]:
        """An attribute of the outcomes, by seed."""
        return [float(getattr(outcome, measure)) for _, outcome in sorted(self.outcomes.items())]

    @property
    def curve(self) -> list[float]:
        """The loss curve, mean of the seeds."""
        return [statistics.fmean(parts) for parts in zip(*(o.curve for o in self.outcomes.values()), strict=True)]

    @property
    def diverged(self) -> int:
        """How many of the runs."""
        return sum(outcome.diverged for outcome in self.outcomes.values())


class Verdict(NamedTuple):
    """A claim, its comparison with the sign such that above 0 is as claimed, its p after Holm's correction, and how
    many of the runs that were compared diverged."""

    claim: Claim
    comparison: Comparison
    adjusted: float
    diverged: int

    @property
    def said(self) -> str:
        """In one word. A run that diverged has no loss, and a mean with it says nothing."""
        if self.diverged:
            return "diverged"
        if self.adjusted >= LEVEL:
            return "undecided"
        return "holds" if self.comparison.difference > 0 else "the opposite"


def choose(study: Study, known: Finished) -> dict[str, Run]:
    """Of each arm the candidate with the best mean score on the tuning seeds, of those that diverged least often; the
    first of equals."""
    chosen = {}
    for arm in study.arms:
        sign = better(arm.candidates[0].workload, "score")
        merits = [
            (-sum(outcome.diverged for outcome in tried), sign * _score(tried))
            for tried in (_tried(run, study, known) for run in arm.candidates if len(arm.candidates) > 1)
        ]
        chosen[arm.name] = arm.candidates[merits.index(max(merits)) if merits else 0]
    return chosen


def _tried(run: Run, study: Study, known: Finished) -> list[Outcome]:
    return [known[replace(run, seed=seed)] for seed in study.tuning]


def _score(tried: list[Outcome]) -> float:
    return statistics.fmean(outcome.score for outcome in tried)


def results(study: Study, chosen: Mapping[str, Run], known: Finished, seeds: tuple[int, ...]) -> list[Result]:
    """The results of every arm, in order."""
    found = []
    for arm in study.arms:
        run = chosen[arm.name]
        tuned = arm.candidates if len(arm.candidates) > 1 else ()
        scores = tuple(_score(_tried(candidate, study, known)) for candidate in tuned)
        found.append(Result(arm, run, {seed: known[replace(run, seed=seed)] for seed in seeds}, scores))
    return found


def verdicts(study: Study, found: list[Result]) -> list[Verdict]:
    """A verdict on every claim, corrected over all claims of the study."""
    by_name = {result.arm.name: result for result in found}
    comparisons, diverged = [], []
    for claim in study.claims:
        one, other = by_name[claim.better], by_name[claim.than]
        sign = better(one.run.workload, claim.measure)
        diverged.append(one.diverged + other.diverged)
        signed = ([sign * value for value in result.values(claim.measure)] for result in (one, other))
        comparisons.append(paired(*signed))
    adjusted = holm([comparison.p for comparison in comparisons])
    return [Verdict(*each) for each in zip(study.claims, comparisons, adjusted, diverged, strict=True)]
