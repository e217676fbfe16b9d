"""The text of Python's own help, byte by byte: a language model, and the bits that it needs for a byte it has not seen.

A tenth of the topics of `pydoc_data`, drawn by seed, is held out.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .transformer import Decoder
from .workload import Data, Workload, seeded

LENGTH = 32
BYTES = 128
"""The text is ASCII but for a few signs, which stand as one byte."""
HELD = 256
"""Windows that are looked at."""


class Topics(Workload):
    """Python's help topics."""

    title = "topics"
    optimizer = "adamw"
    steps, batch = 192, 8
    metric = "held-out bits per byte"
    rises = False
    worst = 7.0
    seconds = 4e-3

    def data(self, seed: int) -> Data:
        """Windows of `LENGTH` + 1 bytes, one after another; the targets are the inputs one byte later."""
        from pydoc_data.topics import topics

        texts = [text for _, text in sorted(topics.items())]
        order = torch.randperm(len(texts), generator=seeded(seed)).tolist()
        few = len(texts) // 10
        held, rest = (_windows("\n".join(texts[place] for place in part)) for part in (order[:few], order[few:]))
        shown = held[torch.randperm(len(held), generator=seeded(seed))[:HELD]]
        return Data(rest[:, :-1], rest[:, 1:], shown[:, :-1], shown[:, 1:])

    def model(self, seed: int) -> nn.Module:
        """One block of width 32."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Decoder(BYTES, LENGTH, width=32, heads=4, layers=1)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())

    def score(self, model: nn.Module, data: Data) -> float:
        """Bits per byte, each seen with up to 31 bytes before it."""
        with torch.no_grad():
            return float(self.loss(model, data.held_inputs, data.held_targets)) / math.log(2)


def _windows(text: str) -> Tensor:
    codes = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long()
    return codes[: len(codes) - len(codes) % (LENGTH + 1)].view(-1, LENGTH + 1)
