"""Before a module runs, the values that it reads land: the edge between a model's forward pass and gossip."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Protocol

import torch
from torch.utils.hooks import RemovableHandle

from ..errors import GossipError, UsageError
from ..state.buckets.masters import origin
from ..state.buckets.rounded import Rounded
from ..state.buckets.sections import Sections
from ..state.buckets.writes import Writes
from ..state.mass import Mass
from .reads import Reads

INSTEAD = "take landing='due'"


class Lands(Protocol):
    """A round that lands section by section."""

    def in_flight(self) -> bool:
        """Whether a section has not landed."""

    def land_sections(self, last: int) -> None:
        """Land all sections up to number `last`."""


BUSY: list[weakref.ref[ForwardPass]] = []
"""The forward passes of this process in which something has to land, or is noted."""


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
        self._touched: list[list[torch.Tensor]] = []  # of each section, the module's parameters
        self._turn = threading.RLock()
        self._self = weakref.ref(self)
        weakref.finalize(self, _forget, self._self, self._handles)

    def tell(self, landing: Lands) -> None:
        """Land sections of `landing` before modules read them, from now on; first, note how modules read."""
        self._landing = landing
        self.begin_anew()

    def begin_anew(self) -> None:
        """Note again how modules read parameters, nothing being in flight."""
        if self._landing is None or self._module is None:
            return
        modules = set(self._module.modules())
        self._reads = Reads(modules, {id(origin(parameter)) for parameter in self._parameters})
        self._follow(modules, noting=True)
        self._be_busy(True)

    def order(self) -> list[int]:
        """The numbers of the parameters in the order in which modules have read them; see `Sections`."""
        numbers = {id(parameter): number for number, parameter in enumerate(self._each())}
        return [] if self._reads is None else [numbers[each] for each in self._reads.order if each in numbers]

    def place(self, sections: Sections) -> None:
        """From now on, land those of `sections` that a module reads before it runs."""
        reads, each, buckets = self._reads, self._each(), self._mass.buckets
        self._touched = [[each[n] for n in sections.parameters(k, buckets)] for k in range(len(sections.spans))]
        if reads is None or self._module is None:
            return
        self.check()  # the model may have changed since
        last = {id(parameter): last for parameter, last in zip(each, sections.last, strict=True)}
        self._last.clear()
        for module in self._module.modules():
            own = {id(parameter) for parameter in module._parameters.values()} | reads.by.get(module, set())
            if (until := max((last.get(parameter, -1) for parameter in own), default=-1)) >= 0:
                self._last[module] = until
        reads.end()
        self._reads = None
        self._follow(self._last, noting=False)
        self._be_busy(False)

    def _follow(self, modules: Iterable[torch.nn.Module], noting: bool) -> None:
        _remove(self._handles)
        for module in modules:
            self._handles.append(module.register_forward_pre_hook(before, prepend=True))
            self._handles.append(module.register_state_dict_pre_hook(before_saving))
            if noting:
                self._handles.append(module.register_forward_hook(after, always_call=True))

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
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise GossipError(
                "a forward pass is captured in a CUDA graph while a round is in flight, and a replay would not land "
                f"it: {INSTEAD}, whose forward pass may be captured"
            )
        # A model may be evaluated in inference mode, and by several threads.
        with self._turn, torch.inference_mode(False), torch.no_grad():
            self._landing.land_sections(last)

    # -- while a round lands -------------------------------------------------------------------------------------------

    def posted(self) -> None:
        """A round is in flight."""
        self._be_busy(True)

    def first_lands(self) -> None:
        """The first section of a round lands: refuse parameters that were written by hand meanwhile."""
        board = self._mass.stats.board
        self._writes.check(board.rank, board.slot.step)
        self._writes.forget()

    def landed(self, section: int, sections: Sections) -> None:
        """Round masters of `section`, and let autograd see that its parameters have changed.

        A module that read them before, unnoticed, cannot go backward then: it would have computed with old values.
        """
        twins = self._rounded.twins
        for number, start, stop in sections.spans[section]:
            if number in twins:
                bucket, twin = twins[number]
                twin.values[start:stop].copy_(bucket.values[start:stop])
        torch.autograd.graph.increment_version(self._touched[section])

    def all_landed(self) -> None:
        """Nothing is in flight: parameters may be written, and masters take such values over."""
        self._be_busy(self._reads is not None)
        if self._rounded.twins:
            self._writes.note()

    # -- the model -----------------------------------------------------------------------------------------------------

    def _each(self) -> list[torch.Tensor]:
        """The module's parameters in the order of the slots."""
        return [origin(slot.parameter) for bucket in self._mass.buckets for slot in bucket.slots]

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


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()


def _forget(forward: weakref.ref[ForwardPass], handles: list[RemovableHandle]) -> None:
    _remove(handles)
    if forward in BUSY:
        BUSY.remove(forward)


# -- hooks: functions of this module, and the same on every module. So copies and pickles of a model keep them and lose
# nothing, and code that torch has compiled for one layer may run another one of the same kind.


@torch._disable_dynamo
def before(module: torch.nn.Module, *_: object) -> None:
    """The hook before a forward pass."""
    for forward in _busy():
        forward.begins(module)


@torch._disable_dynamo
def after(module: torch.nn.Module, *_: object) -> None:
    """The hook behind a forward pass."""
    for forward in _busy():
        forward.ends(module)


def before_saving(module: torch.nn.Module, *_: object) -> None:
    """The hook before `state_dict`."""
    for forward in _busy():
        forward.saves(module)


def _busy() -> list[ForwardPass]:
    return [forward for alive in tuple(BUSY) if (forward := alive()) is not None] if BUSY else []
