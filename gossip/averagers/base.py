"""What happens to the values between two updates: the averagers, as values that compose.

An averager is made once, handed to one optimizer, and then called three times in each step: `land` before the update,
`average` after it for all that ends inside the step, `post` for what travels on while the next step computes. So SGP
and OSGP, local SGD, and averages on top of gossip are the same few lines in the optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..checks import shown
from ..errors import UsageError
from ..state.mass import Mass
from ..transports import Told
from ..world import World

State = dict[str, Any]

ROUNDING = 1e-9
"""How far a weight that is 1 may be from it after any number of rounds."""


class Averager(ABC):
    """Acts on a `Mass` between two updates. Every rank makes the same averagers in the same order.

    Attributes:
        overlap: for how many steps what it posts may travel; 0 where everything ends inside the step.
        worlds: the worlds it speaks in, the outermost first.
        every: it acts in each step t with (t + 1) mod every = 0.
        outlives: whether it can go on without ranks that died.
        lockstep: whether it has all ranks make the same steps.
        levels: worlds whose ranks hold the same values after it, one after another: all together do where every rank of
            one is in the next.
        nodes: worlds whose ranks hold the same values and carry messages together, so they make the same updates.
    """

    overlap: int = 0
    worlds: tuple[World, ...] = ()
    every: int = 1
    outlives: bool = True
    lockstep: bool = True
    levels: tuple[World, ...] = ()
    nodes: tuple[World, ...] = ()
    _mass: Mass | None = None

    @property
    def mass(self) -> Mass:
        """What it acts on."""
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

    def __repr__(self) -> str:
        """As ranks compare it."""
        return self.describe()

    def due(self, step: int) -> bool:
        """Whether it acts in step `step`, counted from 0."""
        return (step + 1) % self.every == 0

    @abstractmethod
    def describe(self) -> str:
        """One line that is the same on every rank exactly when they run the same thing."""

    def land(self, step: int) -> None:
        """Before the update of `step`: merge the flights that are due."""

    def average(self, step: int) -> None:
        """After the update of `step`: everything that ends inside the step."""

    def post(self, step: int) -> None:
        """At the end of `step`: give away what travels on."""

    def rebind(self) -> None:
        """The buckets of the mass have changed, with nothing in flight."""

    def forget(self) -> None:
        """Drop what is in flight, once it has arrived, and begin with the first round."""

    def tell(self) -> State:
        """What the others have to know when a rank has died, everything in flight having been broken off."""
        return {}

    def weights(self, told: Told) -> dict[int, float]:
        """The weight that each rank that is left finds again: given to nobody, or arrived and not merged yet."""
        return dict.fromkeys(told, 0.0)

    def go_on(self, told: Told, scale: float) -> float:
        """Begin again among the ranks that are left, weights times `scale`; what it keeps of `weights`, unmerged."""
        return 0.0

    def state_dict(self) -> State:
        """What it takes to go on, flights that have arrived included, unmerged. Alters nothing."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from there. `forget` comes first."""


def check_averager(averager: Any, sentence: str) -> None:
    """Return where `averager` is one.

    Raises:
        UsageError: `sentence`, with the argument in the place of {}.
    """
    if not isinstance(averager, Averager):
        raise UsageError(sentence.format(shown(averager)))


class NoAverage(Averager):
    """Leave the values alone: local training, and the no-average variant of SlowMo."""

    def describe(self) -> str:
        return "NoAverage()"
