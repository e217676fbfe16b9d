"""Who trains on which examples: shards alike, or with skewed labels."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .workload import seeded

LEAST = 16
"""Examples that each rank has at the least, so that there is a batch for it."""


def alike(count: int, size: int, seed: int) -> list[Tensor]:
    """`size` disjoint shards of `count` examples, all of them, equally long but for one.

    >>> sorted(torch.cat(alike(10, 3, seed=0)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    order = torch.randperm(count, generator=seeded(seed))
    return [order[rank::size] for rank in range(size)]


def skewed(labels: Tensor, size: int, concentration: float, seed: int) -> list[Tensor]:
    """Disjoint shards of all examples; of each class, rank i gets the share p_i with p ~ Dirichlet(α, …, α).

    With a small concentration α a rank sees few classes, and ranks hold unequally many examples. A draw that leaves a
    rank with fewer than 16 is drawn again.

    Source: Hsu, Qi, Brown, Measuring the effects of non-identical data distribution, 2019, arXiv 1909.06335.
    """
    rng = np.random.default_rng(seed)
    while True:
        shards: list[list[Tensor]] = [[] for _ in range(size)]
        for label in labels.unique().tolist():
            own = torch.nonzero(labels == label).flatten()
            own = own[torch.from_numpy(rng.permutation(len(own)))]
            ends = np.round(np.cumsum(rng.dirichlet([concentration] * size)) * len(own)).astype(int)
            for shard, part in zip(shards, np.split(np.arange(len(own)), ends[:-1]), strict=True):
                shard.append(own[torch.from_numpy(part)])
        found = [torch.cat(shard) for shard in shards]
        if min(map(len, found)) >= LEAST:
            return found


def batches(shard: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Epoch after epoch in a new order each, without end; the rest that fills no batch is left out."""
    generator = seeded(seed)
    size = min(size, len(shard))
    while True:
        order = shard[torch.randperm(len(shard), generator=generator)]
        yield from order[: len(order) - len(order) % size].split(size)
