"""scikit-learn's digits: 1,797 images of 8×8 pixels, of which a fifth, drawn by seed, is held out."""

from __future__ import annotations

import torch

from .convnet import Images
from .workload import Data, seeded

HELD = 359


class Digits(Images):
    """Handwritten digits."""

    title = "digits"
    steps, batch = 96, 16
    side, channels = 8, 8
    seconds = 2.4e-3

    def data(self, seed: int) -> Data:
        """Pixels from 0 to 1."""
        from sklearn.datasets import load_digits  # here, for it takes a second

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).div_(16).unsqueeze_(1)
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=seeded(seed))
        held, rest = order[:HELD], order[HELD:]
        return Data(images[rest], labels[rest], images[held], labels[held], labels[rest])
