"""A study as data: what is believed, what is compared, on which seeds, and how it is tested. Written before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from gossip import UsageError

from ..shared.methods import Method
from .runs import Run

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

    >>> claims("AR > Local", on="digits")
    (Claim(better='digits AR', than='digits Local', measure='score'),)
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
