"""Which module reads which parameter in a forward pass, and in which order they are read first."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Reads(TorchFunctionMode):
    """Notes while modules of a model run, until `end`.

    A module reads its own parameters when it begins. Other modules may read them too, such as an output layer that uses
    the weight of an embedding: so every call of a function of torch is looked at, and a parameter among its arguments
    is read by the innermost module that runs.

    Attributes:
        order: ids of parameters, in the order in which they were read first.
        by: module -> the ids of the parameters that it reads.
        ran: modules that have run.
        modules: all of the model.
    """

    def __init__(self, model: torch.nn.Module, known: Collection[int]) -> None:
        super().__init__()
        self.order: dict[int, None] = {}
        self.by: defaultdict[torch.nn.Module, set[int]] = defaultdict(set)
        self.ran: set[torch.nn.Module] = set()
        self.modules = set(model.modules())
        self._known = known  # ids of the parameters that count
        self._running: list[torch.nn.Module] = []
        self._thread = 0  # in which they run

    def end(self) -> None:
        """Note no more."""
        if self._running:
            self._running.clear()
            if self._thread == threading.get_ident():
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def begins(self, module: torch.nn.Module) -> None:
        """`module` runs; it counts if it is of this model, in one thread at a time."""
        thread = threading.get_ident()
        if module not in self.modules or (self._running and thread != self._thread):
            return
        if not self._running:
            self._thread = thread
            self.__enter__()  # type: ignore[no-untyped-call]
        self._running.append(module)
        self.ran.add(module)
        self._note(module._parameters.values())

    def ends(self, module: torch.nn.Module) -> None:
        """`module` has run, or raised."""
        if self._running and self._running[-1] is module and threading.get_ident() == self._thread:
            self._running.pop()
            if not self._running:
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # `.shape` and `.requires_grad` read no values; `.data` and `.T` give a tensor.
        if getattr(func, "__name__", "") != "__get__" or isinstance(result, torch.Tensor):
            self._note(_leaves((args, *kwargs.values())))
        return result

    def _note(self, things: Any) -> None:
        for thing in things:
            if id(thing) in self._known and self._running:
                self.order.setdefault(id(thing))
                self.by[self._running[-1]].add(id(thing))


def _leaves(things: Any) -> Iterator[Any]:
    for thing in things:
        if isinstance(thing, list | tuple):
            yield from _leaves(thing)
        else:
            yield thing
