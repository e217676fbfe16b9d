"""The optimizer that gossips around the one that a framework has made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import topologies

from ..averagers.push_sum import PushSum
from ..checks import shown
from ..errors import UsageError
from ..optimizer import GossipOptimizer
from ..training.wrapper import Wrapper
from ..world import World

Compose = Callable[[torch.optim.Optimizer, World, torch.nn.Module], torch.optim.Optimizer]
"""Makes a GossipOptimizer, or an optimizer of slowmo around one."""


def osgp(optimizer: torch.optim.Optimizer, world: World, module: torch.nn.Module) -> GossipOptimizer:
    """Overlapping stochastic gradient push over the one-peer exponential graph, the default of each integration.

    Args:
        optimizer: of the parameters of `module`.
        world: the ranks.
        module: for the names of parameters in errors, and for buffers.
    """
    return GossipOptimizer(optimizer, PushSum(world, topologies.exponential(world.size), overlap=1), module=module)


def composed(compose: Compose, optimizer: torch.optim.Optimizer, world: World, module: torch.nn.Module) -> Any:
    """`compose(optimizer, world, module)`.

    Raises:
        UsageError: it returns an optimizer that does not gossip.
    """
    result = compose(optimizer, world, module)
    if not isinstance(result, Wrapper):
        raise UsageError(
            f"compose returned {shown(result)}, with which ranks would train apart: return a gossip.GossipOptimizer or "
            f"an optimizer of slowmo, made from the {type(optimizer).__name__} that it was called with"
        )
    return result
