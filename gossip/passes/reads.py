"""Which module reads which parameter in a forward pass, and in which order they are read first."""

from __future__ import annotations

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
    """

    def __init__(self, modules: Collection[torch.nn.Module], known: Collection[int]) -> None:
        super().__init__()
        self.order: dict[int, None] = {}
        self.by: defaultdict[torch.nn.Module, set[int]] = defaultdict(set)
        self._modules, self._known = modules, known  # of one model; ids of the parameters that count
        self._running: list[torch.nn.Module] = []

    def end(self) -> None:
        """Note no more."""
        if self._running:
            self._running.clear()
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def begins(self, module: torch.nn.Module) -> None:
        """`module` runs; it counts if it is of this model."""
        if module not in self._modules:
            return
        if not self._running:
            self.__enter__()  # type: ignore[no-untyped-call]
        if not self._running or self._running[-1] is not module:  # the hook of another optimizer may have said so
            self._running.append(module)
        self._note(module._parameters.values())

    def ends(self, module: torch.nn.Module) -> None:
        """`module` has run, or raised."""
        if self._running and self._running[-1] is module:
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
