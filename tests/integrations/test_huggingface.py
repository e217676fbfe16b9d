"""Hugging Face's Trainer and Accelerate with gossip, on ranks of real launchers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spawn
import torch

import gossip
from gossip import testing

transformers = pytest.importorskip("transformers", reason="no transformers is installed: the extra huggingface")
accelerate = pytest.importorskip("accelerate", reason="no accelerate is installed: the extra huggingface")

from gossip.integrations import huggingface  # noqa: E402

pytestmark = pytest.mark.timeout(600)  # the first test starts two sets of ranks

EXAMPLES = spawn.ROOT / "examples"
Records = list[dict[str, Any]]


def launched(folder: Path, *command: str, size: int) -> spawn.Outcome:
    """`accelerate launch` with these arguments."""
    options = ["--multi_gpu", "--num_processes", str(size), "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", str(spawn.free_port())]
    whole = [sys.executable, "-m", "accelerate.commands.launch", *options, *command]
    environment = spawn.variables({"HF_HOME": str(folder)})
    done = subprocess.run(whole, env=environment, cwd=spawn.ROOT, capture_output=True, text=True, timeout=240)
    return spawn.Outcome(done.returncode, done.stdout + done.stderr, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("huggingface")


@pytest.fixture(scope="module")
def begun(folder: Path) -> Records:
    """Two ranks under mpirun, from the beginning."""
    return spawn.mpirun(2, "workers.huggingface", folder, "begun")


@pytest.fixture(scope="module")
def resumed(begun: Records, folder: Path) -> Records:
    """Four ranks under mpirun, from the checkpoints of the two."""
    return spawn.mpirun(4, "workers.huggingface", folder, "resumed", str(folder / "begun"))


# -- Trainer -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_and_an_evaluation_are_the_weighted_mean_of_all_ranks(begun: Records, resumed: Records) -> None:
    """Messages in flight included; the truth is gathered by hand."""
    for record in [*begun, *resumed]:
        assert record["saved"] < 1e-6
        assert record["evaluated"] < 1e-6
    assert max(record["weight"] for record in begun) > 0.1, "weights differ from 1"


def test_ranks_train_models_of_their_own(begun: Records, resumed: Records) -> None:
    for records in (begun, resumed):
        assert not any(record["wrapped"] for record in records)
        assert not np.array_equal(records[0]["apart"], records[1]["apart"])
        assert all(record["own values after evaluation"] for record in records)


def test_every_rank_reads_its_shard(begun: Records, resumed: Records) -> None:
    for records in (begun[:2], resumed[:4]):
        assert sorted(np.concatenate([record["read"] for record in records]).tolist()) == list(range(64))


def test_accumulated_gradients_are_one_step(begun: Records) -> None:
    for record in begun:
        assert (record["steps"], record["updates"]) == (8, 8)
        assert record["rate"] == pytest.approx(0, abs=1e-9), "the cosine has ended"


def test_metrics_are_alike_on_all_ranks(begun: Records, resumed: Records) -> None:
    for records in (begun, resumed):
        for record in records:
            assert record["metrics"].tolist() == records[0]["metrics"].tolist()
            assert record["logged"].tolist() == records[0]["logged"].tolist()
            assert record["metrics"][2] == 64, "each sample counts once"


def test_every_rank_has_the_best_model_at_the_end(begun: Records) -> None:
    for record in begun:
        assert record["best"] == 4
        assert record["best file"] == record["final file"] == 0
        assert np.array_equal(record["final"], begun[0]["final"])


def test_every_rank_has_the_last_mean_at_the_end(resumed: Records) -> None:
    for record in resumed:
        assert record["final file"] == 0
        assert np.array_equal(record["final"], resumed[0]["final"])


def test_a_run_goes_on_with_another_number_of_ranks(resumed: Records, folder: Path) -> None:
    """From the mean and its moments, where the schedule was."""
    checkpoint = folder / "begun" / "trainer" / "checkpoint-8"
    model = transformers.BertForSequenceClassification.from_pretrained(checkpoint)
    weights = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).numpy()
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    moments = torch.cat([each["exp_avg"].reshape(-1) for each in saved.values()]).numpy()
    for record in resumed:
        assert np.array_equal(record["at the beginning"], weights)
        assert np.array_equal(record["moments"], moments)
        assert (record["steps at the beginning"], record["steps"], record["updates"]) == (8, 12, 12)


def test_parameters_stay_in_their_buckets(begun: Records, resumed: Records) -> None:
    """Trainer makes the optimizer first, and Accelerate then moves the model: on a CPU, to cpu:0, which copies it."""
    assert all(record["at home"] for record in [*begun, *resumed])


class Line(torch.nn.Module):
    """A model that is none of transformers'."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.layer(x)
        return {"loss": (found - labels).square().mean(), "logits": found}


