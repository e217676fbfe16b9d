"""The outer step on anchors: slow momentum, which is the method's own; `outer_optimizer` is any other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from gossip import UsageError
from gossip.state.buckets.bucket import Bucket

from ..refusals import check_momentum, check_rate
from .memory import Memory


class Part(NamedTuple):
    """Elements start..stop−1 of a bucket, of which an anchor and a momentum are kept together."""

    bucket: int
    start: int
    stop: int


class Rule(ABC):
    """Makes x_{t+1,0} from the anchor x_{t,0} and x_{t,τ}, and keeps what goes from one outer iteration to the next.

    Attributes:
        memory: where anchors rest.
        momenta: m = γu, one for each part; none where the rule has other state.
        momentum, lr, nesterov: β, α and its kind; None where the rule has other options.
    """

    momentum: float | None = None
    lr: float | None = None
    nesterov: bool | None = None

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.momenta: list[torch.Tensor] = []

    @abstractmethod
    def describe(self) -> str:
        """Its options, for the ranks to compare."""

    def options(self) -> dict[str, Any]:
        """More options by which a state is compared."""
        return {}

    def with_own_options(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A saved state with the options of this rule in the place of its own."""
        return dict(state)

    def begin(self, parts: Sequence[Part], buckets: Sequence[Bucket]) -> None:
        """The parts that there are at first, before any anchor is taken."""

    @abstractmethod
    def keep(self, part: Part, bucket: Bucket) -> torch.Tensor:
        """The memory for the anchor of the next part, which is kept from now on."""

    @abstractmethod
    def move_(self, values: Mapping[int, torch.Tensor], ratios: Sequence[float | None]) -> None:
        """The outer step on some parts, by number: x_{t,τ} in `values` becomes x_{t+1,0}, and so does the anchor.

        ratios: r of each parameter group, None where nothing was learned.
        """

    @abstractmethod
    def forget(self) -> None:
        """As before the first anchor."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs beside the anchors."""

    @abstractmethod
    def check_own(self, state: Mapping[str, Any]) -> None:
        """Before anything is changed: refuse the state of another kind of outer step."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, the anchors being kept already."""


class SlowMomentum(Rule):
    """SlowMo's own outer step, with or without Nesterov momentum.

    Args:
        momentum: β, in [0, 1).
        lr: α, above 0.
        nesterov: as in `SlowMo`.

    Raises:
        UsageError: options that cannot work.
    """

    def __init__(self, memory: Memory, momentum: float, lr: float, nesterov: bool) -> None:
        super().__init__(memory)
        self.momentum: float = check_momentum(momentum)
        self.lr: float = check_rate(lr)
        self.nesterov: bool = bool(nesterov)
        self.forget()

    def describe(self) -> str:
        return f"momentum={self.momentum}, lr={self.lr}, nesterov={self.nesterov}"

    def forget(self) -> None:
        self.momenta = []
        self._anchors: list[torch.Tensor] = []
        self._places: list[tuple[Part, Bucket]] = []

    def keep(self, part: Part, bucket: Bucket) -> torch.Tensor:
        values = bucket.values[part.start : part.stop]
        self._anchors.append(self.memory.room(values))
        self.momenta.append(self.memory.room(values).zero_())
        self._places.append((part, bucket))
        return self._anchors[-1]

    def move_(self, values: Mapping[int, torch.Tensor], ratios: Sequence[float | None]) -> None:
        for number, x in values.items():
            self.memory.before(x)
            part, bucket = self._places[number]
            for group, where in bucket.segments(part.start, part.stop):  # anew: a parameter may have changed its group
                for piece in self.memory.pieces(where):
                    self._visit(x[piece], self._anchors[number][piece], self.momenta[number][piece], ratios[group])
            self.memory.after(x)

    def _visit(self, values: torch.Tensor, anchor: torch.Tensor, m: torch.Tensor, r: float | None) -> None:
        """The outer step on one piece, on the device of `values`."""
        there_anchor, there_m = (tensor.to(values.device, non_blocking=True) for tensor in (anchor, m))
        self._step_(values, there_anchor, there_m, r)
        if there_anchor.device != anchor.device:
            anchor.copy_(there_anchor, non_blocking=True)
            m.copy_(there_m, non_blocking=True)

    def _step_(self, values: torch.Tensor, anchor: torch.Tensor, m: torch.Tensor, r: float | None) -> None:
        """The outer step on what one group has of a part, in the dtype of the anchor.

        With d = x_{t,0} − x_{t,τ}:    m' = βr·m + d ;    x_{t+1,0} = x_{t,τ} + (1−α)·d − αβr·m
        and with Nesterov:                                x_{t+1,0} = x_{t,τ} + (1−α)·d − αβ·m'
        """
        if r is None:
            anchor.copy_(values)
            return
        α, β = self.lr, self.momentum
        x = values if values.dtype == anchor.dtype else values.to(anchor.dtype)
        d = anchor.sub_(x)  # the anchor's memory, which x_{t+1,0} takes below
        # A term whose factor is 0 is left out: x_{t,τ} stays bit for bit with β = 0 and α = 1.
        if β and not self.nesterov:
            x.add_(m, alpha=-α * β * r)
        m.mul_(β * r).add_(d)
        if β and self.nesterov:
            x.add_(m, alpha=-α * β)
        if α != 1:
            x.add_(d, alpha=1 - α)
        anchor.copy_(x)
        if x is not values:
            values.copy_(x)

    def state_dict(self) -> dict[str, Any]:
        self.memory.wait()
        return {"momenta": [m.clone() for m in self.momenta]}

    def check_own(self, state: Mapping[str, Any]) -> None:
        if "outer" in state:
            raise UsageError(
                "this state has that of an outer optimizer, and here are slow momenta: it was saved with outer=..., "
                "which has to be given again"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.wait()
        for m, saved in zip(self.momenta, state["momenta"], strict=True):
            m.copy_(saved)
