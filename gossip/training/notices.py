"""A word, once, about a run that does not do what its script says, where nothing else would tell."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ..averagers.base import Averager
from ..errors import levels_to_the_user
from ..observe.slot import STEP
from .arguments import check_joined
from .parameters import Parameters
from .state_dicts import is_probe

WITHIN = "the model is inside DistributedDataParallel, which averages them already: train the module inside it"
SAME_DATA = (
    "do all ranks read the same data? DistributedSampler(data, num_replicas=world.size, rank=world.rank) gives each "
    "its own. Or the model is inside DistributedDataParallel, which averages gradients already: train the module "
    "inside it"
)


class Notices:
    """Looks at the first step of one optimizer, and at steps of the wrapped one that are none of ours."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Parameters, averagers: list[Averager]) -> None:
        self._parameters, self._averagers = parameters, averagers
        self._has_warned = False
        if hasattr(optimizer, "_optimizer_step_post_hooks"):  # it has called Optimizer.__init__
            alive = weakref.WeakMethod(self._inner_stepped)  # a wrapped optimizer may outlive its wrapper
            hook = optimizer.register_step_post_hook(lambda stepped, *_: (alive() or _ignored)(stepped))
            weakref.finalize(self, hook.remove).atexit = False

    def first_step(self, has_closure: bool) -> None:
        """In the first step, before anything changes. Every rank calls it."""
        check_joined(self._parameters.worlds)
        if not has_closure:
            self._parameters.warn_untrained()
        if all(averager.lockstep for averager in self._averagers):
            with self._parameters.mass.stats.board.calling(STEP):
                self._warn_of_equal_gradients()

    def _warn_of_equal_gradients(self) -> None:
        council, digests = self._parameters.council.widest(), set[bytes]()
        own = _digest(self._parameters)
        council.together(lambda: council.gather(lambda: own, digests.update))
        if own and digests == {own} and council.size > 1 and council.speaks:
            within = any(isinstance(part, DistributedDataParallel) for part in self._modules())
            warnings.warn(
                f"all {council.size} ranks have the same gradients in their first step, so that averaging changes "
                f"nothing: {WITHIN if within else SAME_DATA}",
                stacklevel=levels_to_the_user(),
            )

    def _modules(self) -> list[torch.nn.Module]:
        module = self._parameters.module
        return [] if module is None else list(module.modules())

    def _inner_stepped(self, optimizer: Any) -> None:
        """The wrapped optimizer has made a step: warn, once, unless that was part of a step of ours."""
        if self._has_warned or self._parameters.mass.stats.board.call == STEP or is_probe(optimizer):
            return
        self._has_warned = True
        warnings.warn(
            f"{type(optimizer).__name__}.step() was called, and not step() of the GossipOptimizer around it: this rank "
            "has trained alone, and nothing was averaged. Call step() of the outermost wrapper, also by a GradScaler",
            stacklevel=levels_to_the_user(),
        )


def _ignored(optimizer: Any) -> None:
    pass


def _digest(parameters: Parameters) -> bytes:
    """Of two sums of each dense gradient, for which the host waits once; empty where all are zero or none is there."""
    sums = []
    for number, parameter in enumerate(parameters):
        gradient = parameter.grad
        if gradient is not None and gradient.layout is torch.strided:
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            pair = torch.stack([gradient.sum(dtype=dtype), gradient.abs().sum(dtype=dtype)])
            sums.append(torch.cat([pair.double(), pair.new_full((1,), number).double()]))
    if not sums or not torch.stack(sums)[:, 1].any():
        return b""
    return hashlib.blake2b(torch.stack(sums).cpu().numpy().tobytes(), digest_size=8).digest()
