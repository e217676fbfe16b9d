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

from ..errors import CheckpointError, UsageError
from ..observe.stats import Stats
from ..state.codecs import CODECS
from ..state.mass import Mass
from ..state.merging import wide_copy
from ..training.state_dicts import moments
from . import files
from .manifest import Manifest

State = dict[str, Any]
Place = tuple[Any, ...]
Addend = tuple[Place, float, torch.Tensor]
"""Its place in the shard, its weight, and the tensor."""


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


def consensus_of(home: Path, manifest: Manifest, counterpart: int = 0) -> Consensus:
    """The consensus of a checkpoint's shards."""
    everyone = Consensus(counterpart)
    for rank in range(manifest.size):
        shard = files.unpack(home, rank, manifest)
        with names_misfits(files.path_of(home, rank, manifest)):
            everyone.add(shard)
    return everyone


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


class Consensus:
    """Averages the shards of all ranks; it holds the means and the first shard."""

    def __init__(self, counterpart: int = 0) -> None:
        self._counterpart = counterpart
        self._first: State = {}
        self._more: State = {}
        self._means: dict[Place, Mean] = {}

    def add(self, shard: State) -> None:
        """Add one more shard, rank 0's first."""
        first = self._first = self._first or shard
        if shard["layouts"] != first["layouts"]:
            raise CheckpointError(f"ranks 0 and {shard['rank']} saved different parameters")
        if shard["rank"] == self._counterpart:
            shared = {*first["layouts"], *_modules(first)}
            self._more = {name: each for name, each in shard["more"].items() if name not in shared}
        for name in shard["layouts"]:
            for number, entries in _get(shard, _place_of(name))["state"].items():
                _get(first, _place_of(name))["state"].setdefault(number, entries)
        places = []
        for place, weight, values in _averaged(shard):
            if place in self._means:
                self._means[place].add(values, weight)
            else:
                self._means[place] = Mean(values, weight)
            places.append(place)
        for place in places:  # free the memory of the values
            _put(first, place, None)

    def model(self, name: str = "model") -> State:
        """The state_dict of the module that was saved under `name`."""
        first = self._first
        if name not in (modules := _modules(first)):
            raise UsageError(
                f"{name!r} is none of the modules that were saved with their optimizer: {', '.join(modules)}"
            )
        for place, mean in self._means.items():
            _put(first, place, mean.values.to(mean.dtype))
        self._means.clear()
        for optimizer, layout in first["layouts"].items():
            for number, values in _get(first, _place_of(optimizer))["gossip"].get("masters", {}).items():
                for slot in layout[number]:
                    place = _places_of(slot)[0]
                    _put(first, place, _part_of(values, slot).to(_get(first, place).dtype, copy=True))
            for slot in (slot for bucket in layout for slot in bucket):
                held, *others = _places_of(slot)
                for place in others:
                    _put(first, place, _get(first, held))
        state: State = _get(first, _place_of(name))
        return state

    def shard(self, live: Mapping[str, State]) -> State:
        """The state from which a new rank continues; `live` are the states of its new optimizers, by name."""
        self.model()
        self._first["more"].update(self._more)
        for name in live.keys() & self._first["layouts"].keys():
            optimizer = _get(self._first, _place_of(name))
            for section in (live[name].keys() & optimizer.keys()) - {"state", "param_groups"}:
                optimizer[section] = _section_for_new_rank(optimizer[section], live[name][section])
        return self._first


def _averaged(shard: State) -> Iterator[Addend]:
    """Every tensor to average."""
    averaged: set[Place] = set()
    for name, layout in shard["layouts"].items():
        averaged.update(place for bucket in layout for slot in bucket for place in _places_of(slot))
        yield from _averaged_of_optimizer(shard, _place_of(name), layout)
    for module in _modules(shard):
        for name, value in _get(shard, _place_of(module)).items():
            if (place := (*_place_of(module), name)) not in averaged and _is_floating(value):
                yield place, 1.0, value


