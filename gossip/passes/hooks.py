"""The hooks on modules: functions of this file, the same on every module.

So copies and pickles of a model keep them, where they do nothing. And code that torch has compiled for one layer may
run another layer of the same kind.
"""

from __future__ import annotations

import weakref
from typing import Protocol

import torch
from torch.utils.hooks import RemovableHandle


class Told(Protocol):
    """The forward passes of one model, which hear of its modules."""

    def begins(self, module: torch.nn.Module) -> None:
        """`module` is about to run."""

    def ends(self, module: torch.nn.Module) -> None:
        """`module` has run, or raised."""

    def saves(self, module: torch.nn.Module) -> None:
        """The state of `module` is about to be taken."""

    def follow(self) -> None:
        """Have hooks on the modules."""


ALIVE: list[weakref.ref[Told]] = []
"""The forward passes of this process that are followed."""

BUSY: list[weakref.ref[Told]] = []
"""Forward passes in which something has to land, or is noted."""


@torch._disable_dynamo
def before(module: torch.nn.Module, *_: object) -> None:
    """The hook before a forward pass."""
    for told in _busy():
        told.begins(module)


@torch._disable_dynamo
def after(module: torch.nn.Module, *_: object) -> None:
    """The hook behind a forward pass."""
    for told in _busy():
        told.ends(module)


def before_saving(module: torch.nn.Module, *_: object) -> None:
    """The hook before `state_dict`."""
    for told in _busy():
        told.saves(module)


def _busy() -> list[Told]:
    return [told for alive in tuple(BUSY) if (told := alive()) is not None] if BUSY else []


def remove(handles: list[RemovableHandle]) -> None:
    """Take the hooks away."""
    for handle in handles:
        handle.remove()
    handles.clear()


def forget(gone: weakref.ref[Told], handles: list[RemovableHandle]) -> None:
    """Take the hooks of one that is gone away. Where they served others too, these have hooks of their own now."""
    remove(handles)
    for each in (ALIVE, BUSY):
        if gone in each:
            each.remove(gone)
    for alive in tuple(ALIVE):
        if (other := alive()) is not None:
            other.follow()
