"""Any torch optimizer as the outer one: it steps on the anchors, whose gradient is the distance travelled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from gossip import GossipOptimizer, UsageError
from gossip.state.buckets.bucket import Bucket

from .memory import Memory
from .rule import Part, Rule

MakeOuter = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
"""Takes the anchors and returns the optimizer that steps on them."""


class OuterOptimizer(Rule):
    """x_{t+1,0} = one step of a torch optimizer on x_{t,0} with the gradient d = x_{t,0} − x_{t,τ}.

    The optimizer's parameters have the shapes of the model's; what a part holds only a piece of is flat. In a step for
    some parts the parameters of the others have no gradient.

    Args:
        make: called once with all anchors.

    Attributes:
        optimizer: what it returned; its learning rate may be scheduled.

    Raises:
        UsageError: it returned no torch optimizer, or one that needs closures.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, memory: Memory, make: MakeOuter) -> None:
        super().__init__(memory)
        if not callable(make):
            raise UsageError(
                f"outer is a {type(make).__name__}: give it what makes an optimizer of parameters, such as "
                "functools.partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)"
            )
        self._make = make
        self._rooms: list[torch.Tensor] = []
        self._pieces: list[list[tuple[slice, torch.nn.Parameter]]] = []
        self._kept = 0

    def describe(self) -> str:
        groups = dict.fromkeys(
            ", ".join(f"{name}={_told(value)}" for name, value in sorted(group.items()) if name != "params")
            for group in self.optimizer.param_groups
        )
        return f"outer={type(self.optimizer).__name__}({'; '.join(groups)})"

    def options(self) -> dict[str, Any]:
        return {"outer": self._made}

    def begin(self, parts: Sequence[Part], buckets: Sequence[Bucket]) -> None:
        for part in parts:
            self._make_room(part, buckets[part.bucket])
        made = self._make([parameter for pieces in self._pieces for _, parameter in pieces])
        if not isinstance(made, torch.optim.Optimizer) or isinstance(made, GossipOptimizer):
            raise UsageError(f"outer made a {type(made).__name__}, which is no plain torch.optim.Optimizer")
        if isinstance(made, torch.optim.LBFGS):
            raise UsageError("outer=LBFGS evaluates a closure, and an outer step has none: take another optimizer")
        self.optimizer = made
        self._made = self.describe()
        self._fresh = copy.deepcopy(made.state_dict()["state"])

    def _make_room(self, part: Part, bucket: Bucket) -> None:
        room = self.memory.room(bucket.values[part.start : part.stop]).zero_()
        pieces = []
        for slot in bucket.slots:
            first, last = max(slot.start, part.start) - part.start, min(slot.stop, part.stop) - part.start
            if first < last:
                flat, whole = room[first:last], last - first == slot.stop - slot.start
                shaped = _shaped(flat, slot.parameter) if whole else flat
                pieces.append((slice(first, last), torch.nn.Parameter(shaped)))
        self._rooms.append(room)
        self._pieces.append(pieces)

    def forget(self) -> None:
        self._kept = 0
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": copy.deepcopy(self._fresh), "param_groups": groups})

    def keep(self, part: Part, bucket: Bucket) -> torch.Tensor:
        if self._kept == len(self._rooms):  # a parameter group that joined later
            self._make_room(part, bucket)
            joined = [parameter for _, parameter in self._pieces[-1]]
            self.optimizer.param_groups[-1]["params"].extend(joined)
        self._kept += 1
        return self._rooms[self._kept - 1]

    def move_(self, values: Mapping[int, torch.Tensor], ratios: Sequence[float | None]) -> None:
        for number, x in values.items():
            room = self._rooms[number]
            # d = x_{t,0} − x_{t,τ}, in the memory of x where that fits: x_{t+1,0} takes it below
            d = x.to(room.device, room.dtype)
            torch.sub(room, d, out=d)
            for where, parameter in self._pieces[number]:
                parameter.grad = _shaped(d[where], parameter)
        self.optimizer.step()
        for number, x in values.items():
            for _, parameter in self._pieces[number]:
                parameter.grad = None
            x.copy_(self._rooms[number])

    # -- checkpoints: floating-point tensors apart, by name, so that those of several ranks have a mean ----------------

    def state_dict(self) -> dict[str, Any]:
        state = copy.deepcopy(self.optimizer.state_dict())
        moments = {
            f"{number}:{name}": entries.pop(name)
            for number, entries in state["state"].items()
            for name, value in list(entries.items())
            if torch.is_tensor(value) and value.is_floating_point() and value.dim()
        }
        return {"momenta": [], "outer": state, "outer_kind": type(self.optimizer).__name__, "outer_moments": moments}

    def check_own(self, state: Mapping[str, Any]) -> None:
        if "outer" not in state:
            raise UsageError(
                f"this state has slow momenta and no state of {type(self.optimizer).__name__}, the outer optimizer "
                "here: it was saved without outer=..."
            )
        if state["outer_kind"] != type(self.optimizer).__name__:
            raise UsageError(
                f"this state has that of {state['outer_kind']} as the outer optimizer, and here it is "
                f"{type(self.optimizer).__name__}: make it with the same class"
            )

    def with_own_options(self, state: Mapping[str, Any]) -> dict[str, Any]:
        groups = self.optimizer.state_dict()["param_groups"]
        return {**state, "outer": {**state["outer"], "param_groups": groups}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        merged = copy.deepcopy(dict(state["outer"]))
        for key, value in state["outer_moments"].items():
            number, name = key.split(":", 1)
            merged["state"][int(number)][name] = value.clone()
        self.optimizer.load_state_dict(merged)


def _told(value: object) -> str:
    """An option, alike on all ranks: a number in a tensor by its value, a function by its name."""
    if torch.is_tensor(value):
        value = value.tolist()
    return getattr(value, "__qualname__", None) or repr(value)


def _shaped(flat: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`flat` with the shape and strides of `parameter`, which is dense and has as many elements."""
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset())
