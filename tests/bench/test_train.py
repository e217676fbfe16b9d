"""Studies of accuracy: workloads and shards, the statistics, that runs are kept, virtual workers, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import code_of, refusal
from scipy import stats

from bench.shared.methods import Method, Unweighted
from bench.shared.screen import Course, screen
from bench.shared.statistics import holm, paired
from bench.train import runs as storing
from bench.train import training
from bench.train.checks import consensus as apart
from bench.train.checks import equality, quadratic
from bench.train.runs import Outcome, Run, Store
from bench.train.studies import STUDIES
from bench.train.study import Arm, Claim, Study, choose, results, tuned, verdicts
from bench.train.training import conduct, scale, task
from bench.train.workloads import WORKLOADS, phrases, workload
from gossip import GossipOptimizer, PushSum, UsageError, World
from gossip.launching.launchers import detect
from gossip.testing import run as on_threads
from topologies import load

SGP = Method("sgp")


# -- workloads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_follows_from_its_seed(name: str) -> None:
    workload = WORKLOADS[name]
    one, again, other = workload.data(3), workload.data(3), workload.data(4)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True) if a is not None and b is not None)
    assert not torch.equal(one.held_inputs, other.held_inputs)
    first, second, third = (
        torch.nn.utils.parameters_to_vector(workload.model(seed).parameters()) for seed in (3, 3, 4)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("name", WORKLOADS)
def test_nothing_held_out_is_trained_on(name: str) -> None:
    data = WORKLOADS[name].data(0)
    rows = {row.numpy().tobytes() for row in data.inputs}
    held = [row.numpy().tobytes() in rows for row in data.held_inputs]
    # Help topics quote one another, line by line.
    assert sum(held) <= (0.02 * len(held) if name == "topics" else 0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_an_untrained_model_scores_badly_and_has_a_loss(name: str) -> None:
    workload = WORKLOADS[name]
    data, model = workload.data(0), workload.model(0)
    loss = workload.loss(model, data.inputs[:4], data.targets[:4])
    assert math.isfinite(loss.item())
    score = workload.score(model, data)
    assert abs(score - workload.worst) < 15
    assert model.training


def test_numbers_and_dates_are_said_as_germans_say_them() -> None:
    said = {n: phrases.text(phrases.number(n)[1]) for n in (1, 16, 21, 100, 101, 345, 1000, 23005, 999_999)}
    assert said == {
        1: "ein",
        16: "sechzehn",
        21: "einundzwanzig",
        100: "einhundert",
        101: "einhundertein",
        345: "dreihundertfünfundvierzig",
        1000: "eintausend",
        23005: "dreiundzwanzigtausendfünf",
        999_999: "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
    }
    assert " ".join(phrases.number(23005)[0]) == "twenty three thousand and five"
    assert [phrases.text(phrases.day(n)[1]) for n in (3, 20, 31)] == ["dritten", "zwanzigsten", "einunddreißigsten"]


def test_a_translation_is_scored_by_bleu() -> None:
    """A model that knows the answers has 100."""
    workload = WORKLOADS["phrases"]
    data = workload.data(0)
    model = workload.model(0)
    answers = torch.cat([data.held_targets[:, 1:], data.held_targets.new_zeros(len(data.held_targets), 1)], 1)
    model.translate = lambda source, length: answers  # type: ignore[assignment]
    assert workload.score(model, data) == pytest.approx(100)


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concentration", [None, 1.0, 0.1])
def test_shards_are_disjoint_and_leave_nothing_out(concentration: float | None) -> None:
    labels = torch.arange(2000) % 10
    if concentration is None:
        parts = workload.alike(2000, 7, seed=5)
        assert {len(part) for part in parts} == {285, 286}
    else:
        parts = workload.skewed(labels, 7, concentration, seed=5)
        assert min(map(len, parts)) >= workload.LEAST
    assert sorted(torch.cat(parts).tolist()) == list(range(2000))


def test_less_concentrated_shards_have_fewer_classes() -> None:
    labels = torch.arange(4000) % 10

    def largest(concentration: float) -> float:
        """The share of a rank's most frequent class, mean over ranks."""
        parts = workload.skewed(labels, 8, concentration, seed=1)
        return float(np.mean([int(labels[part].bincount().max()) / len(part) for part in parts]))

    assert largest(0.1) > 0.4 > largest(1.0) > 0.15 > largest(1000.0)


