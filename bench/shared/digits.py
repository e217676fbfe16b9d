"""scikit-learn's digits: a test set that no rank trains on, and each rank's shard of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from gossip import World

IMAGES, TEST = 1797, 359
TRAINING = IMAGES - TEST


class Data(NamedTuple):
    """Images of shape (count, 1, 8, 8) from 0 to 1, and their labels: this rank's shard, and the test set of all."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load(seed: int, world: World) -> Data:
    """Deal the images out by `seed`: all ranks hold equally many, and one test set."""
    from sklearn.datasets import load_digits  # here, for it takes a second

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div_(16).unsqueeze_(1)
    labels = torch.tensor(digits.target)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))
    test, rest = order[:TEST], order[TEST:]
    own = rest[: TRAINING - TRAINING % world.size][world.rank :: world.size]
    return Data(*(part.to(world.device) for part in (images[own], labels[own], images[test], labels[test])))


def batches(data: Data, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Epoch after epoch in a new order each, without end; the rest that fills no batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data.labels), generator=generator).to(data.labels.device)
        for chosen in order[: len(order) - len(order) % size].split(size):
            yield data.images[chosen], data.labels[chosen]
