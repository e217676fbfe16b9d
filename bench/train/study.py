"""A study as data, written before it runs: what is believed, what is compared, on which seeds, and how it is tested.

Its findings, afterwards: the candidate that each arm was tested with, its figures, and the verdicts on the claims.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from gossip import UsageError

from ..shared.methods import Method
from ..shared.statistics import Comparison, holm, paired
from .runs import Finished, Outcome, Run
from .workloads import WORKLOADS

LEVEL = 0.05


@dataclass(frozen=True)
class Arm:
    """One thing that is compared with others.

    candidates: runs that differ in what is tuned; the best on the tuning seeds is tested. Their seed is unused.
    line, x: where arms are points of a curve, which curve, and where on it.
    """

    name: str
    candidates: tuple[Run, ...]
    line: str = ""
    x: float | None = None

    @property
    def legend(self) -> str:
        """Its name in pictures: the points of a curve are one thing."""
        return self.line or self.name

    @property
    def panel(self) -> str:
        """Arms of one panel have the same task, so that their scores can be compared."""
        run = self.candidates[0]
        return run.workload + (f", Dirichlet {run.skew:g}" if run.skew is not None else "")


@dataclass(frozen=True)
class Claim:
    """That the arm `better` has a better mean `measure` than the arm `than`: "score", or "loss" of training."""

    better: str
    than: str
    measure: str = "score"


def claims(text: str, *measures: str, on: str = "") -> tuple[Claim, ...]:
    """Claims that are written "one arm > another arm, …", of scores unless `measures` says otherwise.

    on: words before the name of every arm; the claims are made with each.
    """
    pairs = [[name.strip() for name in pair.split(">")] for pair in text.split(",")]
    return tuple(
        Claim(f"{word} {better}".strip(), f"{word} {than}".strip(), measure)
        for word in on.split() or [""]
        for measure in measures or ["score"]
        for better, than in pairs
    )


@dataclass(frozen=True)
class Study:
    """The plan; `UsageError` where arms or claims do not go together. axis: the name of the arms' x, for a curve."""

    name: str
    title: str
    hypothesis: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    axis: str = ""
    tuning: tuple[int, ...] = tuple(range(5))
    testing: tuple[int, ...] = tuple(range(20, 30))

    def __post_init__(self) -> None:
        arms = {arm.name: arm for arm in self.arms}
        if len(arms) < len(self.arms):
            raise UsageError(f"study {self.name}: two arms have one name")
        for claim in self.claims:
            for name in (claim.better, claim.than):
                if name not in arms:
                    raise UsageError(f"study {self.name}: a claim names {name!r}, which is no arm of it")
            if arms[claim.better].panel != arms[claim.than].panel:
                raise UsageError(f"study {self.name}: {claim.better} and {claim.than} have different tasks")
        budgets = {len(arm.candidates) for arm in self.arms} - {1}
        if len(budgets) > 1:
            raise UsageError(f"study {self.name}: arms are tuned with budgets of {sorted(budgets)} runs; make them one")
        if set(self.tuning) & set(self.testing):
            raise UsageError(f"study {self.name}: what is tuned on seeds cannot be tested on them")

    def tuning_runs(self, *, all_arms: bool = False) -> list[Run]:
        """The runs that choose the candidates; `all_arms`: also those of arms without a choice."""
        arms = [arm for arm in self.arms if all_arms or len(arm.candidates) > 1]
        return seeded((run for arm in arms for run in arm.candidates), self.tuning)

    def testing_runs(self, chosen: dict[str, Run]) -> list[Run]:
        """The runs that test the claims."""
        return seeded(chosen.values(), self.testing)

    def rehearsal(self) -> Study:
        """The same with an eighth of the steps, at least one period, on one seed for tuning and two others.

        Those are not the seeds of the test: what is learned by rehearsing must not be tested on what taught it.
        """

        def shorter(run: Run) -> Run:
            period = run.method.period if run.method.periodic else 1
            return replace(run, steps=max(period, run.steps // 8))

        arms = tuple(replace(arm, candidates=tuple(map(shorter, arm.candidates))) for arm in self.arms)
        return replace(self, arms=arms, tuning=self.tuning[:1], testing=(100, 101))


def seeded(runs: Iterable[Run], seeds: Sequence[int]) -> list[Run]:
    """Each run on each seed, and none twice."""
    return list(dict.fromkeys(replace(run, seed=seed) for run in runs for seed in seeds))


def tuned(
    workload: str, method: Method, lrs: Sequence[float], momenta: Sequence[float] = (), **more: Any
) -> tuple[Run, ...]:
    """Candidates: every learning rate, with every slow momentum where the method has one."""
    methods = [replace(method, momentum=momentum) for momentum in momenta] or [method]
    return tuple(Run(workload, each, lr, **more) for each, lr in product(methods, lrs))


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
        diverged, score = _trial(run, study, known)
        return -diverged, _sign(run, "score") * score

    return {
        arm.name: max(arm.candidates, key=merit) if len(arm.candidates) > 1 else arm.candidates[0] for arm in study.arms
    }


def _trial(run: Run, study: Study, known: Finished) -> tuple[int, float]:
    """How many of a candidate's tuning runs diverged, and their mean score."""
    tried = [known[replace(run, seed=seed)] for seed in study.tuning]
    return sum(outcome.diverged for outcome in tried), statistics.fmean(outcome.score for outcome in tried)


def _sign(run: Run, measure: str) -> float:
    """1 where more of the measure is better, else -1."""
    return 1.0 if measure == "score" and WORKLOADS[run.workload].rises else -1.0


def results(study: Study, chosen: Mapping[str, Run], known: Finished, seeds: tuple[int, ...]) -> list[Result]:
    """The results of every arm, in order."""
    found = []
    for arm in study.arms:
        run = chosen[arm.name]
        scores = [_trial(each, study, known)[1] for each in arm.candidates] if len(arm.candidates) > 1 else []
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
