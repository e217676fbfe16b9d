"""Before a module runs, the values that it reads land: the edge between a model's forward pass and gossip."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol, TypedDict

import torch
from torch.utils.hooks import RemovableHandle

from ..errors import GossipError, UsageError
from ..state.buckets.masters import origin
from ..state.buckets.rounded import Rounded
from ..state.buckets.sections import Sections
from ..state.buckets.writes import Writes
from ..state.mass import Mass
from .hooks import ALIVE, BUSY, Told, after, before, before_saving, forget, remove
from .reads import Reads

INSTEAD = "take landing='due'"


class Lands(Protocol):
    """A round that lands section by section."""

    def in_flight(self) -> bool:
        """Whether a section has not landed."""

    def land_sections(self, last: int) -> None:
        """Land all sections up to number `last`."""


class Notes(TypedDict):
    """Facts from the forward passes of one rank, for the other ranks."""

    order: list[int]  # numbers of parameters, as they were read first
    reads: dict[str, list[int]]  # by the name of the module that read them
    ran: list[str]  # modules that have run


class ForwardPass:
    """The forward passes of `module`, which holds the parameters of one optimizer.

    Args:
        parameters: those of the optimizer, read whenever they are needed.
        rounded: 16-bit parameters of the module, where the optimizer has masters of them.
        writes: notice parameters that are written by hand while the round is in flight.
    """

    def __init__(
        self,
        module: torch.nn.Module | None,
        parameters: Iterable[torch.Tensor],
        mass: Mass,
        rounded: Rounded,
        writes: Writes,
    ) -> None:
        self._module, self._parameters = module, parameters
        self._mass, self._rounded, self._writes = mass, rounded, writes
        self._landing: Lands | None = None
        self._reads: Reads | None = None  # while it is noted how modules read
        self._last: dict[torch.nn.Module, int] = {}  # of the sections that a module reads
        self._handles: list[RemovableHandle] = []
        self._touched: list[list[int]] = []  # of each section, the numbers of its parameters
        self._each: list[torch.Tensor] = []  # the module's parameters, by number
        self._versions: list[int] = []  # of each of them, while sections of a round have landed and others have not
        self._stale: set[int] = set()  # parameters with a gradient that came while a section of theirs was in flight
        self._self: weakref.ref[Told] = weakref.ref(self)

    def tell(self, landing: Lands) -> None:
        """Land sections of `landing` before modules read them, from now on; first, note how modules read."""
        self._landing = landing
        ALIVE.append(self._self)
        weakref.finalize(self, forget, self._self, self._handles)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Note again how modules read parameters, nothing being in flight."""
        if self._landing is None or self._module is None:
            return
        known = {id(origin(parameter)) for parameter in self._parameters}
        self._reads = Reads(self._module, known)
        weakref.finalize(self, self._reads.end)
        self._last.clear()
        self.follow()
        self._be_busy(True)

    def notes(self) -> Notes:
        """The notes so far, with parameters numbered in the order of the slots."""
        self._each = [origin(slot.parameter) for bucket in self._mass.buckets for slot in bucket.slots]
        number = {id(parameter): number for number, parameter in enumerate(self._each)}
        if self._reads is None or self._module is None:
            return Notes(order=[], reads={}, ran=[])
        named = {module: name for name, module in self._module.named_modules()}
        reads = {
            named[module]: [number[each] for each in found if each in number]
            for module, found in self._reads.by.items()
            if module in named
        }
        order = [number[each] for each in self._reads.order if each in number]
        return Notes(order=order, reads=reads, ran=[named[each] for each in self._reads.ran if each in named])

    def place(self, sections: Sections, told: Sequence[Notes]) -> None:
        """From now on, land those of `sections` that a module reads before it runs, by what any rank was `told`.

        The parameters of a module that has not run land before the module around it that has: somebody else reads them.
        """
        buckets = self._mass.buckets
        self._touched = [sections.parameters(place, buckets) for place in range(len(sections.spans))]
        if self._reads is None or self._module is None:
            return
        self.check()  # the model may have changed since
        number = {id(parameter): number for number, parameter in enumerate(self._each)}
        ran = {name for each in told for name in each["ran"]}
        self._last.clear()
        for name, module in self._module.named_modules(remove_duplicate=False):
            own = [number[id(each)] for each in module._parameters.values() if id(each) in number]
            own += [place for each in told for place in each["reads"].get(name, [])]
            until = max((sections.last[place] for place in own), default=-1)
            around = name
            while around and around not in ran:
                around = around.rpartition(".")[0]
            for reader in (module, self._module.get_submodule(around)):
                if until >= 0:
                    self._last[reader] = max(until, self._last.get(reader, -1))
        self._reads.end()
        self._reads = None
        self.follow()
        self._be_busy(False)

    def follow(self) -> None:
        """Have our hooks on every module that reads, or while reads are noted on every one; one hook on each module."""
        remove(self._handles)
        for module in list(self._last) if self._reads is None else self._reads.modules:
            if before not in module._forward_pre_hooks.values():
                self._handles.append(module.register_forward_pre_hook(before, prepend=True))
                self._handles.append(module.register_state_dict_pre_hook(before_saving))
            if self._reads is not None and after not in module._forward_hooks.values():
                self._handles.append(module.register_forward_hook(after, always_call=True))
        alive, stale = self._self, self._stale

        def came(_: torch.Tensor, number: int) -> None:
            if alive in BUSY:
                stale.add(number)

        for number, parameter in enumerate(self._each if self._reads is None else []):
            if parameter.requires_grad:
                hook = partial(came, number=number)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def _be_busy(self, busy: bool) -> None:
        if busy and self._self not in BUSY:
            BUSY.append(self._self)
        elif not busy and self._self in BUSY:
            BUSY.remove(self._self)

    def begins(self, module: torch.nn.Module) -> None:
        """`module` is about to run."""
        if self._reads is not None:
            self._reads.begins(module)
        if module in self._last:
            self._land(self._last[module])
        elif getattr(module, "_is_replica", False) and self._landing is not None and self._landing.in_flight():
            raise UsageError(
                "landing='forward' lands values before the module that reads them runs, and here a copy of a module "
                f"runs, whose parameters DataParallel has copied before: {INSTEAD}"
            )

    def ends(self, module: torch.nn.Module) -> None:
        """`module` has run, or raised."""
        if self._reads is not None:
            self._reads.ends(module)

    def saves(self, module: torch.nn.Module) -> None:
        """The state of `module` is about to be taken."""
        if module in self._last:
            self._land(len(self._touched) - 1)

    def _land(self, last: int) -> None:
        if self._landing is None or not self._landing.in_flight():
            return
        capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        if capturing or torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise GossipError(
                f"a forward pass is {'captured in a CUDA graph' if capturing else 'traced or exported'} while a round "
                f"is in flight, and what is made of it would not land one: call settle() on every rank before, or "
                f"{INSTEAD}"
            )
        # A model may be evaluated in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            self._landing.land_sections(last)

    # -- while a round lands -------------------------------------------------------------------------------------------

    def posted(self) -> None:
        """A round is in flight."""
        self._stale.clear()
        self._be_busy(True)

    def lands(self, section: int, is_first: bool) -> None:
        """A section of the round is about to land: refuse parameters of it that were written by hand meanwhile."""
        board = self._mass.stats.board
        if is_first:
            self._writes.check(board.rank, board.slot.step)
            self._writes.forget()
            self._versions = [parameter._version for parameter in self._each]
        for number in self._touched[section]:
            if self._each[number]._version != self._versions[number]:
                self._writes.refuse(self._name(number), board.rank, board.slot.step)

    def landed(self, section: int, sections: Sections) -> None:
        """Round masters of `section`, and let autograd see that its parameters have changed.

        A module that read them before, unnoticed, cannot go backward then: it would have computed with old values.
        """
        twins = self._rounded.twins
        for number, start, stop in sections.spans[section]:
            if number in twins:
                bucket, twin = twins[number]
                twin.values[start:stop].copy_(bucket.values[start:stop])
        touched = self._touched[section]
        torch.autograd.graph.increment_version([self._each[number] for number in touched])
        for number in touched:
            self._versions[number] = self._each[number]._version

    def all_landed(self) -> None:
        """Nothing is in flight."""
        self._be_busy(self._reads is not None)

    def check_fresh(self, pending: Iterable[int]) -> None:
        """Check that no gradient has come of values whose sections are still `pending`."""
        stale = sorted(self._stale.intersection(number for section in pending for number in self._touched[section]))
        if stale:
            raise GossipError(
                f"rank {self._mass.stats.board.rank} has a gradient of parameter {self._name(stale[0])} that was "
                "computed before the round in flight had landed in it: the model read it outside of the modules that "
                f"read it at first, or outside of any. Call settle() on every rank before such a pass, or {INSTEAD}"
            )

    def _name(self, number: int) -> str:
        return [slot.name for bucket in self._mass.buckets for slot in bucket.slots][number]

    # -- the model -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check that the passes of this model can be followed."""
        module, call = self._module, "landing='forward'"
        if module is None:
            raise UsageError(
                f"{call} lands values before the module that reads them runs: give GossipOptimizer module=model"
            )
        own = {id(parameter) for parameter in module.parameters()}
        foreign = [tuple(each.shape) for each in self._parameters if id(origin(each)) not in own]
        if foreign:
            raise UsageError(
                f"{call} lands values before the module that reads them runs, and a parameter of shape {foreign[0]} is "
                f"in no part of this {type(module).__name__}: give GossipOptimizer the module that holds all of them, "
                f"or {INSTEAD}"
            )
        for name, part in module.named_modules():
            if isinstance(part, torch.nn.DataParallel | torch.jit.ScriptModule):
                raise UsageError(
                    f"{call} needs hooks before modules run, which {type(part).__name__} at '{name}' of the module "
                    f"does without: {INSTEAD}"
                )
