"""Evaluate the mean of all ranks' models after each epoch, and save it in the end.

    mpirun -n 4 python examples/evaluate_mean.py model.pt

Needs scikit-learn. Ranks that gossip hold models a little apart from one another. The one to publish is their mean.
"""

import sys

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

import gossip
import topologies

world = gossip.init()
digits = load_digits()
images, labels = torch.tensor(digits.images / 16).float().flatten(1), torch.tensor(digits.target)
split = train_test_split(images, labels, test_size=0.2, random_state=0)
train_images, test_images, train_labels, test_labels = (part.to(world.device) for part in split)
data = torch.utils.data.TensorDataset(train_images, train_labels)
sampler = torch.utils.data.DistributedSampler(data, num_replicas=world.size, rank=world.rank)  # equal shards
loader = torch.utils.data.DataLoader(data, batch_size=32, sampler=sampler)

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(world.device)
sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
graph = topologies.exponential(world.size)
optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, graph, overlap=1), module=model)

for epoch in range(10):
    sampler.set_epoch(epoch)
    for inputs, targets in loader:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with optimizer.mean(model), torch.no_grad():  # on every rank, after the same step
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    if world.rank == 0:
        print(f"epoch {epoch}: test accuracy of the mean {accuracy:.1%}")

published = optimizer.mean_state_dict(model)
if world.rank == 0 and len(sys.argv) > 1:
    torch.save(published, sys.argv[1])
