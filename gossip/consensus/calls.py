"""The calls of an optimizer that are about all ranks: their mean in the place of own values, and distances from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..averagers.base import Averager
from ..checks import shown
from ..errors import UsageError
from ..state.buckets.masters import origin
from ..state.module_tensors import buffers, compact
from ..training.parameters import Parameters
from .mean import Means, means
from .portable import portable


class Consensus:
    """What all ranks of one optimizer hold together. `call` is the public call, which every rank makes.

    Args:
        begin: called before anything else; checks that values may be compared, and returns the steps made.
        settle: lands everything in flight.
        returned: called when the parameters hold this rank's own values again.
    """

    def __init__(
        self,
        parameters: Parameters,
        averagers: Sequence[Averager],
        begin: Callable[[str], int],
        settle: Callable[[], None],
        returned: Callable[[], None],
    ) -> None:
        self._parameters, self._mass, self._averagers = parameters, parameters.mass, averagers
        self._begin, self._settle, self._returned = begin, settle, returned

    def _means(self, call: str, named: Mapping[str, torch.Tensor]) -> Means:
        stats = self._mass.stats
        with stats.board.calling(call):
            step = self._begin(call)
            with stats.span("mean"):
                return means(self._parameters, self._averagers, named, call, step)

    @contextmanager
    def lend(self, call: str, model: torch.nn.Module) -> Iterator[None]:
        """Inside, the parameters and the buffers of `model` hold the means; see `Wrapper.mean`."""
        self._check_trained(call, model)
        named, twins = buffers(model), self._parameters.rounded.twins.values()
        found = self._means(call, named)
        for averager in self._averagers:
            averager.quiesce()
        own = [*self._mass.values, *(twin.values for _, twin in twins), *map(_plain, named.values())]
        kept = [tensor.clone() for tensor in own]
        # The tensors themselves: a forward pass may put others in their places.
        held = [(part._buffers, name, buffer) for part in model.modules() for name, buffer in part._buffers.items()]
        self._parameters.lent = call
        try:
            self._write_(found, named)
            del found
            yield
        finally:
            for owner, name, buffer in held:
                owner[name] = buffer
            _copy_(own, kept)
            self._parameters.lent = ""
            self._returned()

    def state_dict(self, call: str, model: torch.nn.Module) -> dict[str, Any]:
        """The state_dict of `model` with the means, in contiguous memory of its own."""
        if self._parameters.lent:
            self._check_trained(call, model)
            return copied(model.state_dict())
        with self._mass.stats.board.calling(call), self.lend(call, model):
            return copied(model.state_dict())

    def take(self, call: str) -> None:
        """The means are this rank's own values from now on, with weight 1 and nothing in flight."""
        module = self._parameters.module
        named = {name: each for name, each in buffers(module).items() if each.is_floating_point()}
        with self._mass.stats.board.calling(call):
            self._settle()
            found = self._means(call, named)
        self._write_(found, named)
        size = max((world.base.carrier.size for world in self._parameters.worlds), default=1)
        self._mass.share(found.weight, everyone=found.ranks == size)

    @torch.no_grad()
    def distance(self, call: str) -> float:
        """Ξ = √(Σ_i ‖z_i − z̄‖² / n)."""
        found, mass = self._means(call, {}), self._mass
        own = mass.weight.new_zeros(1)
        for z, mean in zip(mass.values, found.values, strict=True):
            own += torch.sum((z - mean).double() ** 2).to(own.device)
        council = self._parameters.council.widest()

        def total() -> float:
            squares = own.clone()
            council.sum([squares], mass.stats)
            return squares.item()

        with mass.stats.board.calling(call):
            return math.sqrt(council.together(total) / found.ranks)

    @torch.inference_mode(False)
    def portable(self, call: str, state: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The portable state of all ranks, of each rank's `state()`."""
        with self._mass.stats.board.calling(call):
            found = self._means(call, {})
            masters = {number: found.values[number] for number in self._parameters.rounded.twins}
            return portable(state(), self._parameters, masters)

    def _write_(self, found: Means, named: Mapping[str, torch.Tensor]) -> None:
        """z <- z̄, also in the model's 16-bit parameters; the tensors `named` take the means of that name."""
        _copy_(self._mass.values, found.values)
        self._parameters.rounded.write_()
        _copy_(map(_plain, named.values()), (found.named[name] for name in named))

    def _check_trained(self, call: str, model: Any) -> None:
        """Check that this optimizer trains `model`, and each of its parameters that takes gradients."""
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"{call} takes the torch.nn.Module that is trained, and this is {shown(model)}")
        own = {id(origin(parameter)) for parameter in self._parameters}
        foreign = [name for name, each in model.named_parameters() if each.requires_grad and id(each) not in own]
        if foreign or not any(id(each) in own for each in model.parameters()):
            kind = type(model).__name__
            which = f"parameter '{foreign[0]}' of the model" if foreign else f"any parameter of this {kind}"
            raise UsageError(
                f"{call} gives the mean of what this optimizer trains, and it does not train {which}: give the module "
                "that it trains. Parameters that no optimizer trains take requires_grad_(False)"
            )


@torch.inference_mode(False)
def copied(state: dict[str, Any]) -> dict[str, Any]:
    """A model's state_dict whose tensors are contiguous, each with memory of its own."""
    result = copy.copy(state)  # with the versions of its modules
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            result[name] = value.detach().clone(memory_format=torch.contiguous_format)
        else:
            result[name] = copy.deepcopy(value)
    return result


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return compact(tensor.detach())


@torch.no_grad()
def _copy_(tensors: Iterable[torch.Tensor], values: Iterable[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
