"""Strategies for the base optimizer's state (momentum, second moments) at an outer step.

The paper resets it for SGD with Nesterov momentum and maintains it for Adam (SlowMo, ICLR 2020, section 4 and
appendix B). Averaging it costs an exact average of as many bytes as the state has.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from gossip import UsageError, World
from gossip.observe.stats import Stats
from gossip.state.merging import wide_copy
from gossip.training.state_dicts import moments

STRATEGIES = ("reset", "maintain", "average")


class Buffers(ABC):
    """One strategy."""

    @abstractmethod
    def outer_step(self) -> None:
        """Act on the state; every rank calls it at the same outer step."""


class Maintain(Buffers):
    """Leave the state alone."""

    def outer_step(self) -> None:
        """Nothing to do."""


class Reset(Buffers):
    """Back to an optimizer that has made no step.

    Adam's step counters begin anew as well, so that its bias correction fits its moments.

    Raises:
        UsageError: there is state before the first step, and no new optimizer of its class can be made to look at.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._made_at_once = bool(optimizer.state) and bool(self._fresh())

    def outer_step(self) -> None:
        """s <- s_0: nothing, for optimizers that make their state in the first step; what Adagrad begins with."""
        fresh = self._fresh() if self._made_at_once else {}
        self._optimizer.state.clear()
        self._optimizer.state.update(fresh)

    def _fresh(self) -> dict[Any, Any]:
        """The state of a new optimizer of the same class and options, over copies of the parameters as they are."""
        kind, options = type(self._optimizer), self._optimizer.defaults
        copies: dict[torch.Tensor, torch.Tensor] = {}
        groups = []
        for group in self._optimizer.param_groups:
            own = [torch.nn.Parameter(each.detach().clone(), each.requires_grad) for each in group["params"]]
            copies.update(zip(own, group["params"], strict=True))
            groups.append({**group, "params": own})
        try:
            fresh = kind(groups, **{name: options[name] for name in _arguments(kind) if name in options})
        except Exception as error:  # whatever a constructor of others asks for
            raise UsageError(
                f"buffers='reset' cannot make a new {kind.__name__} to see what it begins with ({error}), and this one "
                "has state already: put SlowMo around it before its first step, or use buffers='maintain'"
            ) from error
        return {copies.get(key, key): value for key, value in fresh.state.items()}


def _arguments(kind: type) -> set[str]:
    """The names that the constructor of `kind` takes; with **kwargs also those of the classes that it is made of."""
    taken: set[str] = set()
    for each in kind.__mro__:
        if "__init__" in vars(each):
            parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
            taken.update(parameter.name for parameter in parameters)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
    return taken


class Average(Buffers):
    """s <- Σ_j s_j / n for each floating-point tensor of a parameter's shape that every rank has.

    Step counters and other scalars stay each rank's own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, world: World, stats: Stats) -> None:
        self._optimizer = optimizer
        self._stats = stats
        self._channel = world.channel()

    def outer_step(self) -> None:
        """Agree on what there is, then one exact sum over all of it."""
        shared, sums = self._channel.together(self._sums)
        for tensor, total in zip(shared, sums, strict=True):
            tensor.copy_(total.div_(self._channel.size).reshape(tensor.shape))

    def _sums(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The tensors that every rank has, and the sum of each over the ranks."""
        own = self._moments()
        common = set.intersection(
            *(set(map(tuple, json.loads(keys))) for keys in self._channel.gather(json.dumps(list(own)).encode()))
        )
        shared = [tensor for key, tensor in own.items() if key in common]
        sums = [wide_copy(tensor.reshape(-1)) for tensor in shared]
        if sums:
            self._stats.wait(self._channel.sum(sums))
        return shared, sums

    def _moments(self) -> dict[tuple[int, str], torch.Tensor]:
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        # Indexing a missing state would make it.
        states = {number: self._optimizer.state.get(parameter, {}) for number, parameter in enumerate(parameters)}
        return moments(states, {number: parameter.shape for number, parameter in enumerate(parameters)})


def strategy(name: str, optimizer: torch.optim.Optimizer, worlds: Sequence[World], stats: Stats) -> Buffers:
    """The strategy called `name`, for the state of `optimizer`; averages go over the first of `worlds`."""
    if name == "reset":
        return Reset(optimizer)
    return Average(optimizer, worlds[0], stats) if name == "average" else Maintain()
