"""What all shards of a checkpoint hold together, taken in one after another, for any other number of ranks.

    z <- Σ w z / Σ w     parameters or their masters, over what the ranks held and what was in flight, weights honoured
    s <- Σ s / n         SlowMo's anchors and momenta, the base optimizer's moments, floating-point buffers; n counts
                         the ranks that hold the element, where each has its part

Where all ranks hold the same bits, these are the bits that come out. Counters, rates and whole numbers are rank 0's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..errors import CheckpointError
from ..mass import Mass
from ..mixing import wide_copy
from ..moments import moments
from ..stats import Stats
from ..wire import WIRES

State = dict[str, Any]
Place = tuple[Any, ...]


class Mean:
    """A mean to which values come one by one, in float32 or wider."""

    def __init__(self, values: torch.Tensor, weight: float) -> None:
        self._dtype = values.dtype
        self._values = wide_copy(values)
        self._weight = weight

    def take(self, values: torch.Tensor, weight: float) -> None:
        """Merge, as ranks do it."""
        # w <- w + w' ;   z <- z + (w'/w)·(z' − z)
        self._weight += weight
        self._values.lerp_(values.to(self._values.dtype), weight / self._weight)

    def result(self) -> torch.Tensor:
        """The mean, in the dtype that the values came in."""
        return self._values.to(self._dtype)


class Consensus:
    """Takes in the shards of all ranks, and holds the means and one shard meanwhile.

    Args:
        counterpart: the rank whose other things, such as a scheduler, are taken.
    """

    def __init__(self, counterpart: int = 0) -> None:
        self._counterpart = counterpart
        self._first: State = {}
        self._more: State = {}
        self._means: dict[Place, Mean] = {}

    def take(self, shard: State) -> None:
        """One more shard, rank 0's first."""
        first = self._first = self._first or shard
        if shard["layout"] != first["layout"]:
            raise CheckpointError(f"ranks 0 and {shard['rank']} saved different parameters")
        if shard["rank"] == self._counterpart:
            self._more = shard["more"]
        for number, entries in shard["optimizer"]["state"].items():
            first["optimizer"]["state"].setdefault(number, entries)
        places = []
        for place, weight, values in _holdings(shard):
            if place in self._means:
                self._means[place].take(values, weight)
            else:
                self._means[place] = Mean(values, weight)
            places.append(place)
        for place in places:  # they are held once
            _put(first, place, None)

    def model(self) -> State:
        """The model's state_dict."""
        self._fill()
        state: State = self._first["model"]
        for number, values in self._first["optimizer"]["gossip"].get("masters", {}).items():
            for slot in self._first["layout"][number]:
                name = slot["names"][0]
                state[name] = _own(values, slot).to(state[name].dtype, copy=True)
        for slot in (slot for bucket in self._first["layout"] for slot in bucket):
            state.update((name, state[slot["names"][0]]) for name in slot["names"])
        return state

    def shard(self, live: State) -> State:
        """What each of the new ranks goes on from, `live` being the state of its new optimizer."""
        self.model()
        self._first["more"] = self._more
        optimizer = self._first["optimizer"]
        for name in (live.keys() & optimizer.keys()) - {"state", "param_groups"}:
            optimizer[name] = _renewed(optimizer[name], live[name])
        return self._first

    def _fill(self) -> None:
        for place, mean in self._means.items():
            _put(self._first, place, mean.result())
        self._means.clear()


def _holdings(shard: State) -> Iterator[tuple[Place, float, torch.Tensor]]:
    """Every tensor that enters a mean: its place in the shard, its weight, and itself."""
    optimizer, model, layout = shard["optimizer"], shard["model"], shard["layout"]
    slots = [slot for bucket in layout for slot in bucket]
    masters = optimizer["gossip"].get("masters", {})
    for slot in (slot for number, bucket in enumerate(layout) if number not in masters for slot in bucket):
        yield ("model", slot["names"][0]), optimizer["gossip"]["weight"], model[slot["names"][0]]
    for number, values in masters.items():
        yield ("optimizer", "gossip", "masters", number), optimizer["gossip"]["weight"], values
    for envelope, *arrived in _arrived(optimizer):
        for number, (bucket, values) in enumerate(zip(layout, arrived, strict=True)):
            if number in masters:
                yield ("optimizer", "gossip", "masters", number), envelope[0].item(), values
            else:
                for slot in bucket:
                    yield ("model", slot["names"][0]), envelope[0].item(), _own(values, slot)
    averaged = {name for slot in slots for name in slot["names"]}
    for name, value in model.items():
        if name not in averaged and _floating(value):
            yield ("model", name), 1.0, value
    shapes = {slot["number"]: tuple(slot["shape"]) for slot in slots}
    for (number, name), value in moments(optimizer["state"], shapes).items():
        yield ("optimizer", "state", number, name), 1.0, value
    for extra in optimizer.keys() - {"state", "param_groups", "gossip"}:
        for name, tensors in optimizer[extra].items():
            # A list is of tensors that every rank has, a dictionary of those that only some have, by where they belong.
            each = (
                tensors.items()
                if isinstance(tensors, dict)
                else enumerate(tensors if isinstance(tensors, list) else [])
            )
            for key, value in each:
                if _floating(value):
                    yield ("optimizer", extra, name, key), 1.0, value


def _arrived(state: Any) -> Iterator[list[torch.Tensor]]:
    """Envelope and values of every message that was in flight: it had arrived, and was not merged yet."""
    if isinstance(state, dict):
        for envelope, *values in state.get("arriving", {}).values():
            yield [envelope, *map(WIRES[state.get("wire")].values, values)]
    for part in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _arrived(part)


def _renewed(saved: State, live: State) -> State:
    """A section of the optimizer's state on the new ranks: nothing is in flight and every weight is 1."""
    whole = Mass(Stats()).state_dict()
    own = {"places", "runs", *whole}
    return {
        **saved,
        **{key: whole.get(key, value) for key, value in live.items() if key in own},
        "averager": _rounds(saved["averager"], live["averager"]),
    }


def _rounds(saved: Any, live: State) -> State:
    """An averager's state on the new ranks: rounds go on counting where the same place counted them."""
    result: State = {}
    for key, value in live.items():
        old = saved.get(key) if isinstance(saved, dict) else None
        if isinstance(value, dict):
            result[key] = _rounds(old, value)
        elif isinstance(value, int) and isinstance(old, int):
            result[key] = old
        else:
            result[key] = [] if key == "aloft" else value
    return result


def _own(values: torch.Tensor, slot: State) -> torch.Tensor:
    """The part of a bucket that is one parameter's."""
    return values.as_strided(slot["shape"], slot["stride"], values.storage_offset() + slot["start"])


def _floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _put(state: Any, place: Place, value: Any) -> None:
    for key in place[:-1]:
        state = state[key]
    state[place[-1]] = value