def test_another_trainer_may_stand_behind_and_train_twice(tmp_path: Path) -> None:
    """With an optimizer and a scheduler of the user's own."""

    class Mine(huggingface.GossipTrainer, transformers.Seq2SeqTrainer):  # type: ignore[misc]
        pass

    model = Line()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
    arguments = transformers.Seq2SeqTrainingArguments(
        str(tmp_path), max_steps=3, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
    )
    samples = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 8
    trainer = Mine(model, arguments, train_dataset=samples, eval_dataset=samples, optimizers=(sgd, scheduler))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    trainer.train()
    assert trainer.gossip_optimizer.steps == 6
    assert trainer.gossip_optimizer.optimizer is sgd
    assert trainer.evaluate()["eval_loss"] < before


# -- Accelerate --------------------------------------------------------------------------------------------------------


def test_accelerate_saves_and_lends_the_weighted_mean(begun: Records, resumed: Records) -> None:
    for record in [*begun, *resumed]:
        assert record["accelerate mean"] < 1e-6
        assert record["accelerate saved"] < 1e-6
        assert record["accelerate kept"]
        assert not record["accelerate wrapped"]
        assert record["accelerate read"].tolist() == list(range(64))
    assert not np.array_equal(begun[0]["accelerate apart"], begun[1]["accelerate apart"])


def test_accelerate_goes_on_with_another_number_of_ranks(begun: Records, resumed: Records) -> None:
    assert {int(record["accelerate steps"]) for record in begun} == {4}
    for record in resumed:
        assert np.array_equal(record["accelerate loaded"], resumed[0]["accelerate loaded"])
        assert (record["accelerate begun"], record["accelerate steps"]) == (4, 6)


# -- launchers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_of_torchrun(tmp_path: Path) -> None:
    records = spawn.torchrun(2, "workers.huggingface", tmp_path, "torchrun")
    assert [str(record["transport"]) for record in records] == ["gloo"] * 2
    assert all(record["saved"] < 1e-6 and record["accelerate saved"] < 1e-6 for record in records)
    assert np.array_equal(records[0]["final"], records[1]["final"])


@pytest.mark.slow
def test_ranks_of_accelerate_launch(tmp_path: Path) -> None:
    outcome = launched(tmp_path, "--module", "workers.huggingface", str(tmp_path), "launched", size=2)
    assert outcome.code == 0, outcome.output[-8000:]
    records = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    assert all(record["saved"] < 1e-6 and record["accelerate saved"] < 1e-6 for record in records)
    assert np.array_equal(records[0]["final"], records[1]["final"])


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("huggingface_digits.py", 2), ("accelerate_digits.py", 4)])
def test_an_example_learns_digits(name: str, size: int, tmp_path: Path) -> None:
    outcome = spawn.run_mpirun(size, [str(EXAMPLES / name), str(tmp_path)])
    assert outcome.code == 0, outcome.output[-8000:]
    found = re.findall(rf"process (\d) of {size}: test accuracy of the mean (\S+)%", outcome.output)
    assert sorted(rank for rank, _ in found) == [str(rank) for rank in range(size)]
    assert len({accuracy for _, accuracy in found}) == 1
    assert float(found[0][1]) > 70, "chance is 10; the beginning is not seeded"
    assert (tmp_path / "model.safetensors").is_file()


PLAIN = {
    "huggingface_digits.py": {
        "from gossip.integrations.huggingface import GossipTrainer, init\n": "from transformers import Trainer\n",
        "world = init()  # before TrainingArguments\n": "",
        "GossipTrainer(": "Trainer(",
        "    world=world,\n": "",
    },
    "accelerate_digits.py": {
        "from gossip.integrations.huggingface import GossipAccelerator\n": "from accelerate import Accelerator\n",
        "GossipAccelerator(": "Accelerator(",
        "with accelerator.mean(model), torch.no_grad():": "with torch.no_grad():",
    },
}
"""For each example the lines that gossip asks for, and those of the same script without."""


