"""The output of a study: its plan before it runs, and its tables and picture afterwards."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from topologies.commands.pictures.canvas import INK, canvas, save
from topologies.commands.pictures.curves import LOOKS

from ..shared import screen, tables
from ..shared.pictures import frame
from .runs import NETWORK, Run
from .study import LEVEL, Claim, Result, Study, Verdict
from .workloads import WORKLOADS

HEADS = ("arm", "tested with", "score", "training loss", "sent per step", "predicted", "apart", "diverged")
CLAIMS = ("claim", "difference", "95 % interval", "t", "p", "p, Holm", "d_z", "verdict")
TEXTS = ("tested with", "candidates", "mean scores", "verdict")  # columns that hold no numbers


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
                "name": result.arm.name, "run": asdict(result.run), "title": _said(result.run),
                "tuning": [
                    {"candidate": _said(run), "score": score}
                    for run, score in zip(result.arm.candidates, result.tuning, strict=False)
                ],
                "seeds": sorted(result.outcomes),
                **{name: result.values(name) for name in ("score", "loss", "consensus", "seconds")},
                "bytes_sent": result.mean("bytes_sent"), "predicted_seconds": result.run.predicted_seconds,
                "diverged": result.diverged, "curve": [round(value, 5) for value in result.curve],
            }
            for result in found
        ],
        "claims": [
            {**asdict(each.claim), **each.comparison._asdict(), "p_holm": each.adjusted, "verdict": each.said}
            for each in judged
        ],
    }  # fmt: skip


WIDTH, HEIGHT, HEAD = 13.2, 3.5, 0.55
LEFT, ACROSS, GAP = 0.06, 0.21, 0.058

Looks = dict[str, dict[str, Any]]


def draw(path: Path, title: str, found: Sequence[Result], axis: str = "") -> None:
    """For each task a row: loss curves, and scores over bytes and predicted time, or along a curve of that `axis`."""
    panels = list(dict.fromkeys(result.arm.panel for result in found))
    height = HEAD + HEIGHT * len(panels)
    figure = canvas(WIDTH, height, title)
    for row, panel in enumerate(panels):
        own = [result for result in found if result.arm.panel == panel]
        bottom, tall = (height - HEAD - HEIGHT * (row + 1) + 0.55) / height, (HEIGHT - 0.95) / height
        columns = [figure.add_axes((LEFT + place * (ACROSS + GAP), bottom, ACROSS, tall)) for place in range(3)]
        looks = {}
        for place, name in enumerate(dict.fromkeys(result.arm.legend for result in own)):
            lap, first = divmod(place, len(LOOKS))
            other = LOOKS[(first + 3 * lap) % len(LOOKS)]  # each lap through the colours takes other lines and markers
            looks[name] = {**LOOKS[first], "linestyle": other["linestyle"], "marker": other["marker"]}
        _losses(columns[0], own, looks)
        if all(result.arm.x is not None for result in own):
            _along(columns[1], own, looks, axis)
        else:
            _scatter(columns[1], own, looks, [r.mean("bytes_sent") / 1e6 for r in own], "sent by a worker, MB")
        _scatter(columns[2], own, looks, [r.run.predicted_seconds for r in own], "predicted for ResNet-50's size, s")
        columns[0].set_title(panel, loc="left", size=11, color=INK)
        handles = dict(zip(*reversed(columns[2].get_legend_handles_labels()), strict=True))
        figure.legend(
            handles.values(), handles.keys(), loc="upper left", frameon=False, fontsize=8.5, labelcolor=INK,
            bbox_to_anchor=(LEFT + 3 * (ACROSS + GAP) - 0.045, bottom + tall),
        )  # fmt: skip
    save(figure, path)


def _losses(axes: Any, own: Sequence[Result], looks: Looks) -> None:
    for result in own:
        steps = (np.arange(len(result.curve)) + 0.5) * result.run.steps / len(result.curve)
        axes.plot(steps, result.curve, **{**looks[result.arm.legend], "marker": ""}, linewidth=1.4)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    losses = [loss for result in own for loss in result.curve]
    axes.yaxis.set_minor_formatter("{x:g}" if max(losses) < 8 * min(losses) else "")
    frame(axes, "step", "training loss")


def _scatter(axes: Any, own: Sequence[Result], looks: Looks, across: Sequence[float], what: str) -> None:
    for result, x in zip(own, across, strict=True):
        look = {**looks[result.arm.legend], "linestyle": "", "label": result.arm.legend, "capsize": 2, "markersize": 6}
        axes.errorbar(x, result.mean("score"), yerr=result.deviation("score"), **look)
    frame(axes, what, WORKLOADS[own[0].run.workload].metric)


def _along(axes: Any, own: Sequence[Result], looks: Looks, what: str) -> None:
    for line, look in looks.items():
        points = sorted((result for result in own if result.arm.line == line), key=lambda result: result.arm.x or 0)
        axes.errorbar(
            [result.arm.x or 0 for result in points], [result.mean("score") for result in points],
            yerr=[result.deviation("score") for result in points], capsize=2, markersize=5, **look,
        )  # fmt: skip
    places = sorted({result.arm.x or 0 for result in own})
    if places[0] > 0 and places[-1] >= 4 * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, labels=[f"{x:g}" for x in places])
    axes.set_xticks([], minor=True)
    frame(axes, what, WORKLOADS[own[0].run.workload].metric)
