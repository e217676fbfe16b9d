"""Evaluate the mean of all ranks' models after each epoch, and save it in the end.

    mpirun -n 4 python examples/evaluate_mean.py model.pt

Needs scikit-learn. Ranks that gossip hold models a little apart from one another. The one to publish is their mean.
"""

import copy
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

channel, published = world.channel(), copy.deepcopy(model)


def mean_of_all_ranks():
    """Σ w z / Σ w, with the same bits on every rank, which all call it."""
    published.load_state_dict(model.state_dict())  # this rank's buffers
    wz = optimizer.weight * torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    w = torch.tensor([optimizer.weight], dtype=torch.float64, device=wz.device)
    channel.sum([wz, w]).wait()  # in place
    torch.nn.utils.vector_to_parameters(wz / w.item(), published.parameters())
    return published


for epoch in range(10):
    sampler.set_epoch(epoch)
    for inputs, targets in loader:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    mean = mean_of_all_ranks()  # on every rank, after the same step
    if world.rank == 0:
        with torch.no_grad():
            accuracy = (mean(test_images).argmax(1) == test_labels).float().mean().item()
        print(f"epoch {epoch}: test accuracy of the mean {accuracy:.1%}")

optimizer.settle()  # take in the messages that are still in flight
mean = mean_of_all_ranks()
if world.rank == 0 and len(sys.argv) > 1:
    torch.save(mean.state_dict(), sys.argv[1])
