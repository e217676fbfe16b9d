"""The findings of a study: the candidate that each arm was tested with, its figures, and the verdicts on the claims."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..shared.statistics import Comparison, holm, paired
from .runs import Finished, Outcome, Run
from .study import LEVEL, Arm, Claim, Study
from .workloads import WORKLOADS


@dataclass(frozen=True)
class Result:
    """The figures of one arm.

    run: the candidate, its seed unused. outcomes: by seed. tuning: each candidate's mean score on the tuning seeds.
    """

    arm: Arm
    run: Run
    outcomes: Mapping[int, Outcome]
    tuning: tuple[float, ...]

    def values(self, measure: str) -> list[float]:
        """An attribute of the outcomes, by seed."""
        return [float(getattr(outcome, measure)) for _, outcome in sorted(self.outcomes.items())]

    def mean(self, measure: str) -> float:
        """Its mean over the seeds."""
        return statistics.fmean(self.values(measure))

    def deviation(self, measure: str) -> float:
        """Its standard deviation; 0 where there is one seed."""
        return statistics.stdev(self.values(measure)) if len(self.outcomes) > 1 else 0.0

    @property
    def curve(self) -> list[float]:
        """The loss curve, mean of the seeds."""
        return list(map(statistics.fmean, zip(*(o.curve for o in self.outcomes.values()), strict=True)))

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

    def merit(run: Run) -> tuple[int, float]:
        diverged = sum(outcome.diverged for outcome in _tried(run, study, known))
        return -diverged, _sign(run, "score") * _score(run, study, known)

    return {
        arm.name: max(arm.candidates, key=merit) if len(arm.candidates) > 1 else arm.candidates[0]
        for arm in study.arms
    }  # fmt: skip


def _tried(run: Run, study: Study, known: Finished) -> list[Outcome]:
    return [known[replace(run, seed=seed)] for seed in study.tuning]


def _score(run: Run, study: Study, known: Finished) -> float:
    return statistics.fmean(outcome.score for outcome in _tried(run, study, known))


def _sign(run: Run, measure: str) -> float:
    """1 where more of the measure is better, else -1."""
    return 1.0 if measure == "score" and WORKLOADS[run.workload].rises else -1.0


def results(study: Study, chosen: Mapping[str, Run], known: Finished, seeds: tuple[int, ...]) -> list[Result]:
    """The results of every arm, in order."""
    found = []
    for arm in study.arms:
        run = chosen[arm.name]
        scores = [_score(each, study, known) for each in arm.candidates] if len(arm.candidates) > 1 else []
        found.append(Result(arm, run, {seed: known[replace(run, seed=seed)] for seed in seeds}, tuple(scores)))
    return found


def verdicts(study: Study, found: list[Result]) -> list[Verdict]:
    """A verdict on every claim, corrected over all claims of the study."""
    by_name = {result.arm.name: result for result in found}
    pairs = [(by_name[claim.better], by_name[claim.than], claim.measure) for claim in study.claims]
    comparisons = [
        paired(*([_sign(one.run, measure) * value for value in result.values(measure)] for result in (one, other)))
        for one, other, measure in pairs
    ]
    adjusted = holm([comparison.p for comparison in comparisons])
    diverged = [one.diverged + other.diverged for one, other, _ in pairs]
    return [Verdict(*each) for each in zip(study.claims, comparisons, adjusted, diverged, strict=True)]
