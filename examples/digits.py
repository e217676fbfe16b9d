"""OSGP with slow momentum on scikit-learn's digits: the training loop, and what it sends.

    mpirun -n 4 python examples/digits.py

Needs scikit-learn. One rank, `python examples/digits.py`, trains without communication.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

import gossip
import slowmo
import topologies

STEPS, BATCH = 400, 32

world = gossip.init()

# The data: every rank trains on images of its own, and all test on the same 360.
digits = load_digits()
images, labels = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
split = train_test_split(images, labels, test_size=0.2, random_state=0)
train_images, test_images, train_labels, test_labels = (part.to(world.device) for part in split)
train_images, train_labels = train_images[world.rank :: world.size], train_labels[world.rank :: world.size]

# The model. All ranks begin with rank 0's parameters: the optimizer sends them when it is made.
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(world.device)
sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, STEPS)

graph = topologies.exponential(world.size)
optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, graph, overlap=1), module=model)
optimizer = slowmo.SlowMo(optimizer, gossip.ExactAverage(world), period=48)

generator = torch.Generator().manual_seed(world.rank)
for _ in range(STEPS):
    batch = torch.randint(len(train_labels), (BATCH,), generator=generator).to(world.device)
    optimizer.zero_grad()
    loss = cross_entropy(model(train_images[batch]), train_labels[batch])
    loss.backward()
    optimizer.step()
    schedule.step()
optimizer.settle()  # what is still in flight lands

with torch.no_grad():
    accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
run = optimizer.stats.run
print(
    f"rank {world.rank} of {world.size}: test accuracy {accuracy:.1%}, "
    f"{run.bytes_sent / STEPS / 1000:.1f} kB sent in a step, {run.seconds_exposed / STEPS * 1000:.2f} ms of it waited"
)