# -- statistics --------------------------------------------------------------------------------------------------------


def test_holm_against_a_worked_example() -> None:
    # 4·0.005, then 3·0.01, 2·0.03, and 0.04 that may not fall below its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_paired_test_is_that_of_one_sample_of_differences() -> None:
    a, b = [5.1, 4.9, 6.2, 5.7, 5.5], [4.8, 5.0, 5.1, 5.2, 5.1]
    differences = np.subtract(a, b)
    mean, error = differences.mean(), differences.std(ddof=1) / math.sqrt(5)
    found = paired(a, b)
    one_sample = stats.ttest_1samp(differences, 0)
    assert found.p == pytest.approx(one_sample.pvalue)
    assert found.t == pytest.approx(mean / error)
    reach = stats.t.ppf(0.975, 4) * error
    assert (found.low, found.high) == pytest.approx((mean - reach, mean + reach))
    assert found.effect == pytest.approx(mean / differences.std(ddof=1))
    assert paired(a, a).p == 1.0


# -- methods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_without_weight_ranks_agree_on_another_mean(weighted: bool) -> None:
    n, rounds = 6, 60
    graph = load("bench.train.studies.weight:lopsided", n)
    starts = np.arange(n, dtype=float)

    def agreed(world: World) -> tuple[float, float]:
        x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        gossip = PushSum(world, graph)
        sgd = torch.optim.SGD([x], lr=1.0)
        optimizer = GossipOptimizer(sgd, gossip if weighted else Unweighted(gossip))
        x.grad = torch.full_like(x, -starts[world.rank])  # the first update takes each rank to its start
        optimizer.step()
        x.grad = None
        for _ in range(rounds - 1):
            optimizer.step()
        return float(x.detach()), optimizer.weight

    P = graph.matrix(0)
    values, weights = zip(*on_threads(n, agreed), strict=True)
    if weighted:
        assert values == pytest.approx([starts.mean()] * n)
        assert weights == pytest.approx(list(np.linalg.matrix_power(P, rounds).sum(1)))
    else:
        # Each takes what it hears for a mean: rows that sum to 1.
        rows = np.linalg.matrix_power(P / P.sum(1, keepdims=True), rounds)
        assert values == pytest.approx(list(rows @ starts))
        assert set(weights) == {1.0}
        assert abs(values[0] - starts.mean()) > 0.1


def test_gossip_without_weight_is_itself_on_a_doubly_stochastic_graph() -> None:
    methods = [Method(base, weighted=weighted) for base in ("sgp", "osgp") for weighted in (True, False)]
    sgp, plain, osgp, overlapped = (conduct(Run("digits", method, 0.05, workers=4, steps=6)) for method in methods)
    assert replace(sgp, seconds=0.0) == replace(plain, seconds=0.0)
    assert replace(osgp, seconds=0.0) == replace(overlapped, seconds=0.0)


