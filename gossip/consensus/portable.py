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
from ..training.state_dicts import OURS, moments
from ..transports.collective.small import packed, unpacked

State = dict[str, Any]
Place = tuple[Any, ...]

PORTABLE = "portable"
"""The key of a state_dict that marks it."""


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

    def sums() -> tuple[Skeletons, dict[Place, torch.Tensor], list[float]]:
        skeletons = Skeletons(skeleton, {place: (value.shape, value.dtype) for place, value in own.items()})
        council.gather(skeletons.packed, skeletons.add)
        totals = {
            place: torch.zeros(shape.numel(), dtype=torch.promote_types(dtype, torch.float32), device=device)
            for place, (shape, dtype) in sorted(skeletons.kinds.items(), key=repr)
        }
        for place, value in own.items():
            totals[place].view(value.shape).copy_(value)
        held = torch.tensor([float(place in own) for place in totals], dtype=torch.float64, device=device)
        council.sum([*totals.values(), held], mass.stats)
        return skeletons, totals, held.tolist()

    device = mass.values[0].device if mass.values else torch.device("cpu")
    skeletons, totals, held = council.together(sums)
    result = skeletons.first
    for (place, total), count in zip(totals.items(), held, strict=True):
        shape, dtype = skeletons.kinds[place]
        mean = torch.empty_like(own[place]) if place in own else torch.empty(shape, dtype=dtype, device=device)
        put(result, place, mean.copy_(total.div_(count).view(shape)))
    result["gossip"]["masters"] = masters
    return {**result, PORTABLE: True}


class Skeletons:
    """The states of several ranks without the tensors that are averaged.

    Attributes:
        first: of the first rank, with counters of other ranks for parameters of which it has no state.
        kinds: shape and dtype of each tensor that any rank has.
    """

    def __init__(self, skeleton: State, kinds: dict[Place, tuple[torch.Size, torch.dtype]]) -> None:
        self.first, self.kinds = skeleton, kinds

    def packed(self) -> bytes:
        """Both, to send."""
        return packed((self.first, self.kinds))

    def add(self, rows: Sequence[bytes]) -> None:
        """Take in what the ranks of a world have packed, by rank."""
        states, kinds = zip(*map(unpacked, rows), strict=True)
        self.first = states[0]
        for state in states[1:]:
            self.first["state"] = {**state["state"], **self.first["state"]}
        self.kinds = {place: kind for each in kinds for place, kind in each.items()}


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


def adopted(state: State, live: Callable[[], State]) -> State:
    """A portable state as that of a rank whose own is `live()`; any other state as it is."""
    if PORTABLE not in state:
        return state
    own = live()
    result = {name: value for name, value in state.items() if name != PORTABLE}
    for section in own.keys() & result.keys() & {*OURS}:
        result[section] = section_for(result[section], own[section])
    return result


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
