"""A small vision transformer on scikit-learn's digits, trained by Hugging Face's Trainer with gossip.

    mpirun -n 4 python examples/huggingface_digits.py out/huggingface

Also under torchrun and `accelerate launch`. Needs scikit-learn and the extra `huggingface`. A second run of the same
command, on any number of ranks, goes on from the last checkpoint.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

from gossip.integrations.huggingface import GossipTrainer, init

world = init()  # before TrainingArguments

digits = load_digits()
images, labels = torch.tensor(digits.images / 16).float().unsqueeze(1), torch.tensor(digits.target)
samples = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]

config = ViTConfig(
    image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=64, num_labels=10,
)  # fmt: skip
arguments = TrainingArguments(
    sys.argv[1],
    num_train_epochs=12,
    learning_rate=3e-3,
    per_device_train_batch_size=16,
    lr_scheduler_type="cosine",
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    report_to="none",
    disable_tqdm=True,
)
trainer = GossipTrainer(
    ViTForImageClassification(config),
    arguments,
    train_dataset=samples[:1437],
    eval_dataset=samples[1437:],
    compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
    world=world,
)
trainer.train(resume_from_checkpoint=any(Path(sys.argv[1]).glob("checkpoint-*")))
trainer.save_model()  # the best mean of all ranks
accuracy = trainer.evaluate()["eval_accuracy"]
print(f"process {arguments.process_index} of {arguments.world_size}: test accuracy of the mean {accuracy:.1%}")