def test_the_graph_of_the_weight_study_conserves_mass_and_is_irregular() -> None:
    P = load("bench.train.studies.weight:lopsided", 8).matrix(0)
    assert np.allclose(P.sum(0), 1)
    assert P.sum(1).max() > 2
    # No weight is so small that its inverse would make updates diverge.
    assert np.linalg.matrix_power(P, 200).sum(1).min() > 0.5


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"base": "adpsgd"}, "is no method"),
        ({"base": "sgp", "momentum": 0.5}, "has no slow momentum"),
        ({"base": "sgp", "buffers": "reset"}, "has no outer step"),
        ({"base": "local", "outer": "noaverage"}, "no method: take sgp or osgp"),
        ({"base": "local", "graph": "ring"}, "has no graph"),
        ({"base": "sgp", "overlap": 2}, "does not overlap"),
    ],
)
def test_impossible_methods_are_refused(parts: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Method(**parts)  # type: ignore[arg-type]


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_run_repeats_bit_for_bit_and_hears_of_its_seed() -> None:
    run = Run("digits", Method("osgp", "slowmo", period=4, momentum=0.5), lr=0.1, workers=4, steps=8)
    one, again, other = conduct(run), conduct(run), conduct(replace(run, seed=1))
    assert replace(one, seconds=0.0) == replace(again, seconds=0.0)
    assert one.curve != other.curve
    assert len(one.curve) == 8
    assert one.weights == (1.0, 1.0)
    assert one.bytes_sent > 8 * 4 * sum(p.numel() for p in task(run).model.parameters())


@pytest.mark.parametrize("workload", ["digits", "topics"])
def test_parameters_of_16_bits_train_with_anchors_of_32(workload: str) -> None:
    run = Run(workload, Method("sgp", "slowmo", period=4, momentum=0.5), lr=0.01, workers=2, steps=8, dtype="bfloat16")
    narrow, wide = conduct(run), conduct(replace(run, dtype="float32"))
    assert not narrow.diverged
    assert narrow.curve == pytest.approx(wide.curve, rel=0.05)
    assert narrow.bytes_sent < wide.bytes_sent


def test_a_diverged_run_has_the_worst_score() -> None:
    found = conduct(Run("topics", Method("local", period=2), lr=1e30, workers=2, steps=4))
    assert found.diverged
    assert found.score == WORKLOADS["topics"].worst
    json.dumps(asdict(found), allow_nan=False)


def test_the_rate_rises_and_falls_in_steps() -> None:
    rates = [scale(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == 1.0
    assert rates[120] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.01)


# -- studies -----------------------------------------------------------------------------------------------------------

RUNS = tuned("digits", SGP, [0.05, 0.1], workers=2, steps=4)
SMALL = Study(
    name="small",
    title="small",
    hypothesis="none",
    arms=(
        Arm("digits SGP", RUNS),
        Arm("digits Local", tuned("digits", Method("local", period=2), [0.05, 0.1], workers=2, steps=4)),
    ),
    claims=(Claim("digits SGP", "digits Local", "loss"),),
    tuning=(0,),
    testing=(10, 11),
)  # fmt: skip


def quiet(steps: int) -> Course:
    return Course(screen(detect()), steps)


def test_no_run_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Run] = []

    def count(run: Run) -> Outcome:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run)
        return Outcome(run.lr, 1.0, (1.0,), 8, 0.0, (1.0, 1.0), False, 0.1)

    monkeypatch.setattr(training, "conduct", count)
    store, runs = Store(tmp_path / "runs"), SMALL.tuning_runs()
    assert len(runs) == 4
    with pytest.raises(KeyboardInterrupt):
        training.conduct_all(runs, store, 1, quiet(4))
    first, done[:] = list(done), []
    found = training.conduct_all(runs, store, 1, quiet(4))
    assert sorted(first + done, key=runs.index) == runs
    assert {run.lr: outcome.score for run, outcome in found.items()} == {0.05: 0.05, 0.1: 0.1}
    assert choose(SMALL, found)["digits SGP"].lr == 0.1
    # Another run has another file.
    assert store.finished([replace(runs[0], dtype="bfloat16")]) == {}
    assert len(list(store.folder.iterdir())) == 4


