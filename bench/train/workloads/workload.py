"""What a workload is: data by seed, a model by seed, the loss of a batch, and how good a model is on held-out data."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Data(NamedTuple):
    """Examples to train on and examples held out, the first dimension of each being the example.

    Attributes:
        inputs, targets: of training.
        held_inputs, held_targets: which no rank trains on.
        labels: the class of each example of training, for shards of skewed labels; None where there are no classes.
    """

    inputs: Tensor
    targets: Tensor
    held_inputs: Tensor
    held_targets: Tensor
    labels: Tensor | None = None


class Workload(ABC):
    """One task. Equal seeds give equal data and equal models, in any process.

    Attributes:
        title: what it is called in reports.
        optimizer: the base optimizer, "sgd" with Nesterov momentum or "adamw".
        steps, batch: of a run unless it says otherwise; the batch is one rank's.
        metric: what `score` measures. rises: whether more of it is better.
        worst: the score of a model that says nothing, which a run that diverged gets.
        seconds: of one core for one worker's step, roughly, to predict how long a study takes.
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

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A new model, in float32."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Of a batch, a mean over it."""

    @abstractmethod
    def score(self, model: nn.Module, data: Data) -> float:
        """The metric of a model on the held-out examples."""


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)
