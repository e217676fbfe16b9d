"""Train one network with one algorithm, and see what it cost and gave."""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import topologies
from gossip import World

from ..shared import record
from ..shared.algorithms import Algorithm
from ..shared.digits import Data, batches
from ..shared.screen import Course
from ..shared.statistics import summary
from ..update.measuring import synchronise

LOOKS = 23
"""Steps between two looks at how far the ranks are apart; a prime, so that all phases of a period count."""


def network(seed: int) -> nn.Module:
    """Two convolutions and two linear layers, 31,498 parameters, no BatchNorm: the same for a seed on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 10),
        )  # fmt: skip


def train(algorithm: Algorithm, world: World, data: Data, given: argparse.Namespace, course: Course) -> dict[str, Any]:
    """Figures of the whole run, the same on every rank.

    accuracy: of the mean of the ranks' models; accuracy_of_ranks: the mean of the accuracies of each.
    consensus: sqrt(mean_i ‖z_i − z̄‖²) / ‖z̄‖, the mean of looks every 23 steps; consensus_end: after the last step.
    seconds: of a step, forward and backward pass included; waits: of them, blocked in the step. Both are the slowest
        rank's median over windows.
    bytes_sent, messages_sent: of a rank and step. loss: of the training batch at each step, averaged over the ranks.
    """
    model = network(given.seed).to(world.device)
    sgd = torch.optim.SGD(model.parameters(), lr=given.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    graph = topologies.load(given.topology, world.size)
    optimizer = algorithm.build(sgd, world, graph, given.period)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, given.steps)
    order = batches(data, given.batch, seed=1000 * given.seed + world.rank)
    look = Consensus(world, model)
    losses, seconds, waits, distances = [], [], [], []
    for step in range(given.steps):
        images, labels = next(order)
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        synchronise(world)
        seconds.append(time.perf_counter() - began)
        waits.append(optimizer.stats.last.seconds_exposed)
        losses.append(loss.item())
        scheduler.step()
        if (step + 1) % LOOKS == 0:
            distances.append(look.distance())
            course.advance(LOOKS)
    course.advance(given.steps % LOOKS)
    optimizer.settle()
    window = given.period if algorithm.periodic else 1
    run = optimizer.stats.run
    own = {
        "seconds": summary(seconds, window).median,
        "waits": summary(waits, window).median,
        "accuracy": accuracy(model, data),
        "loss": losses,
    }
    ranks = record.gather(world, own)
    end = look.distance(average=True)
    return {
        "accuracy": accuracy(model, data),
        "accuracy_of_ranks": math.fsum(rank["accuracy"] for rank in ranks) / world.size,
        "consensus": math.fsum(distances) / len(distances) if distances else end,
        "consensus_end": end,
        "seconds": record.highest(ranks, "seconds"),
        "waits": record.highest(ranks, "waits"),
        "bytes_sent": run.bytes_sent / given.steps,
        "messages_sent": run.messages_sent / given.steps,
        "loss": [
            round(math.fsum(parts) / world.size, 6) for parts in zip(*(rank["loss"] for rank in ranks), strict=True)
        ],
    }


class Consensus:
    """How far the ranks' models are apart; with `average`, the model becomes their mean. Weights are 1 here."""

    def __init__(self, world: World, model: nn.Module) -> None:
        self._channel = world.channel()
        self._world = world
        self._parameters = list(model.parameters())

    @torch.no_grad()
    def distance(self, average: bool = False) -> float:
        """sqrt(mean_i ‖z_i − z̄‖²) / ‖z̄‖; every rank calls it."""
        z = torch.cat([parameter.reshape(-1) for parameter in self._parameters])
        mean = z.clone()
        self._channel.sum([mean]).wait()
        mean /= self._world.size
        squares = record.gather(self._world, float((z - mean).norm()) ** 2)
        if average:
            torch.nn.utils.vector_to_parameters(mean, self._parameters)
        return math.sqrt(math.fsum(squares) / self._world.size) / float(mean.norm())


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The share of the test images that are recognised."""
    return float((model(data.test_images).argmax(1) == data.test_labels).float().mean())
