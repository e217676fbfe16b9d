"""Images in ten classes, and a small convolutional network with BatchNorm for them: digits and textures."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from ...shared import digits
from .workload import Data, Workload


class Images(Workload):
    """Images of shape (1, side, side) in ten classes; accuracy on the held-out ones."""

    optimizer = "sgd"
    metric, rises, worst = "test accuracy, %", True, 10.0
    side: int

    def build(self) -> nn.Module:
        """Two convolutions, each with BatchNorm and pooling, and a linear layer."""
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * (self.side // 4) ** 2, 10),
        )  # fmt: skip

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model(inputs.to(next(model.parameters()).dtype)).float(), targets)

    def score(self, model: nn.Module, data: Data) -> float:
        """In percent; BatchNorm's statistics, which belong to the ranks' models, are estimated anew first."""
        dtype = next(model.parameters()).dtype
        update_bn(data.inputs[:512].to(dtype).split(128), model)
        model.eval()
        with torch.no_grad():
            right = model(data.held_inputs.to(dtype)).argmax(1) == data.held_targets
        model.train()
        return 100 * float(right.float().mean())


class Digits(Images):
    """scikit-learn's digits: 1,797 images of 8×8 pixels, of which a fifth, drawn by seed, is held out."""

    title, side = "digits", 8
    steps, batch, seconds = 96, 16, 2.4e-3

    def data(self, seed: int) -> Data:
        """Pixels from 0 to 1."""
        images, labels, held_images, held_labels = digits.load(seed)
        return Data(images, labels, held_images, held_labels, labels)


def _radius(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt()


# Of coordinates that run over some two periods of 2π, values from -1 to 1.
FIELDS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x.sin(),
    lambda x, y: (x.sin() * y.sin()).mul(4).tanh(),
    lambda x, y: _radius(x, y).sin(),
    lambda x, y: (5 * torch.atan2(y, x)).sin(),
    lambda x, y: (2 * (x.cos() + y.cos()) - 2).tanh(),
    lambda x, y: (x + 1.5 * y.sin()).sin(),
    lambda x, y: (2 * torch.maximum(x.cos(), y.cos()) - 1).tanh(),
    lambda x, y: 2 / 3 * (x.cos() + (x / 2 + y * math.sqrt(3) / 2).cos() + (x / 2 - y * math.sqrt(3) / 2).cos()) - 0.5,
    lambda x, y: (_radius(x, y) + 2 * torch.atan2(y, x)).sin(),
    lambda x, y: (x.sin() + (y * 0.7).sin() + (0.6 * x + 0.9 * y).sin()) / 1.5,
)


class Textures(Images):
    """Stripes, checks, rings, spokes, dots, waves, crosses, triangles, spirals and blobs, under clutter and noise.

    Each image is a field over the plane, seen through a random rotation, shift and scale, with the contrast turned over
    in half of them; a second texture shines through, and noise lies over both.
    """

    title, side = "textures", 16
    steps, batch, seconds = 288, 16, 4e-3

    def data(self, seed: int) -> Data:
        """Each class equally often, in a random order."""
        generator = torch.Generator().manual_seed(seed)
        count = 2 * 2048  # to train on, and held out
        labels = (torch.arange(count) % len(FIELDS))[torch.randperm(count, generator=generator)]
        # The texture that shines through is of another class.
        others = (labels + 1 + torch.randint(len(FIELDS) - 1, (count,), generator=generator)) % len(FIELDS)
        images = draw(labels, self.side, generator) + 0.25 * draw(others, self.side, generator)
        images += 0.3 * torch.randn(images.shape, generator=generator)
        (inputs, held_inputs), (targets, held_targets) = images.unsqueeze(1).split(2048), labels.split(2048)
        return Data(inputs, targets, held_inputs, held_targets, targets)


def draw(labels: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A texture of each label, shape (count, side, side)."""
    count = len(labels)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    angle, scale = uniform(0, 2 * math.pi), uniform(1.4, 2.6) * math.pi
    across, down, sign = uniform(-0.6, 0.6), uniform(-0.6, 0.6), uniform(-1, 1).sign()
    line = torch.linspace(-1, 1, side)
    x, y = line.view(1, 1, side) + across, line.view(1, side, 1) + down
    turned = scale * (angle.cos() * x - angle.sin() * y), scale * (angle.sin() * x + angle.cos() * y)
    images = torch.empty(count, side, side)
    for label, field in enumerate(FIELDS):
        chosen = labels == label
        images[chosen] = field(turned[0][chosen], turned[1][chosen])
    return images * sign
