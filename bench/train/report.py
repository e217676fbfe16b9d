"""The output of a study: its plan before it runs, and its tables afterwards, as Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..shared import screen, tables
from .findings import Result, Verdict
from .runs import NETWORK, Run
from .study import LEVEL, Claim, Study
from .workloads import WORKLOADS

HEADS = ("arm", "tested with", "score", "training loss", "sent per step", "predicted", "apart", "diverged")
CLAIMS = ("claim", "difference", "95 % interval", "t", "p", "p, Holm", "d_z", "verdict")
TEXTS = ("tested with", "candidates", "mean scores", "verdict")
"""Columns that hold no numbers."""


def plan(study: Study) -> str:
    """The study as Markdown, before anything has run."""
    rows = [(arm.name, "; ".join(map(_said, arm.candidates))) for arm in study.arms]
    paragraphs = [f"# {study.title}", f"Hypothesis: {study.hypothesis}"]
    paragraphs.append(tables.markdown(("arm", "candidates"), rows, TEXTS))
    budget = max(len(arm.candidates) for arm in study.arms)
    if budget > 1:
        paragraphs.append(
            f"Each arm with several candidates is tuned with {budget} of them on seeds {_seeds(study.tuning)}: the "
            "best mean score is tested."
        )
    paragraphs.append(
        f"Tested on seeds {_seeds(study.testing)}, two-sided paired t-tests, Holm's correction over the "
        f"{len(study.claims)} claims, level {LEVEL:g}:"
    )
    return "\n\n".join([*paragraphs, "\n".join(f"- {_claim(claim)}" for claim in study.claims)]) + "\n"


def _claim(claim: Claim) -> str:
    measure = "score" if claim.measure == "score" else "training loss"
    return f"{claim.better} has a better {measure} than {claim.than}"


def _said(run: Run) -> str:
    more = [f"lr {run.lr:g}"]
    more += [f"{run.workers} workers"] if run.workers != 8 else []
    more += [run.dtype] if run.dtype != "float32" else []
    more += [f"Dirichlet {run.skew:g}"] if run.skew is not None else []
    return ", ".join([run.method.title, *more])


def _seeds(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def findings(study: Study, found: Sequence[Result], judged: Sequence[Verdict]) -> str:
    """Markdown: a table for each task, then the claims, then the candidates of each arm."""
    paragraphs: list[str] = []
    for panel in dict.fromkeys(result.arm.panel for result in found):
        own = [result for result in found if result.arm.panel == panel]
        workload = WORKLOADS[own[0].run.workload]
        score = f"Score: {workload.metric}, {'more' if workload.rises else 'less'} is better."
        paragraphs += [f"## {panel}", score, tables.markdown(HEADS, list(map(_row, own)), TEXTS)]
    if judged:
        paragraphs += ["## Claims", tables.markdown(CLAIMS, list(map(_judged, judged)), TEXTS)]
    tuned = [(result.arm.name, _tuning(result)) for result in found if result.tuning]
    if tuned:
        paragraphs.append(f"## Tuned on seeds {_seeds(study.tuning)}")
        paragraphs.append(tables.markdown(("arm", "mean scores"), tuned, TEXTS))
    return "\n\n".join(paragraphs) + "\n"


def _tuning(result: Result) -> str:
    """The mean score of each candidate; the chosen one is bold."""
    scores = {
        run: f"{_said(run)}: {score:.2f}" for run, score in zip(result.arm.candidates, result.tuning, strict=True)
    }
    return "; ".join(f"**{text}**" if run == result.run else text for run, text in scores.items())


def legend(seeds: Sequence[int]) -> str:
    """The meaning of the columns."""
    return (
        f"Mean ± standard deviation over seeds {_seeds(seeds)}. score: of the mean of the workers' models, BatchNorm's "
        "statistics estimated anew. training loss: mean of the workers' batches in the last tenth of the steps. sent: "
        f"by each worker. predicted: all steps with {NETWORK}, by `bench scale`. apart: rms over the workers of "
        "‖z_i - mean‖ / ‖mean‖ at the end. difference: positive as claimed; its interval is not corrected. d_z: "
        "difference over its deviation."
    )


def _row(result: Result) -> tuple[str, ...]:
    return (
        result.arm.name,
        _said(result.run),
        f"{result.mean('score'):.2f} ± {result.deviation('score'):.2f}",
        f"{result.mean('loss'):.4f} ± {result.deviation('loss'):.4f}",
        screen.size(result.mean("bytes_sent") / result.run.steps),
        f"{result.run.predicted_seconds:.0f} s",
        f"{result.mean('consensus'):.1e}",
        str(result.diverged or ""),
    )


def _judged(verdict: Verdict) -> tuple[str, ...]:
    c = verdict.comparison
    interval, p_holm = f"{c.low:+.3g} to {c.high:+.3g}", f"{verdict.adjusted:.2g}"
    numbers = (f"{c.difference:+.3g}", interval, f"{c.t:.2f}", f"{c.p:.2g}", p_holm, f"{c.effect:+.2f}")
    return (_claim(verdict.claim), *numbers, verdict.said)


def numbers(found: Sequence[Result], judged: Sequence[Verdict]) -> dict[str, Any]:
    """For the JSON: of every arm what was tested and each seed's figures; one loss curve, the mean of the seeds."""
    return {
        "arms": [
            {
                "name": result.arm.name,
                "run": asdict(result.run),
                "title": _said(result.run),
                "tuning": [
                    {"candidate": _said(run), "score": score}
                    for run, score in zip(result.arm.candidates, result.tuning, strict=False)
                ],
                "seeds": sorted(result.outcomes),
                **{name: result.values(name) for name in ("score", "loss", "consensus", "seconds")},
                "bytes_sent": result.mean("bytes_sent"),
                "predicted_seconds": result.run.predicted_seconds,
                "diverged": result.diverged,
                "curve": [round(value, 5) for value in result.curve],
            }
            for result in found
        ],
        "claims": [
            {**asdict(each.claim), **each.comparison._asdict(), "p_holm": each.adjusted, "verdict": each.said}
            for each in judged
        ],
    }
