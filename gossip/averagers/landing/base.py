"""The interface of a landing strategy: when rounds of gossip are posted and merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from ...passes.forward import ForwardPass
from ...state.mass import Mass
from ..exchange import Exchange


class Landing(ABC):
    """Posts the rounds of one `PushSum` and merges what arrives. The calls are those of `Averager`.

    Args:
        exchange: sends and receives messages.
        overlap: steps that a round may travel.

    Attributes:
        lockstep: whether all ranks make the same steps.
        unmerged: whether the round of a step may be merged after the step.
        round: the number of the next round.
    """

    lockstep = True
    unmerged = False

    def __init__(self, exchange: Exchange, overlap: int) -> None:
        self.exchange, self.overlap = exchange, overlap
        self.round = 0
        self.every = 1

    def bind(self, every: int, mass: Mass) -> None:
        """Exchange the values of `mass`, and post in every `every`-th step.

        Raises:
            UsageError: it cannot work at this pace.
        """
        self.every = every
        self.exchange.bind(mass)

    def watch(self, forward: ForwardPass) -> None:
        """Follow the model's forward passes."""

    @abstractmethod
    def land(self, step: int) -> None:
        """Merge the messages that are due, before the update of `step`."""

    @abstractmethod
    def average(self, step: int) -> None:
        """Do everything that ends inside `step`, after its update."""

    @abstractmethod
    def post(self, step: int) -> None:
        """Give away what travels on, at the end of `step`."""

    @abstractmethod
    def in_flight(self) -> bool:
        """Whether a message in flight reads the values, or will be merged with them as they are."""

    @abstractmethod
    def arrived(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Messages in flight as pairs (w', z'), decoded and unmerged. Waits for them; alters nothing."""

    @abstractmethod
    def settle(self) -> None:
        """Land everything in flight. Every rank calls it."""

    def quiesce(self) -> None:
        """Wait until no flight reads the values."""
        self.exchange.mass.quiesce()

    def rebind(self) -> None:
        """Follow the mass to other buckets, nothing being in flight."""
        assert not self.in_flight(), "the buckets change with nothing in flight"
        self.exchange.reset()

    @abstractmethod
    def forget(self) -> None:
        """Drop messages in flight once they have arrived, and begin with the first round."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs. Alters nothing."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. `forget` comes first."""