@pytest.mark.parametrize("name", PLAIN)
def test_gossip_asks_for_few_lines(name: str) -> None:
    whole = (EXAMPLES / name).read_text()
    page = (spawn.ROOT / "docs" / "how-to" / "hugging-face.md").read_text()
    assert whole in page
    code = whole.partition('"""\n\n')[2]
    plain = code
    for with_gossip, without in PLAIN[name].items():
        assert with_gossip in plain
        plain = plain.replace(with_gossip, without)
    assert not re.search(r"gossip|world\b", plain), "a script without gossip"
    compile(plain, name, "exec")
    assert len(code.splitlines()) - len(plain.splitlines()) <= 10
    assert len(set(code.splitlines()) - set(plain.splitlines())) <= 10, "lines that changed count too"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_arguments_that_were_made_before_init_are_refused(tmp_path: Path) -> None:
    """They know one process."""
    arguments = transformers.TrainingArguments(str(tmp_path), report_to="none", save_strategy="no", use_cpu=True)

    def run(world: gossip.World) -> None:
        with pytest.raises(gossip.UsageError, match=r"is process 0 of 1 for Accelerate: call .*init\(\) before"):
            huggingface.GossipTrainer(torch.nn.Linear(2, 1), arguments, world=world)

    testing.run(2, run)


def test_an_optimizer_without_its_model_is_refused() -> None:
    accelerator = huggingface.GossipAccelerator(cpu=True)
    model = torch.nn.Linear(2, 1)
    with pytest.raises(gossip.UsageError, match="name the model before its optimizer"):
        accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1), model)
    other = torch.nn.Linear(2, 1)
    with (
        pytest.raises(gossip.UsageError, match="no optimizer of this accelerator trains this Linear"),
        accelerator.mean(other),
    ):
        pass


def test_two_optimizers_of_one_model_have_one_mean() -> None:
    accelerator = huggingface.GossipAccelerator(cpu=True)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    adam, sgd = torch.optim.Adam(model[:2].parameters()), torch.optim.SGD(model[2].parameters(), lr=0.1)
    model, adam, sgd = accelerator.prepare(model, adam, sgd)
    assert len(accelerator.gossip_optimizers(model)) == 2
    accelerator.backward(model(torch.ones(3, 2)).sum())
    adam.step()
    sgd.step()
    with accelerator.mean(model):
        inside = {name: value.clone() for name, value in model.state_dict().items()}
    state = accelerator.get_state_dict(model)
    assert state.keys() == inside.keys()
    assert all(torch.equal(state[name], inside[name]) for name in inside)


def test_compose_has_to_return_an_optimizer_that_gossips() -> None:
    accelerator = huggingface.GossipAccelerator(cpu=True, compose=lambda optimizer, world, model: optimizer)
    model = torch.nn.Linear(2, 1)
    with pytest.raises(gossip.UsageError, match=r"compose returned a SGD, .* gossip\.GossipOptimizer"):
        accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_schedule_free_optimizer_is_evaluated_at_its_average(tmp_path: Path) -> None:
    schedulefree = pytest.importorskip("schedulefree", reason="schedulefree is not installed")
    data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 8
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, eval_strategy="steps", eval_steps=2, use_cpu=True, report_to="none"
    )
    model = Line()
    plain = schedulefree.SGDScheduleFree(model.parameters(), lr=0.1)
    seen = []

    class Noting(transformers.TrainerCallback):
        def on_prediction_step(self, *_: Any, **__: Any) -> None:
            seen.append((plain.param_groups[0]["train_mode"], model.layer.weight.detach().clone()))

    trainer = huggingface.GossipTrainer(
        model, arguments, train_dataset=data, eval_dataset=data, optimizers=(plain, None), callbacks=[Noting()]
    )
    trainer.train()
    assert len(seen) == 2
    assert not any(in_training for in_training, _ in seen)
    assert not torch.equal(seen[0][1], seen[1][1])