def test_diverged_candidates_are_chosen_last_and_decide_no_claim() -> None:
    fine = Outcome(50.0, 1.0, (1.0,), 8, 0.0, (1.0, 1.0), False, 0.1)
    known = {run: replace(fine, score=99.0, diverged=run.lr == 0.1 and run.seed == 0) for run in SMALL.tuning_runs()}
    assert choose(SMALL, known)["digits SGP"].lr == 0.05
    study = replace(SMALL, claims=(Claim("digits Local", "digits SGP"),), testing=(20, 21, 22))
    chosen = choose(study, known)
    tested = {
        run: replace(fine, score=run.seed + 10.0 * (run.method.base == "local")) for run in study.testing_runs(chosen)
    }
    one = next(run for run in tested if run.method.base == "local")
    for diverged, said in ((False, "holds"), (True, "diverged")):
        tested[one] = replace(tested[one], score=tested[one].score + 0.5, diverged=diverged)
        [verdict] = verdicts(study, results(study, chosen, known | tested, study.testing))
        assert verdict.said == said


def test_expected_time_follows_finished_runs() -> None:
    run = RUNS[0]
    outcome = Outcome(1.0, 1.0, (1.0,), 8, 0.0, (1.0, 1.0), False, 3 * run.seconds)
    assert storing.expected_seconds([run, RUNS[1]], {run: outcome}) == pytest.approx(3 * RUNS[1].seconds)


@pytest.mark.parametrize("name", STUDIES)
def test_studies_have_claims_and_runs_to_test_them(name: str) -> None:
    study = STUDIES[name]
    assert study.claims
    assert len(study.tuning_runs()) > 0 or all(len(arm.candidates) == 1 for arm in study.arms)
    rehearsal = study.rehearsal()
    assert all(run.steps >= run.method.period for run in rehearsal.tuning_runs() if run.method.periodic)


def test_inconsistent_studies_are_refused() -> None:
    with pytest.raises(UsageError, match="is no arm"):
        replace(SMALL, claims=(Claim("digits SGP", "digits AR"),))
    with pytest.raises(UsageError, match="cannot be tested on them"):
        replace(SMALL, testing=(0, 1))
    with pytest.raises(UsageError, match="budgets"):
        replace(SMALL, arms=(SMALL.arms[0], Arm("digits Local", (*SMALL.arms[1].candidates, replace(RUNS[0], lr=1.0)))))
    with pytest.raises(UsageError, match="less than one period"):
        Run("digits", Method("local", period=12), 0.1, steps=4)


