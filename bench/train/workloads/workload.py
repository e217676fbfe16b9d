"""The interface of a workload: data and a model by seed, a loss and a score; and the ranks' shards of the data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Data(NamedTuple):
    """Examples to train on and examples held out, by the first dimension; the classes of those to train on, if any."""

    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor
    held_targets: Tensor
    labels: Tensor | None = None


class Workload(ABC):
    """One task. Equal seeds give equal data and equal models, in any process.

    optimizer: "sgd" with Nesterov momentum or "adamw". steps, batch: of a run unless it says otherwise; the batch is
    one rank's. metric: of `score`. rises: whether more of it is better. worst: the score of a model that says nothing,
    which a run that diverged gets. seconds: of one core for one worker's step, roughly, to predict a study's time.
    """

    title: str
    optimizer: str
    steps: int
    batch: int
    metric: str
    rises: bool
    worst: float
    seconds: float

    @abstractmethod
    def data(self, seed: int) -> Data:
        """All examples."""

    def model(self, seed: int) -> nn.Module:
        """A new model, in float32."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build()

    @abstractmethod
    def build(self) -> nn.Module:
        """A model of random parameters."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Of a batch, a mean over it."""

    @abstractmethod
    def score(self, model: nn.Module, data: Data) -> float:
        """The metric of a model on the held-out examples."""


LEAST = 16  # the fewest examples of a rank, enough for a batch


def alike(count: int, size: int, seed: int) -> list[Tensor]:
    """`size` disjoint shards of `count` examples, all of them, equally long but for one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [order[rank::size] for rank in range(size)]


def skewed(labels: Tensor, size: int, concentration: float, seed: int) -> list[Tensor]:
    """Disjoint shards of all examples; of each class, rank i gets the share p_i with p ~ Dirichlet(α, …, α).

    With a small concentration α a rank sees few classes, and ranks hold unequally many examples. A draw that leaves a
    rank with fewer than 16 is drawn again.
    Source: Hsu, Qi, Brown, Measuring the effects of non-identical data distribution, 2019, arXiv 1909.06335.
    """
    rng = np.random.default_rng(seed)
    while True:
        parts = []
        for label in labels.unique():
            own = torch.nonzero(labels == label).flatten()
            own = own[torch.from_numpy(rng.permutation(len(own)))]
            ends = np.round(np.cumsum(rng.dirichlet([concentration] * size)) * len(own)).astype(int)
            parts.append(own.tensor_split(ends[:-1].tolist()))
        shards = [torch.cat(own) for own in zip(*parts, strict=True)]
        if min(map(len, shards)) >= LEAST:
            return shards


def batches(shard: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Epoch after epoch in a new order each, without end; the rest that fills no batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(shard))
    while True:
        order = shard[torch.randperm(len(shard), generator=generator)]
        yield from order[: len(order) - len(order) % size].split(size)
