"""A small network on scikit-learn's digits, in a training loop of Accelerate with gossip.

    mpirun -n 4 python examples/accelerate_digits.py out/accelerate

Also under torchrun and `accelerate launch`. Needs scikit-learn and the extra `huggingface`.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from gossip.integrations.huggingface import GossipAccelerator

accelerator = GossipAccelerator(gradient_accumulation_steps=2)

digits = load_digits()
images, labels = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
loader = DataLoader(TensorDataset(images[:1437], labels[:1437]), batch_size=16, shuffle=True)
test_loader = DataLoader(TensorDataset(images[1437:], labels[1437:]), batch_size=60)

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)
model, optimizer, loader, test_loader, schedule = accelerator.prepare(model, optimizer, loader, test_loader, schedule)

for _ in range(15):
    for batch, targets in loader:
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(batch), targets))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

found = []
with accelerator.mean(model), torch.no_grad():
    for batch, targets in test_loader:
        found.append(accelerator.gather_for_metrics(model(batch).argmax(1) == targets))
accuracy = torch.cat(found).float().mean().item()
accelerator.save_model(model, sys.argv[1])  # the mean of all ranks
print(f"process {accelerator.process_index} of {accelerator.num_processes}: test accuracy of the mean {accuracy:.1%}")
