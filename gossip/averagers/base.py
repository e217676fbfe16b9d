"""Averagers: values that compose, and say what happens to the parameters between two updates.

One optimizer calls each of its averagers in every step. `begin` comes before anything changes a value, `land` before
the update. `average` comes after it, for all that ends inside the step. `post` sends messages that travel on while the
next step computes. SGP and OSGP, local SGD, SlowMo's outer step and averages on top of gossip differ in these calls
alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from ..checks import shown
from ..errors import UsageError
from ..passes.forward import ForwardPass
from ..state.mass import Mass
from ..world import World

State = dict[str, Any]


class Averager(ABC):
    """Acts on a `Mass` between two updates. Every rank makes the same averagers in the same order.

    Attributes:
        overlap: steps for which messages that it posts may travel; 0 if everything ends inside the step.
        worlds: the worlds that it communicates in, the outermost first.
        every: it acts in each step t with (t + 1) mod every = 0.
        lockstep: whether all ranks make the same steps.
        unmerged: whether a round that belongs to a step may be merged after it, before the model reads the values.
        levels: worlds that are in consensus after it, innermost first; the whole job if they are nested.
        nodes: worlds whose ranks hold the same values and carry messages together, so they make the same updates.
        members: the averagers that it is made of.
    """

    overlap: int = 0
    worlds: tuple[World, ...] = ()
    every: int = 1
    lockstep: bool = True
    unmerged: bool = False
    levels: tuple[World, ...] = ()
    nodes: tuple[World, ...] = ()
    members: tuple[Averager, ...] = ()
    _mass: Mass | None = None

    @property
    def mass(self) -> Mass:
        """The values and the weight that it acts on."""
        assert self._mass is not None, "bind comes first"
        return self._mass

    def bind(self, mass: Mass, every: int) -> None:
        """Belong to the optimizer of `mass` from now on, and act in every `every`-th step.

        Raises:
            UsageError: it belongs to another optimizer already, or cannot work at this pace.
        """
        if self._mass is not None:
            raise UsageError(
                f"{self.describe()} belongs to another optimizer already: make a new averager for each optimizer"
            )
        self._mass, self.every = mass, every

    def watch(self, forward: ForwardPass) -> None:
        """Follow the model's forward passes. `bind` comes next.

        Raises:
            UsageError: it needs to, and cannot follow those of this model.
        """

    def __repr__(self) -> str:
        """The line that ranks compare."""
        return self.describe()

    def is_due(self, step: int) -> bool:
        """Whether it acts in step `step`, counted from 0."""
        return (step + 1) % self.every == 0

    @abstractmethod
    def describe(self) -> str:
        """One line that is the same on every rank exactly if all of them run the same averager."""

    # -- the step ------------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """Act before anything in `step` changes a value."""

    def land(self, step: int) -> None:
        """Merge the flights that are due, before the update of `step`."""

    def rewrites(self, step: int) -> bool:
        """Whether `average` changes whole values in `step`, so that everything in flight lands first."""
        return False

    def average(self, step: int) -> None:
        """Do everything that ends inside `step`, after its update."""

    def post(self, step: int) -> None:
        """Give away what travels on, at the end of `step`."""

    # -- between steps -------------------------------------------------------------------------------------------------

    def in_flight(self) -> bool:
        """Whether a message in flight reads the values, or will be merged with them as they are."""
        return False

    def arrived(self) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
        """Messages in flight as pairs (w', z'), z' for each bucket, unmerged. Waits for them, and alters nothing."""
        return []

    def settle(self) -> None:
        """Land everything in flight. Every rank calls it."""

    def quiesce(self) -> None:
        """Wait until no flight reads the values."""
        self.mass.quiesce()

    def rebind(self) -> None:
        """Follow the mass to other buckets, nothing being in flight."""

    def forget(self) -> None:
        """Drop messages in flight once they have arrived, and begin with the first round."""

    def state_dict(self) -> State:
        """All that a resumed run needs, flights that have arrived included, unmerged. Alters nothing."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from `state`. `forget` comes first."""


def check_averager(averager: Any, sentence: str) -> None:
    """Check that `averager` is one; else `sentence` says it, with the argument in the place of {}."""
    if not isinstance(averager, Averager):
        raise UsageError(sentence.format(shown(averager)))


class NoAverage(Averager):
    """Leave the values alone: local training, and the no-average variant of SlowMo."""

    def describe(self) -> str:
        return "NoAverage()"
