"""A word, once, about a run that does not do what its script says, where nothing else would tell."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ..averagers.base import Averager
from ..errors import PeerLost, levels_to_the_user
from ..observe.slot import STEP
from ..observe.stats import Stats
from ..transports import Flight
from ..world import World
from .parameters import Parameters
from .state_dicts import is_probe

DIGESTS = 1 << 20
"""How many digests there are: sums of their squares over thousands of ranks are exact in float64."""

WITHIN = "the model is inside DistributedDataParallel, which averages them already: train the module inside it"
SAME_DATA = (
    "do all ranks read the same data? DistributedSampler(data, num_replicas=world.size, rank=world.rank) gives each "
    "its own. Or the model is inside DistributedDataParallel, which averages gradients already: train the module "
    "inside it"
)


class EqualGradients(Averager):
    """Warns if all ranks of `world` have the same gradients in their first step. No step waits for that.

    Args:
        parameters: whose gradients are compared.
        world: the ranks.
    """

    def __init__(self, parameters: Parameters, world: World) -> None:
        self._parameters, self._channel = parameters, (channel := world.channel())
        self._sums = torch.empty(0)
        self._flight: Flight | None = None
        self._is_new = channel.size > 1

    def describe(self) -> str:
        return "EqualGradients()"

    def begin(self, step: int) -> None:
        if self._is_new:
            self._is_new = False  # also when steps are counted anew: each rank has to post this once
            number = _digest(self._parameters)
            device = self._parameters.mass.weight.device
            self._sums = torch.tensor([number, number**2], dtype=torch.float64, device=device)
            self._flight = self._channel.sum([self._sums])
        elif self._flight is not None:
            self._look(wait=False)

    def settle(self) -> None:
        if self._flight is not None:
            self._look(wait=True)

    def _look(self, wait: bool) -> None:
        """Warn, once the sums are there, if the gradients were the same everywhere."""
        assert self._flight is not None
        try:
            if not (wait or self._flight.done()):
                return
            self._flight.wait()
        except PeerLost:  # whoever needs that peer has a sentence for it
            self._flight = None
            return
        self._flight, n = None, self._channel.size
        total, squares = self._sums.tolist()
        # n Σ d² = (Σ d)² exactly if all d are equal
        if total == 0 or n * squares != total**2 or self._channel.rank != 0:
            return
        modules = [] if self._parameters.module is None else self._parameters.module.modules()
        within = any(isinstance(module, DistributedDataParallel) for module in modules)
        warnings.warn(
            f"all {n} ranks had the same gradients in their first step, so that averaging changes nothing: "
            + (WITHIN if within else SAME_DATA),
            stacklevel=levels_to_the_user(),
        )


def _digest(parameters: Parameters) -> int:
    """Of two sums of each dense gradient, for which the host waits once; 0 where all are zero or none is there."""
    sums = []
    for number, parameter in enumerate(parameters):
        gradient = parameter.grad
        if gradient is not None and gradient.layout is torch.strided:
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            pair = [gradient.sum(dtype=dtype), gradient.abs().sum(dtype=dtype)]
            sums.append(torch.stack([*pair, torch.full_like(pair[0], number)]).double())
    if not sums or not torch.stack(sums)[:, 1].any():
        return 0
    digest = hashlib.blake2b(torch.stack(sums).cpu().numpy().tobytes(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (DIGESTS - 1)


class DirectSteps:
    """Warns, once, if the wrapped optimizer makes a step that is not part of a step of its wrapper."""

    def __init__(self, optimizer: torch.optim.Optimizer, stats: Stats) -> None:
        self._stats, self._has_warned = stats, False
        if hasattr(optimizer, "_optimizer_step_post_hooks"):  # it has called Optimizer.__init__
            alive = weakref.WeakMethod(self._stepped)  # a wrapped optimizer may outlive its wrapper
            hook = optimizer.register_step_post_hook(lambda stepped, *_: (alive() or _ignored)(stepped))
            weakref.finalize(self, hook.remove).atexit = False

    def _stepped(self, optimizer: Any) -> None:
        if self._has_warned or self._stats.board.call == STEP or is_probe(optimizer):
            return
        self._has_warned = True
        warnings.warn(
            f"{type(optimizer).__name__}.step() was called, and not step() of the GossipOptimizer around it: this rank "
            "has trained alone, and nothing was averaged. Call step() of the outermost wrapper, also by a GradScaler",
            stacklevel=levels_to_the_user(),
        )


def _ignored(optimizer: Any) -> None:
    pass