def test_a_study_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "quick", replace(SMALL, name="quick"))
    assert code_of("train", "--quick", "--out", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "8 runs, 0 done" in said
    record = json.loads((tmp_path / "quick.json").read_text())
    (claim,) = record["results"]["claims"]
    sgp, local = (arm["loss"] for arm in record["results"]["arms"])
    assert claim["difference"] == pytest.approx(np.mean(np.subtract(local, sgp)))
    assert claim["p_holm"] == pytest.approx(stats.ttest_rel(sgp, local).pvalue)
    table = (tmp_path / "quick.md").read_text()
    assert "Hypothesis: none" in table
    assert f"{np.mean(sgp):.4f} ± {np.std(sgp, ddof=1):.4f}" in table
    assert (tmp_path / "quick.png").stat().st_size > 10_000
    assert code_of("train", "--quick", "--out", str(tmp_path), "--plan") == 0
    assert "8 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "magic"], "invalid choice: 'magic'"),
        (["--jobs", "0"], "'0' is not a whole number of at least 1"),
        (["--jobs", "1000"], "each run is one core's work"),
        (["--rehearse", "--tuning-only"], "ask for one of them"),
        (["--preset", "quadratic", "--plan"], "--preset quadratic has no plan"),
        (["--quick", "--preset", "tau"], "--quick and --preset tau: ask for one of them"),
        (["--check-virtual", "--plan"], "--check-virtual compares the methods of all studies"),
        (["--out", "/proc/nowhere"], "cannot make the folder"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(capsys, "train", *arguments)


# -- theory and reality ------------------------------------------------------------------------------------------------


def test_four_workers_halve_the_squared_gradient_of_one() -> None:
    method = Method("local", "slowmo", period=12, momentum=0.5)
    one, four = (
        float(np.mean([quadratic.mean_squared_gradient(method, m, 8, seed) for seed in range(3)])) for m in (1, 4)
    )
    assert 1.5 < one / four < 2.7
    assert quadratic.slope([1, 2, 4], [8.0, 4.0, 2.0]) == pytest.approx(-1)


def test_an_exact_average_brings_workers_to_one_point_and_gossip_nearer() -> None:
    steps = {"steps": 24, "workers": 4, "lr": 0.05}
    local, sgp, mixed = (
        apart.distances(Run("digits", method, **steps))
        for method in (Method("local", period=12), Method("sgp"), Method("sgp", "slowmo", period=12, momentum=0.2))
    )
    # The average of Local SGD is that of the 12th and of the 24th step.
    assert [step for step in range(24) if local[step] < 1e-6] == [11, 23]
    assert [step for step in range(24) if mixed[step] < 1e-6] == [11, 23]
    assert sgp.min() > 0
    assert sgp[6:11].mean() < local[6:11].mean() / 2


@pytest.mark.parametrize("preset", ["consensus", "quadratic"])
def test_presets_without_a_plan_print_draw_and_write(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(apart, "distances", lambda run: np.linspace(0.5, 0.01, run.steps))
    monkeypatch.setattr(quadratic, "mean_squared_gradient", lambda method, m, t, seed: (m * t) ** -0.5)
    assert code_of("train", "--preset", preset, "--out", str(tmp_path)) == 0
    record = json.loads((tmp_path / f"{preset}.json").read_text())
    assert (tmp_path / f"{preset}.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    if preset == "quadratic":
        assert record["slopes"] == pytest.approx(dict.fromkeys(quadratic.METHODS, -0.5))
        assert printed.count("-0.50") == 2 * (len(quadratic.WORKERS) + len(quadratic.ITERATIONS) + 1)
    else:
        assert [each["method"] for each in record["results"]] == [method.title for method in apart.METHODS]
        assert record["results"][0]["distance"][0] == 0.5


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_of_the_quadratic_differ_but_not_their_mean(workers: int) -> None:
    given = quadratic.problem(workers, 3)
    assert given.curvatures.min() >= quadratic.L / 4
    assert given.curvatures.max() <= quadratic.L
    torch.testing.assert_close(given.curvatures.mean(0), quadratic.problem(1, 5).curvatures[0])
    minimum = torch.linalg.solve(torch.diag(given.curvatures.mean(0)), (given.curvatures * given.minima).mean(0))
    assert given.gradients(minimum).abs().max() < 1e-12
    assert (given.start - minimum).norm() == pytest.approx(1)


def test_predicted_time_counts_what_a_method_sends() -> None:
    seconds = {
        (outer, buffers, workload): Run(
            workload, Method("local", outer, buffers=buffers), 0.1, steps=12
        ).predicted_seconds
        for outer in ("average", "streaming")
        for buffers in (("maintain", "average") if outer == "average" else ("maintain",))
        for workload in ("digits", "phrases")
    }
    bare = seconds["streaming", "maintain", "digits"]
    one, two, three = (
        seconds[key] - bare
        for key in (
            ("average", "maintain", "digits"), ("average", "average", "digits"), ("average", "average", "phrases"),
        )
    )  # fmt: skip
    assert two == pytest.approx(2 * one, rel=0.2)
    assert three == pytest.approx(3 * one, rel=0.2)
    assert Run("digits", Method("ar", "streaming"), 0.1, steps=12).predicted_seconds > bare + 5 * one


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_virtual_workers_end_where_real_ones_do() -> None:
    torch.set_num_threads(1)
    for run, largest in equality.compare().items():
        assert largest <= equality.TOLERANCE, run.method.title
