"""What a study has found: the candidate that each arm was tested with, its figures, and what became of the claims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..shared.statistics import Comparison, holm, paired
from .conducting import Finished
from .runs import Outcome, Run
from .study import LEVEL, Arm, Claim, Study, better


class Figure(NamedTuple):
    """Mean and standard deviation over seeds; the latter is 0 where there is one seed."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Result:
    """Of one arm.

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
        """Of an attribute of the outcomes."""
        values = self.values(measure)
        return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def values(self, measure: str) -> list[float]:
        """By seed."""
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
    return {arm.name: _best(arm, study, known) for arm in study.arms}


def _best(arm: Arm, study: Study, known: Finished) -> Run:
    if len(arm.candidates) == 1:
        return arm.candidates[0]
    sign = better(arm.candidates[0].workload, "score")
    found = [[known[replace(run, seed=seed)] for seed in study.tuning] for run in arm.candidates]
    merits = [(-sum(o.diverged for o in each), sign * statistics.fmean(o.score for o in each)) for each in found]
    return arm.candidates[merits.index(max(merits))]


def _scores(arm: Arm, study: Study, known: Finished) -> tuple[float, ...]:
    return tuple(
        statistics.fmean(known[replace(run, seed=seed)].score for seed in study.tuning) for run in arm.candidates
    )


def results(study: Study, chosen: Mapping[str, Run], known: Finished, seeds: tuple[int, ...]) -> list[Result]:
    """Of every arm, in order."""
    return [
        Result(
            arm,
            chosen[arm.name],
            {seed: known[replace(chosen[arm.name], seed=seed)] for seed in seeds},
            _scores(arm, study, known) if len(arm.candidates) > 1 else (),
        )
        for arm in study.arms
    ]


def verdicts(study: Study, found: list[Result]) -> list[Verdict]:
    """Every claim, corrected over all claims of the study."""
    by_name = {result.arm.name: result for result in found}
    comparisons, diverged = [], []
    for claim in study.claims:
        one, other = by_name[claim.better], by_name[claim.than]
        sign = better(one.run.workload, claim.measure)
        diverged.append(one.diverged + other.diverged)
        comparisons.append(
            paired(*([sign * value for value in result.values(claim.measure)] for result in (one, other)))
        )
    adjusted = holm([comparison.p for comparison in comparisons])
    return [Verdict(*each) for each in zip(study.claims, comparisons, adjusted, diverged, strict=True)]
