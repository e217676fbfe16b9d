"""Buffers of a module that an exact average takes along, such as BatchNorm's running statistics."""

from __future__ import annotations

import warnings

import torch

from ..errors import GossipError, levels_to_the_user


class Companions:
    """The floating-point buffers of `module`, by name, whichever tensors stand there at the moment.

    Ranks have agreed on what there was when this was made: what joins later stays each rank's own.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> companions = Companions(norm)
    >>> norm.running_mean = torch.ones(2)
    >>> companions.tensors()
    [tensor([1., 1.]), tensor([1., 1.])]
    """

    def __init__(self, module: torch.nn.Module | None = None) -> None:
        self._module = module
        self._kinds = {name: _kind(buffer) for name, buffer in self._now().items()}
        self._late: set[str] = set()

    def describe(self) -> str:
        """Their names and kinds, for ranks to compare; "" where there are none."""
        return "".join(f", buffer '{name}' averaged: {kind}" for name, kind in self._kinds.items())

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def tensors(self) -> list[torch.Tensor]:
        """The buffers, as they stand now.

        Raises:
            GossipError: one is gone, or of another shape or dtype, so that ranks could not sum it.
        """
        now = self._now()
        for name, kind in self._kinds.items():
            if name not in now or _kind(now[name]) != kind:
                found = f"is a {_kind(now[name])}" if name in now else "is gone"
                raise GossipError(
                    f"buffer '{name}' was a {kind} when GossipOptimizer was made and now {found}: change buffers "
                    "before the optimizer is made, or take module_buffers='local', which leaves them to each rank"
                )
        if late := now.keys() - self._kinds - self._late:
            self._late |= late
            warnings.warn(
                f"buffer '{min(late)}' joined the module after GossipOptimizer was made, and is not averaged: make the "
                "optimizer afterwards",
                stacklevel=levels_to_the_user(),
            )
        return [now[name] for name in self._kinds]

    def _now(self) -> dict[str, torch.Tensor]:
        buffers = () if self._module is None else self._module.named_buffers()
        return {name: buffer for name, buffer in buffers if buffer.dtype.is_floating_point}


def _kind(buffer: torch.Tensor) -> str:
    return f"{buffer.dtype} of shape {tuple(buffer.shape)}"
