"""Metrics of torchmetrics over a World. By themselves they know the ranks of torch.distributed alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ...world import World


def gathered(world: World, tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor of each rank, by rank, on this rank's device."""
    return [each.to(tensor.device) for each in world.all_gather(tensor.detach().cpu().clone())]


class JoinedMetrics:
    """Those of `parts` that are metrics, and have no function of their own to gather by, gather over `world`."""

    def __init__(self, world: World, parts: Iterable[Any]) -> None:
        # A module that is no metric returns itself here.
        metrics = [part for part in parts if getattr(part, "dist_sync_fn", part) is None]
        self._before = [(metric, metric.distributed_available_fn) for metric in metrics]

        def gather(tensor: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
            return gathered(world, tensor)

        for metric in metrics:
            # Functions and no methods: a deepcopy of the module leaves functions alone.
            metric.dist_sync_fn, metric.distributed_available_fn = gather, lambda: True

    def leave(self) -> None:
        """Let the metrics gather as before."""
        for metric, is_joined in self._before:
            metric.dist_sync_fn, metric.distributed_available_fn = None, is_joined
