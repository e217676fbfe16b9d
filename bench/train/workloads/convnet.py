"""A small convolutional network with BatchNorm, and what classifying images with it takes."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from .workload import Data, Workload

CALIBRATION = 512
"""Training images out of which the running statistics of the mean model are estimated."""


class Images(Workload):
    """Images of shape (1, side, side) in ten classes; accuracy on the held-out ones."""

    optimizer = "sgd"
    metric = "test accuracy, %"
    rises = True
    worst = 10.0
    side: int
    channels: int

    def model(self, seed: int) -> nn.Module:
        """Two convolutions, each with BatchNorm and pooling, and a linear layer."""
        a, b = self.channels, 2 * self.channels
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, a, 3, padding=1, bias=False), nn.BatchNorm2d(a), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(b * (self.side // 4) ** 2, 10),
            )  # fmt: skip

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model(inputs.to(_dtype(model))).float(), targets)

    def score(self, model: nn.Module, data: Data) -> float:
        """In percent; BatchNorm's statistics are estimated anew first, since those of the ranks belong to their models.

        That is one pass over training images, and changes the model's buffers.
        """
        dtype = _dtype(model)
        update_bn(data.inputs[:CALIBRATION].to(dtype).split(128), model)
        model.eval()
        with torch.no_grad():
            right = model(data.held_inputs.to(dtype)).argmax(1) == data.held_targets
        model.train()
        return 100 * float(right.float().mean())


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
