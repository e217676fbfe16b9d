"""Arguments that cannot work with a strategy that gossips, each with a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ...checks import shown
from ...errors import UsageError
from ...training.wrapper import Wrapper
from ...world import World


def check_compose(compose: Any) -> None:
    """Check that `compose` is a function."""
    if not callable(compose):
        raise UsageError(
            f"GossipStrategy takes a function compose(optimizer, world, module), and this is {shown(compose)}: the "
            "strategy stands in the place of DDP and others, around none of them"
        )


def check_place(world: World, rank: int, size: int, device: torch.device) -> None:
    """Check that Lightning, which takes this process for `rank` of `size` on `device`, and `world` agree."""
    if (world.rank, world.size) != (rank, size):
        raise UsageError(
            f"Lightning takes this process for rank {rank} of {size}, and gossip.init() for rank {world.rank} of "
            f"{world.size}: leave plugins=[...] and num_nodes to the launcher that started the processes"
        )
    if size > 1 and world.device != device and (device.type != "cpu" or world.transport == "nccl"):
        raise UsageError(
            f"rank {rank}: Lightning trains on {device}, and transport {world.transport!r} works on {world.device}: "
            "choose GPUs by CUDA_VISIBLE_DEVICES and not by a list of devices, or name another transport, as in "
            "GossipStrategy(compose, transport='mpi')"
        )


def check_parts(parts: Iterable[torch.nn.Module], layer_sync: Any) -> None:
    """Check that no part of the LightningModule, and no option of the Trainer, averages over ranks in each batch."""
    if layer_sync is not None:
        raise UsageError(
            "sync_batchnorm=True makes each forward pass wait for all ranks: leave it out, and let compose give "
            "GossipOptimizer module_buffers='average' to average the statistics"
        )
    if any(isinstance(part, DistributedDataParallel) for part in parts):
        raise UsageError(
            "the LightningModule holds a DistributedDataParallel, which averages gradients over ranks that gossip: "
            "leave it out. To average gradients inside a host, compose with gradients=world.node"
        )


def check_plain(optimizer: torch.optim.Optimizer) -> None:
    """Check that `configure_optimizers` has left the wrapping to the strategy."""
    if isinstance(optimizer, Wrapper):
        raise UsageError(
            f"configure_optimizers returned a {type(optimizer).__name__}, and GossipStrategy wraps by itself: return "
            "the plain torch optimizer, and do the wrapping in GossipStrategy(compose)"
        )
