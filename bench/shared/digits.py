"""Training on scikit-learn's digits: the images, their shards, a small network, and the loop's parts."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gossip import World

from . import record
from .methods import Trained

IMAGES, TEST = 1797, 359
TRAINING = IMAGES - TEST
Build = Callable[[torch.optim.Optimizer, World], Trained]


class Data(NamedTuple):
    """Images of shape (count, 1, 8, 8) from 0 to 1, and their labels: those to train on, and the test set."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(seed: int) -> Data:
    """All images, divided by `seed`."""
    from sklearn.datasets import load_digits  # here, for it takes a second

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div_(16).unsqueeze_(1)
    labels = torch.tensor(digits.target)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))
    test, rest = order[:TEST], order[TEST:]
    return Data(images[rest], labels[rest], images[test], labels[test])


def shard(data: Data, world: World) -> Data:
    """This rank's part, on its device: all ranks hold equally many images, and the whole test set."""
    own = slice(world.rank, TRAINING - TRAINING % world.size, world.size)
    return Data(*(part.to(world.device) for part in (data.images[own], data.labels[own], *data[2:])))


def batches(data: Data, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch in a new order each, without end; the rest that fills no batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
        for chosen in order[: len(order) - len(order) % size].split(size):
            yield data.images[chosen], data.labels[chosen]


def network(seed: int) -> nn.Module:
    """Two convolutions and two linear layers, 31,498 parameters, no BatchNorm: the same for a seed on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 10),
        )  # fmt: skip


class Training:
    """One rank's training: SGD with Nesterov momentum and a cosine schedule inside the method that `build` makes."""

    def __init__(self, build: Build, world: World, steps: int, *, batch: int, lr: float, seed: int) -> None:
        self.model = network(seed).to(world.device)
        sgd = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
        self.optimizer = build(sgd, world)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
        self._batch, self._seed = batch, seed
        self.deal(world, world.rank)

    def deal(self, world: World, order: int) -> None:
        """Take this rank's shard among the ranks of `world`; `order` is added to the seed of the batches."""
        self.data = shard(load(self._seed), world)
        self._batches = batches(self.data, self._batch, seed=1000 * self._seed + order)

    def passes(self) -> Tensor:
        """Forward and backward pass on the next batch; the loss."""
        images, labels = next(self._batches)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(images), labels)
        loss.backward()
        return loss

    def update(self) -> None:
        """The optimizer's step, and the schedule's."""
        self.optimizer.step()
        self._schedule.step()

    @torch.no_grad()
    def accuracy(self) -> float:
        """The share of the test images that are recognised."""
        return float((self.model(self.data.test_images).argmax(1) == self.data.test_labels).float().mean())

    @torch.no_grad()
    def average(self, world: World) -> None:
        """The model becomes Σ w z / n over the ranks of `world`. It leaves its buckets by that."""
        mean = parameters_to_vector(self.model.parameters()) * self.optimizer.weight
        world.channel().sum([mean]).wait()
        vector_to_parameters(mean / world.size, self.model.parameters())


class Consensus:
    """How far the ranks' values of the same parameters are apart, at some `most` of the elements, evenly spaced."""

    def __init__(self, world: World, module: nn.Module, most: int | None = None) -> None:
        self._world, self._channel = world, world.channel()
        self._parameters = list(module.parameters())
        self._every = max(1, sum(each.numel() for each in self._parameters) // most) if most else 1

    @torch.no_grad()
    def distance(self) -> float:
        """sqrt(mean_i ‖z_i − z̄‖²) / ‖z̄‖ ; every rank calls it. Weights are 1."""
        z = torch.cat([parameter.reshape(-1)[:: self._every].double() for parameter in self._parameters])
        self._channel.sum([mean := z.clone()]).wait()
        mean /= self._world.size
        squares = record.gather(self._world, float((z - mean).norm()) ** 2)
        return math.sqrt(math.fsum(squares) / self._world.size) / float(mean.norm())
