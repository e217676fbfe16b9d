"""A word, once, about ranks that all have the same gradients, so that averaging changes nothing."""

from __future__ import annotations

import hashlib
import warnings

import torch
from torch.nn.parallel import DistributedDataParallel

from ..errors import PeerLost, levels_to_the_user
from ..transports import Flight
from ..world import World
from .parameters import Parameters

DIGESTS = 1 << 20
"""How many digests there are: sums of their squares over thousands of ranks are exact in float64."""

WITHIN = "the model is inside DistributedDataParallel, which averages them already: train the module inside it"
SAME_DATA = (
    "do all ranks read the same data? DistributedSampler(data, num_replicas=world.size, rank=world.rank) gives each "
    "its own. Or the model is inside DistributedDataParallel, which averages gradients already: train the module "
    "inside it"
)


class EqualGradients:
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

    def look(self) -> None:
        """Post the sums in the first call, and see in later ones whether they are there."""
        if self._is_new:
            self._is_new = False  # also when steps are counted anew: each rank has to post this once
            number = _digest(self._parameters)
            device = self._parameters.mass.weight.device
            self._sums = torch.tensor([number, number**2], dtype=torch.float64, device=device)
            self._flight = self._channel.sum([self._sums])
        elif self._flight is not None:
            self._end(wait=False)

    def settle(self) -> None:
        """Wait for the sums."""
        if self._flight is not None:
            self._end(wait=True)

    def _end(self, wait: bool) -> None:
        """Warn, once the sums are there, if the gradients were the same everywhere."""
        assert self._flight is not None
        try:
            if not (wait or self._flight.done()):
                return
            self._flight.wait()
        except PeerLost:  # the next call that needs this peer says so
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
    """Of two sums of each dense gradient, for which the host waits; 0 if all are zero, or one is not finite."""
    sums: dict[torch.device, list[torch.Tensor]] = {}
    for number, parameter in enumerate(parameters):
        gradient = parameter.grad
        if gradient is not None and gradient.layout is torch.strided:
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            pair = [gradient.sum(dtype=dtype), gradient.abs().sum(dtype=dtype)]
            rows = sums.setdefault(gradient.device, [])
            rows.append(torch.stack([*pair, torch.full_like(pair[0], number)]).double())
    if not sums:
        return 0
    all_rows = torch.cat([torch.stack(rows).cpu() for rows in sums.values()])
    if not all_rows[:, 1].any() or not torch.isfinite(all_rows).all():  # a GradScaler's first step may overflow
        return 0
    digest = hashlib.blake2b(all_rows.numpy().tobytes(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % (DIGESTS - 1)
