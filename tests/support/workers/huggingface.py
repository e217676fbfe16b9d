"""Trainer and Accelerate with gossip on this rank: `python -m workers.huggingface FOLDER LAUNCH [CHECKPOINTS]`.

Writes in FOLDER, which all ranks have: LAUNCH/trainer and LAUNCH/accelerate with their checkpoints, and RANK.npz with
the rank's record. CHECKPOINTS is such a folder of another launch, from which both go on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments

import gossip
import slowmo
import topologies
from gossip.integrations.huggingface import GossipAccelerator, GossipTrainer, init

SAMPLES, SAVE_EVERY, STEPS = 64, 4, 8


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).clone()


def difference(model: torch.nn.Module, file: Path) -> float:
    """The largest difference between the parameters of `model` and those of a file."""
    state = load_file(file)
    pairs = ((each.detach(), state[name]) for name, each in model.named_parameters() if name in state)
    return max((one - other).abs().max().item() for one, other in pairs)


def truth(world: gossip.World, optimizer: Any, model: torch.nn.Module) -> torch.Tensor:
    """Σ w z / Σ w of all ranks, in float64. Lands all messages, which changes neither sum."""
    optimizer.settle()
    rows = world.all_gather((optimizer.weight, flat(model).double().tolist()))
    numerator = sum(weight * torch.tensor(values, dtype=torch.float64) for weight, values in rows)
    return numerator / sum(weight for weight, _ in rows)


def slow(optimizer: torch.optim.Optimizer, world: gossip.World, model: torch.nn.Module) -> slowmo.SlowMo:
    """OSGP over uneven weights, and slow momentum."""
    # Rank 0 sends more of its weight than it keeps, so that weights differ from 1.
    shares = np.full((world.size, world.size), 1 / world.size)
    shares[:, 0] = [0.2] + [0.8 / (world.size - 1)] * (world.size - 1)
    averager = gossip.PushSum(world, topologies.from_matrix(shares), overlap=1)
    optimizer = gossip.GossipOptimizer(optimizer, averager, module=model)
    return slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=5)


class Samples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences whose label is whether they begin with a high number, and the indices that were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.read.append(index)
        return {"input_ids": torch.tensor([index, 7, 3]), "labels": torch.tensor(int(index >= SAMPLES // 2))}


class Watch(TrainerCallback):  # type: ignore[misc]
    """Looks at the parameters of this rank at each turn of the training."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.trainer: Any = None
        self.evaluated: list[torch.Tensor] = []
        self.before = torch.empty(0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.record["at the beginning"] = flat(self.trainer.model)
        self.record["steps at the beginning"] = self.trainer.gossip_optimizer.optimizer.steps
        moments = self.trainer.optimizer.state.values()
        self.record["moments"] = torch.cat([each["exp_avg"].reshape(-1) for each in moments] or [torch.empty(0)])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.before = flat(self.trainer.model)

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        self.evaluated = [flat(self.trainer.model)]

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        if self.trainer.is_in_train:
            kept = torch.equal(flat(self.trainer.model), self.before)
            self.record["own values after evaluation"] = kept and self.record.get("own values after evaluation", True)
            self.record["while evaluating"] = self.evaluated[0]
            self.record["apart"] = self.before

    def on_save(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        mean = truth(self.trainer.world, self.trainer.gossip_optimizer, self.trainer.model)
        evaluated = (mean - self.record["while evaluating"].double()).abs().max().item()
        weight = self.trainer.gossip_optimizer.weight
        model = BertForSequenceClassification.from_pretrained(f"{arguments.output_dir}/checkpoint-{state.global_step}")
        saved = (mean - flat(model).double()).abs().max().item()
        for name, error in (("saved", saved), ("evaluated", evaluated), ("weight", abs(weight - 1))):
            self.record[name] = max(error, self.record.get(name, 0.0))


def train(world: gossip.World, folder: Path, checkpoints: Path | None) -> dict[str, Any]:
    """Trainer for some steps, and what this rank saw."""
    torch.manual_seed(world.rank)  # other parameters on each rank: the optimizer takes rank 0's
    config = BertConfig(
        vocab_size=SAMPLES, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=8, num_labels=2,
    )  # fmt: skip
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS if checkpoints is None else STEPS + SAVE_EVERY,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=5,
        gradient_accumulation_steps=2,
        learning_rate=0.01,
        lr_scheduler_type="cosine",
        max_grad_norm=0.5,
        bf16=True,
        use_cpu=world.device.type == "cpu",  # of which bf16 wants to know
        eval_strategy="steps",
        eval_steps=SAVE_EVERY,
        save_strategy="steps",
        save_steps=SAVE_EVERY,
        logging_steps=2,
        load_best_model_at_end=checkpoints is None,
        metric_for_best_model="earliness",
        greater_is_better=True,
        report_to="none",
        disable_tqdm=True,
    )
    calls: list[int] = []

    def metrics(found: Any) -> dict[str, float]:
        calls.append(1)  # the first evaluation is the best
        accuracy = float((found.predictions.argmax(1) == found.label_ids).mean())
        return {"accuracy": accuracy, "earliness": -float(len(calls)), "count": float(len(found.label_ids))}

    record: dict[str, Any] = {}
    samples, watch = Samples(), Watch(record)
    trainer = watch.trainer = GossipTrainer(
        BertForSequenceClassification(config),
        arguments,
        train_dataset=samples,
        eval_dataset=Samples(),
        compute_metrics=metrics,
        callbacks=[watch],
        world=world,
        compose=slow,
    )
    trainer.train(None if checkpoints is None else str(checkpoints / "trainer" / f"checkpoint-{STEPS}"))
    optimizer = trainer.gossip_optimizer
    final = trainer.evaluate()
    trainer.save_model(str(folder / "final"))
    world.barrier()
    best = trainer.state.best_model_checkpoint or ""
    return {
        **record,
        "read": samples.read[: SAMPLES // world.size],
        "steps": optimizer.optimizer.steps,
        "updates": max(int(each["step"]) for each in trainer.optimizer.state.values()),
        "rate": trainer.lr_scheduler.get_last_lr()[0],
        "wrapped": trainer.model_wrapped is not trainer.model,
        "metrics": [final[f"eval_{name}"] for name in ("loss", "accuracy", "count")],
        "logged": [line["loss"] for line in trainer.state.log_history if "loss" in line],
        "final": flat(trainer.model),
        "final file": difference(trainer.model, folder / "final" / "model.safetensors"),
        "best": int(best.rpartition("-")[2] or 0),
        "best file": difference(trainer.model, Path(best, "model.safetensors")) if checkpoints is None else 0.0,
        "at home": all(
            slot.parameter.data_ptr() == slot.address
            for each in optimizer.optimizer.mass.buckets
            for slot in each.slots
        ),
    }


def accelerated(world: gossip.World, folder: Path, checkpoints: Path | None) -> dict[str, Any]:
    """The same with a loop of Accelerate."""
    torch.manual_seed(world.rank)
    accelerator = GossipAccelerator(world=world, compose=slow, gradient_accumulation_steps=2)
    model: Any = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    inputs = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0))
    dataset = torch.utils.data.TensorDataset(inputs, inputs.sum(1, keepdim=True), torch.arange(SAMPLES))
    loader: Any = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    [own] = accelerator.gossip_optimizers(model)
    if checkpoints is not None:
        accelerator.load_state(checkpoints / "accelerate")
    loaded, begun = flat(model), own.optimizer.steps
    read: list[int] = []
    for batch, targets, indices in loader:
        with accelerator.accumulate(model):
            read += accelerator.gather(indices).tolist()
            accelerator.backward((model(batch) - targets).square().mean())
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    before = flat(model)
    with accelerator.mean(model):
        mean = flat(model)
    kept = torch.equal(before, flat(model))
    accelerator.save_state(folder)
    accelerator.save_model(model, folder / "model")
    accelerator.wait_for_everyone()
    honest = truth(world, own, model)
    state = load_file(folder / "model" / "model.safetensors")
    saved = torch.cat([state[name].reshape(-1) for name, _ in model.named_parameters()]).double()
    return {
        "accelerate loaded": loaded,
        "accelerate begun": begun,
        "accelerate steps": own.optimizer.steps,
        "accelerate read": sorted(read),
        "accelerate apart": before,
        "accelerate kept": kept,
        "accelerate mean": (honest - mean.double()).abs().max().item(),
        "accelerate saved": (honest - saved).abs().max().item(),
        "accelerate wrapped": isinstance(model, torch.nn.parallel.DistributedDataParallel),
    }


def main(folder: str, launch: str, checkpoints: str = "") -> None:
    world = init(timeout=120)
    here, there = Path(folder, launch), Path(checkpoints) if checkpoints else None
    record = train(world, here / "trainer", there)
    AcceleratorState._reset_state(reset_partial_state=True)  # its mixed precision was Trainer's
    record |= accelerated(world, here / "accelerate", there)
    np.savez(Path(folder, f"{world.rank}.npz"), transport=world.transport, **record)
    world.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
