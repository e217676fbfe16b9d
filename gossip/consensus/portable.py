"""The state of an optimizer that any rank of any number of ranks goes on from.

    z <- Σ w z / Σ w     masters of 16-bit parameters
    s <- Σ s / n         SlowMo's anchors and momenta, the base optimizer's moments

Here n is the number of ranks that hold the tensor. Counters, rates and whole numbers are one rank's. Nothing is in
flight, and weights are 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..observe.stats import Stats
from ..state.mass import Mass
from ..training.parameters import Parameters
from ..training.state_dicts import OURS, PORTABLE, moments
from ..transports import Communicator
from ..transports.collective.small import encoded, packed, unpacked

State = dict[str, Any]
Place = tuple[Any, ...]
Kinds = dict[Place, tuple[torch.Size, torch.dtype]]


def tensors_of(state: Mapping[str, Any], shapes: Mapping[int, Sequence[int]]) -> Iterator[tuple[Place, torch.Tensor]]:
    """(place in the state, tensor) of all tensors whose mean over ranks is taken, masters of parameters apart."""
    for (number, name), value in moments(state["state"], shapes).items():
        yield ("state", number, name), value
    for section in sorted(state.keys() & {*OURS} - {"gossip"}):
        for name, tensors in state[section].items():
            # A list holds tensors that every rank has, a dictionary tensors that some ranks have, by their places.
            each = dict(enumerate(tensors)) if isinstance(tensors, list) else tensors
            for key, value in each.items() if isinstance(each, dict) else ():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    yield (section, name, key), value


def put(state: Any, place: Place, value: Any) -> None:
    """Make `value` the entry of nested lists and dictionaries at `place`."""
    for key in place[:-1]:
        state = state[key]
    state[place[-1]] = value


@torch.no_grad()
def portable(state: State, parameters: Parameters, masters: dict[int, torch.Tensor]) -> State:
    """The portable state of all ranks, each of which gives its `state`, and the means of masters."""
    mass = parameters.mass
    shapes = {number: parameter.shape for number, parameter in enumerate(parameters)}
    own = dict(tensors_of(state, shapes))
    council = parameters.council.widest()
    skeleton = _without(state, own)

    def sums() -> tuple[State, Kinds, dict[Place, torch.Tensor], list[float]]:
        first, kinds = skeleton, {place: (value.shape, value.dtype) for place, value in own.items()}
        for channel in council.channels:
            first, kinds = _first(channel, first), _all_kinds(channel, kinds)
        totals = {
            place: torch.zeros(shape.numel(), dtype=torch.promote_types(dtype, torch.float32), device=device)
            for place, (shape, dtype) in sorted(kinds.items(), key=repr)
        }
        for place, value in own.items():
            totals[place].view(value.shape).copy_(value)
        held = torch.tensor([float(place in own) for place in totals], dtype=torch.float64, device=device)
        council.sum([*totals.values(), held], mass.stats)
        return first, kinds, totals, held.tolist()

    device = mass.values[0].device if mass.values else torch.device("cpu")
    result, kinds, totals, held = council.together(sums)
    for (place, total), count in zip(totals.items(), held, strict=True):
        shape, dtype = kinds[place]
        mean = torch.empty_like(own[place]) if place in own else torch.empty(shape, dtype=dtype, device=device)
        put(result, place, mean.copy_(total.div_(count).view(shape)))
    result["gossip"]["masters"] = masters
    return {**result, PORTABLE: True}


def _first(channel: Communicator, skeleton: State) -> State:
    """The state of rank 0 without tensors that are averaged, with what other ranks alone know of a parameter."""
    states = skeleton["state"]
    holders = [unpacked(row) for row in channel.gather(packed(list(states)))]
    known: set[Any] = set()
    alone: dict[Any, Any] = {}
    for rank, numbers in enumerate(holders):
        if rank == channel.rank and rank > 0:
            alone = {number: states[number] for number in numbers if number not in known}
        known.update(numbers)
    payload = torch.frombuffer(bytearray(encoded(skeleton)), dtype=torch.uint8)
    length = max(unpacked(row) for row in channel.gather(packed(len(payload) if channel.rank == 0 else 0)))
    if channel.rank > 0:
        payload = torch.empty(length, dtype=torch.uint8)
    payload = payload.to(channel.home or payload.device)
    channel.broadcast([payload]).wait()
    first: State = unpacked(payload.cpu().numpy().tobytes())
    for row in channel.gather(packed(alone)):
        first["state"] |= unpacked(row)
    return first


def _all_kinds(channel: Communicator, kinds: Kinds) -> Kinds:
    rows = (unpacked(row) for row in channel.gather(packed(kinds)))
    return {place: kind for row in rows for place, kind in row.items()}


def _without(state: State, tensors: Collection[Place]) -> State:
    """A copy of `state` with None in the place of `tensors`, no masters, and nothing in flight."""
    state = {name: section_for(value, value) if name in OURS else value for name, value in state.items()}
    state["gossip"] |= {"masters": {}, "lost": []}
    state = {name: _copied(value) for name, value in state.items()}
    for place in tensors:
        put(state, place, None)
    return state


def _copied(value: Any) -> Any:
    """Dictionaries and lists anew, the rest as it is."""
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def adopted(state: State, name: str, live: Callable[[], State]) -> State:
    """A portable state whose section `name` is that of a rank whose own is `live()`; any other state as it is."""
    if PORTABLE not in state or name not in state:
        return state
    return {**state, name: section_for(state[name], live())}


def section_for(saved: State, live: State) -> State:
    """A section of the state for a rank whose section is `live`: nothing is in flight and every weight is 1."""
    whole = Mass(Stats()).state_dict()
    own = {"places", "runs", "gradients", *whole}
    return {
        **saved,
        **{key: whole.get(key, value) for key, value in live.items() if key in own},
        "averager": _averager_for(saved["averager"], live["averager"]),
    }


def _averager_for(saved: Any, live: State) -> State:
    """An averager's state for a new rank: it continues the saved counts of rounds."""
    result: State = {}
    for key, value in live.items():
        old = saved.get(key) if isinstance(saved, dict) else None
        if isinstance(value, dict):
            result[key] = _averager_for(old, value)
        elif isinstance(value, int) and isinstance(old, int):
            result[key] = old
        else:
            result[key] = [] if key == "aloft" else value
    return result
