"""The part of a module that one of its optimizers trains."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch


class Trained(torch.nn.Module):
    """The parameters of `module` that one optimizer trains, under their names in it, as they are now and later.

    Args:
        module: as a whole.
        own: the ids of the parameters.
        has_buffers: whether the module's buffers belong to it too; they do so once, if there are several optimizers.
    """

    def __init__(self, module: torch.nn.Module, own: Collection[int], has_buffers: bool) -> None:
        super().__init__()
        self._whole, self._has_buffers = [module], has_buffers  # in a list, where it is no part of this module
        self._own = own

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
        named = self._whole[0].named_parameters(*args, **options)
        return ((name, parameter) for name, parameter in named if id(parameter) in self._own)

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, torch.Tensor]]:
        return self._whole[0].named_buffers(*args, **options) if self._has_buffers else iter(())

    def modules(self, *args: Any, **options: Any) -> Iterator[torch.nn.Module]:
        return self._whole[0].modules(*args, **options) if self._has_buffers else iter(())


def ids_of(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ids of the parameters of a plain optimizer, before gossip wraps it."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