def _averaged_of_optimizer(
    shard: State, at: Place, layout: list[list[State]]
) -> Iterator[tuple[Place, float, torch.Tensor]]:
    """The tensors to average of one optimizer and of its parameters."""
    optimizer = _get(shard, at)
    masters, own = optimizer["gossip"].get("masters", {}), optimizer["gossip"]["weight"]
    for slot in (slot for number, bucket in enumerate(layout) if number not in masters for slot in bucket):
        yield _places_of(slot)[0], own, _get(shard, _places_of(slot)[0])
    for number, values in masters.items():
        yield (*at, "gossip", "masters", number), own, values
    for envelope, *arrived in _messages_in_flight(optimizer):
        for number, (bucket, values) in enumerate(zip(layout, arrived, strict=True)):
            if number in masters:
                yield (*at, "gossip", "masters", number), envelope[0].item(), values
            else:
                for slot in bucket:
                    yield _places_of(slot)[0], envelope[0].item(), _part_of(values, slot)
    shapes = {slot["number"]: tuple(slot["shape"]) for bucket in layout for slot in bucket}
    for (number, name), value in moments(optimizer["state"], shapes).items():
        yield (*at, "state", number, name), 1.0, value
    for extra in optimizer.keys() - {"state", "param_groups", "gossip"}:
        for name, tensors in optimizer[extra].items() if isinstance(optimizer[extra], dict) else ():
            # A list holds tensors that every rank has, a dictionary tensors that some ranks have, by their places.
            each = (
                tensors.items()
                if isinstance(tensors, dict)
                else enumerate(tensors if isinstance(tensors, list) else [])
            )
            for key, value in each:
                if _is_floating(value):
                    yield (*at, extra, name, key), 1.0, value


def _messages_in_flight(state: Any) -> Iterator[list[torch.Tensor]]:
    """Envelope and values of every message that was in flight: it had arrived and was not merged."""
    if isinstance(state, dict):
        for envelope, *values in state.get("arriving", {}).values():
            yield [envelope, *map(CODECS[state.get("wire")].values, values)]
    for part in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _messages_in_flight(part)


def _section_for_new_rank(saved: State, live: State) -> State:
    """A section of the optimizer's state for a new rank: nothing is in flight and every weight is 1."""
    whole = Mass(Stats()).state_dict()
    own = {"places", "runs", "gradients", *whole}
    return {
        **saved,
        **{key: whole.get(key, value) for key, value in live.items() if key in own},
        "averager": _averager_for_new_rank(saved["averager"], live["averager"]),
    }


def _averager_for_new_rank(saved: Any, live: State) -> State:
    """An averager's state for a new rank: it continues the saved counts of rounds."""
    result: State = {}
    for key, value in live.items():
        old = saved.get(key) if isinstance(saved, dict) else None
        if isinstance(value, dict):
            result[key] = _averager_for_new_rank(old, value)
        elif isinstance(value, int) and isinstance(old, int):
            result[key] = old
        else:
            result[key] = [] if key == "aloft" else value
    return result


def _part_of(values: torch.Tensor, slot: State) -> torch.Tensor:
    """The part of a bucket that belongs to one parameter."""
    return values.as_strided(slot["shape"], slot["stride"], values.storage_offset() + slot["start"])


def has_lost_ranks(shard: State) -> bool:
    """Whether ranks had died when it was saved."""
    return any(_get(shard, _place_of(name))["gossip"].get("lost") for name in shard["layouts"])


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _place_of(name: str) -> Place:
    """The place in a shard of the object that was saved under `name`."""
    return (name,) if name in ("model", "optimizer") else ("more", name)


def _places_of(slot: State) -> list[Place]:
    """The places in a shard of one parameter; tied parameters have several."""
    return [(*_place_of(module), name) for module, name in slot["places"]]


def _modules(shard: State) -> list[str]:
    """The names of the model and of other modules with parameters of a saved optimizer."""
    slots = (slot for layout in shard["layouts"].values() for bucket in layout for slot in bucket)
    return list(dict.fromkeys(["model", *(module for slot in slots for module, _ in slot["places"])]))


def _get(state: Any, place: Place) -> Any:
    for key in place:
        state = state[key]
    return state


def _put(state: Any, place: Place, value: Any) -> None:
    _get(state, place[:-1])[place[-1]] = value
