"""The consensus of all shards of a checkpoint, for the published model and for another number of ranks.

    z <- Σ w z / Σ w     parameters or their masters, over ranks and messages in flight
    s <- Σ s / n         SlowMo's anchors and momenta, the base optimizer's moments, floating-point buffers

Here n is the number of ranks that hold the element. The mean of equal bits has the same bits. Counters, rates and whole
numbers are rank 0's. Shards are read one after another, so that memory holds two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..consensus.portable import Place, State, put, section_for, tensors_of
from ..errors import CheckpointError, UsageError
from ..state.codecs import CODECS
from ..state.merging import wide_copy
from ..training.state_dicts import OURS
from . import files
from .files import Manifest

Layout = list[list[State]]  # the slots of each bucket
Addend = tuple[Place, float, torch.Tensor]  # its place in the shard, its weight, and the tensor


class Mean:
    """A running weighted mean, in float32 or wider and at last in the dtype of the first values."""

    def __init__(self, values: torch.Tensor, weight: float) -> None:
        self.dtype = values.dtype
        self.values = wide_copy(values)
        self.weight = weight

    def add(self, values: torch.Tensor, weight: float) -> None:
        """Merge `values`, as ranks merge messages."""
        # w <- w + w' ;   z <- z + (w'/w)·(z' − z)
        self.weight += weight
        self.values.lerp_(values.to(self.values.dtype), weight / self.weight)


@contextmanager
def names_misfits(path: Path) -> Iterator[None]:
    """Turn any error over sound bytes, which another version wrote, into a sentence that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} does not hold what a checkpoint holds ({type(error).__name__}: {error})"
        ) from error


def states_of(shard: State) -> State:
    """The states of all saved objects, by name."""
    return {"model": shard["model"], "optimizer": shard["optimizer"], **shard["more"]}


def has_lost_ranks(shard: State) -> bool:
    """Whether ranks had died when it was saved."""
    return any(states_of(shard)[name]["gossip"].get("lost") for name in shard["layouts"])


class Consensus:
    """The means over all shards of a checkpoint, and the first shard. State without a mean is rank `counterpart`'s."""

    def __init__(self, home: Path, manifest: Manifest, counterpart: int = 0) -> None:
        self._counterpart = counterpart
        self._more: State = {}
        self._means: dict[Place, Mean] = {}
        for rank in range(manifest.size):
            shard = files.unpack(home, rank, manifest)
            with names_misfits(files.path_of(home, rank, manifest)):
                if rank == 0:
                    self._shard, self._states, self._layouts = shard, states_of(shard), shard["layouts"]
                self._add(rank, shard)

    def _add(self, rank: int, shard: State) -> None:
        if shard["layouts"] != self._layouts:
            raise CheckpointError(f"ranks 0 and {rank} saved different parameters")
        if rank == self._counterpart:
            shared = {*self._layouts, *_modules(self._layouts)}
            self._more = {name: each for name, each in shard["more"].items() if name not in shared}
        states, places = states_of(shard), []
        for name in self._layouts:
            for number, entries in states[name]["state"].items():
                self._states[name]["state"].setdefault(number, entries)
        for place, weight, values in _averaged(states, self._layouts):
            if place in self._means:
                self._means[place].add(values, weight)
            else:
                self._means[place] = Mean(values, weight)
            places.append(place)
        for place in places:  # free the memory of the values
            put(self._states, place, None)

    def model(self, name: str = "model") -> State:
        """The state_dict of the module that was saved under `name`."""
        states = self._states
        if name not in (modules := _modules(self._layouts)):
            raise UsageError(
                f"{name!r} is none of the modules that were saved with their optimizer: {', '.join(modules)}"
            )
        for place, mean in self._means.items():
            put(states, place, mean.values.to(mean.dtype))
        self._means.clear()
        for optimizer, layout in self._layouts.items():
            for number, values in states[optimizer]["gossip"].get("masters", {}).items():
                for slot in layout[number]:
                    module, parameter = slot["places"][0]
                    dtype = states[module][parameter].dtype
                    states[module][parameter] = _part_of(values, slot).to(dtype, copy=True)
            for slot in (slot for bucket in layout for slot in bucket):
                (module, parameter), *others = slot["places"]
                for other, tied in others:
                    states[other][tied] = states[module][parameter]
        state: State = states[name]
        return state

    def shard(self, live: Mapping[str, State]) -> State:
        """The state from which a new rank continues; `live` are the states of its new optimizers, by name."""
        self.model()
        self._shard["more"].update(self._more)
        for name in live.keys() & self._layouts.keys():
            optimizer = self._states[name]
            for section in live[name].keys() & optimizer.keys() & {*OURS}:
                optimizer[section] = section_for(optimizer[section], live[name][section])
        return self._shard


def _averaged(states: State, layouts: dict[str, Layout]) -> Iterator[Addend]:
    """Every tensor to average."""
    averaged: set[Place] = set()
    for name, layout in layouts.items():
        averaged.update(tuple(place) for bucket in layout for slot in bucket for place in slot["places"])
        yield from _averaged_of_optimizer(name, states, layout)
    for module in _modules(layouts):
        for name, value in states[module].items():
            if (module, name) not in averaged and _is_floating(value):
                yield (module, name), 1.0, value


def _averaged_of_optimizer(at: str, states: State, layout: Layout) -> Iterator[Addend]:
    """The tensors to average of one optimizer and of its parameters."""
    optimizer = states[at]
    masters, own = optimizer["gossip"].get("masters", {}), optimizer["gossip"]["weight"]
    for slot in (slot for number, bucket in enumerate(layout) if number not in masters for slot in bucket):
        module, parameter = slot["places"][0]
        yield (module, parameter), own, states[module][parameter]
    for number, values in masters.items():
        yield (at, "gossip", "masters", number), own, values
    for envelope, *arrived in _messages_in_flight(optimizer):
        weight = envelope[0].item()
        for number, (bucket, values) in enumerate(zip(layout, arrived, strict=True)):
            if number in masters:
                yield (at, "gossip", "masters", number), weight, values
            else:
                for slot in bucket:
                    yield tuple(slot["places"][0]), weight, _part_of(values, slot)
    shapes = {slot["number"]: tuple(slot["shape"]) for bucket in layout for slot in bucket}
    for place, value in tensors_of(optimizer, shapes):
        yield (at, *place), 1.0, value


def _messages_in_flight(state: Any) -> Iterator[list[torch.Tensor]]:
    """Envelope and values of every message that was in flight: it had arrived and was not merged."""
    if isinstance(state, dict):
        for envelope, *values in state.get("arriving", {}).values():
            yield [envelope, *map(CODECS[state.get("wire")].values, values)]
    for part in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _messages_in_flight(part)


def _part_of(values: torch.Tensor, slot: State) -> torch.Tensor:
    """The part of a bucket that belongs to one parameter."""
    return values.as_strided(slot["shape"], slot["stride"], values.storage_offset() + slot["start"])


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _modules(layouts: dict[str, Layout]) -> list[str]:
    """The names of the model and of other modules with parameters of a saved optimizer."""
    slots = (slot for layout in layouts.values() for bucket in layout for slot in bucket)
    return list(dict.fromkeys(["model", *(module for slot in slots for module, _ in slot["places"])]))
