"""The parameters of one optimizer, and the ranks that share them: equal, or refused, before anything is mixed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import GossipError, UsageError, levels_to_the_user
from ..state.buckets.bucket import Bucket, names, pack, refuse_unfit, shapes
from ..state.buckets.masters import NARROW, masters_, origin, refuse_masters
from ..state.buckets.rounded import Rounded
from ..state.buckets.storages import is_shared
from ..state.buckets.writes import Held, Places
from ..state.mass import Mass
from ..state.module_tensors import buffers, check_dense, check_material, frozen
from ..world import World
from .agreement import Council, contents

CHECKED = (
    "initial='check' wants equal parameters: seed every rank alike, load the same file, or let initial='broadcast' "
    "take rank 0's"
)

UNEVEN = (
    "make it a plain attribute of the model, or build it alike on every rank and give initial='check', which leaves "
    "buffers alone, or leave module=None"
)
"""The cure for a tensor that cannot be sent."""


class Parameters:
    """The parameters that move into the buckets of `mass`, and the council of the ranks that average them.

    Attributes:
        lent: the call inside which they hold the mean of all ranks; "" where they hold this rank's own values.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        module: torch.nn.Module | None,
        mass: Mass,
        initial: str,
        masters: bool = False,
    ) -> None:
        self.lent = ""
        self.council = Council()
        self.worlds: tuple[World, ...] = ()
        self.mass, self.initial = mass, initial
        self.rounded, self._narrow = Rounded(), NARROW if masters else ()
        self._optimizer, self.module = optimizer, module
        self._names, self.places = names(optimizer, module), Places(optimizer)
        refuse_unfit(optimizer.param_groups, self._names)
        refuse_masters(optimizer, optimizer.param_groups, self._names, module, self._narrow)

    def __iter__(self) -> Iterator[torch.nn.Parameter]:
        return (parameter for group in self._optimizer.param_groups for parameter in group["params"])

    def meet(self, worlds: Sequence[World], lines: Sequence[str]) -> Council:
        """Agree with the ranks of `worlds` on `lines` and on every parameter; those that are new among the worlds."""
        refuse_unfit(self._optimizer.param_groups, self._names, homes([*self.worlds, *worlds]))
        newcomers, untrained = self.council.newcomers(worlds), self._frozen()
        check_dense(untrained, UNEVEN)
        travelling = {f"parameter '{name}'": each for name, each in untrained.items()}
        if self.initial == "broadcast":
            if worlds:
                check_dense(buffers(self.module), UNEVEN)
            travelling |= {f"buffer '{name}'": each for name, each in buffers(self.module).items()}
        beside = [f"{name} of shape {tuple(each.shape)}, {each.dtype}" for name, each in travelling.items()]
        (self.council + newcomers).agree([*lines, *shapes(self._optimizer.param_groups, self._names), *beside])
        check_material(self, self._names)
        if self.initial == "check":
            called = self._names | {id(parameter): f"'{name}'" for name, parameter in untrained.items()}
            (self.council + newcomers).agree(contents([*self, *untrained.values()], called), CHECKED)
        return newcomers

    def _frozen(self) -> dict[str, torch.Tensor]:
        return frozen(self.module, {id(origin(parameter)) for parameter in self})

    def share(self, newcomers: Council, worlds: Sequence[World]) -> None:
        """Move the parameters into buckets, if that is still to be done, and take rank 0's values where asked."""
        self.worlds = (*self.worlds, *worlds)
        if not self.mass.buckets:
            self._pack(0)
        # NCCL carries weights on the device, where no step reads them; every other transport on the host.
        home = next((world.device for world in self.worlds if world.base.streams), torch.device("cpu"))
        self.mass.weight = self.mass.weight.to(home)
        if self.initial == "broadcast":
            newcomers.broadcast(self.mass.values)
            if newcomers.places():  # a rank by itself keeps its own, of whatever kind
                newcomers.broadcast([*self._frozen().values(), *buffers(self.module).values()])
        self.council += newcomers

    def grow(self, param_group: dict[str, Any]) -> None:
        """One more parameter group, in buckets of its own; every rank adds it, with nothing in flight."""
        given = param_group["params"]
        self._optimizer.add_param_group(param_group)
        groups = self._optimizer.param_groups
        first = len(groups) - 1
        if isinstance(given, Iterator) and not groups[first]["params"]:
            del groups[first]
            raise UsageError("'params' of a group is a generator that is used up: give a list of the parameters")
        called = names(self._optimizer, self.module) | self._names
        try:
            refuse_masters(self._optimizer, groups[first:], called, self.module, self._narrow)
            refuse_unfit(groups[first:], called, homes(self.worlds), self.mass.buckets)
            self.council.agree(shapes(groups, called))
            check_material(groups[first]["params"], called)
            if self.initial == "check":
                self.council.agree(contents(groups[first]["params"], called), CHECKED)
        except GossipError:
            del groups[first]
            raise
        self._names = called
        packed = self._pack(first)
        if self.initial == "broadcast":
            self.council.broadcast([bucket.values for bucket in packed])

    def _pack(self, first: int) -> list[Bucket]:
        """Move the groups from number `first` on into buckets."""
        groups, mass = self._optimizer.param_groups[first:], self.mass
        shared = [parameter for group in groups for parameter in group["params"] if is_shared(parameter)]
        if shared:
            warnings.warn(
                f"parameter {self._names[id(shared[0])]} and {len(shared) - 1} more lie in shared memory, and move to "
                "other shared memory now: a process that has them already goes on with the old one. Make the optimizer "
                "before other processes get the model",
                stacklevel=levels_to_the_user(),
            )
        masters_(groups, self._names, self._narrow)
        packed = pack(groups, self._names, first)
        mass.buckets.extend(packed)
        self.rounded.house(mass.buckets)
        self._note_places()
        return packed

    def _note_places(self) -> None:
        masters = list(self)
        own = {id(origin(parameter)) for parameter in masters}
        held: list[Held] = []
        for part in [] if self.module is None else self.module.modules():
            held += [(part._modules, name, child) for name, child in part._modules.items() if child is not None]
            held += [(part._parameters, n, p) for n, p in part._parameters.items() if p is not None and id(p) in own]
        self.places.note([*masters, *map(origin, masters)], held)

    def check(self) -> None:
        """Every parameter of the optimizer lives in a bucket, and is the module's where there is one."""
        if self.places.are_kept():
            return
        for bucket in self.mass.buckets:
            bucket.check()
        self.rounded.check()
        if any(owner.get(name) is not thing for owner, name, thing in self.places.held):
            self._find()
        if (groups := self.places.groups_now()) != self.places.groups:
            self._regroup(groups)
        self._note_places()

    def _regroup(self, groups: list[list[int]]) -> None:
        """The optimizer's groups have changed; parameters may go from one to another."""
        buckets = self.mass.buckets
        averaged = {id(slot.parameter) for bucket in buckets for slot in bucket.slots}
        place = {parameter: number for number, group in enumerate(groups) for parameter in group}
        if place.keys() != averaged:
            raise GossipError(
                f"the wrapped {type(self._optimizer).__name__} has other parameters than the {len(averaged)} "
                "that are averaged: call add_param_group of the wrapper, not of the optimizer inside"
            )
        for bucket in buckets:
            bucket.slots[:] = [replace(slot, group=place[id(slot.parameter)]) for slot in bucket.slots]

    def warn_untrained(self) -> None:
        """In the first step: without a module nobody can tell a model that was replaced from one that has no data."""
        if self.module is None and all(parameter.grad is None for parameter in self):
            warnings.warn(
                "no parameter of this optimizer has a gradient in its first step. Where this rank has no data yet all "
                "is well; but if the model was sharded or its parameters replaced after GossipOptimizer was made (by "
                "fully_shard, FSDP, tensor parallelism), what trains is not averaged: module=... makes that an error",
                stacklevel=levels_to_the_user(),
            )

    def _find(self) -> None:
        """The module's parameters, some of which are not where they were: parametrised, or replaced."""
        assert self.module is not None, "it has places"
        left = {id(parameter) for parameter in self.module.parameters()}
        own = {id(origin(parameter)) for parameter in self}
        if all(id(each) in own for each in self.module.parameters() if each.requires_grad):
            return  # it was taken out, and nothing trains instead
        for _, _, parameter in self.places.held:
            if isinstance(parameter, torch.Tensor) and id(parameter) not in left:
                raise GossipError(
                    f"parameter {self._names[id(parameter)]} is no longer the module's: it was replaced (by an "
                    "assignment, load_state_dict(assign=True), fully_shard, FSDP or tensor parallelism) after "
                    "GossipOptimizer was made, and what trains in its place would not be averaged. Load weights "
                    "without assign, and make the optimizer after anything else that changes the model; sharded "
                    "parameters cannot be averaged"
                )

    def check_returned(self) -> None:
        """Check that they hold this rank's own values."""
        if self.lent:
            raise UsageError(
                f"inside `with {self.lent}` the parameters hold the mean of all ranks, which nothing may train, save "
                "as this rank's own or average again: leave the block first. The state_dict() of the model inside is "
                "that of the mean"
            )

    def check_equal(self, buckets: Iterable[int], advice: str) -> None:
        """Compare the values of some buckets between all ranks."""
        parameters = [slot.parameter for number in buckets for slot in self.mass.buckets[number].slots]
        self.council.agree(contents(parameters, self._names), advice)


def homes(worlds: Sequence[World]) -> list[torch.device]:
    """Gloo carries host memory and NCCL that of its GPU; MPI and threads carry either."""
    return [world.base.home for world in worlds if world.base.home is not None]
