"""scikit-learn's digits: 1,797 images of 8×8 pixels, of which a fifth, drawn by seed, is held out."""

from ...shared import digits
from .convnet import Images
from .workload import Data


class Digits(Images):
    """Handwritten digits."""

    title = "digits"
    steps, batch = 96, 16
    side, channels = 8, 8
    seconds = 2.4e-3

    def data(self, seed: int) -> Data:
        """Pixels from 0 to 1."""
        images, labels, held_images, held_labels = digits.load(seed)
        return Data(images, labels, held_images, held_labels, labels)
