"""What happens to the values between two updates: the averagers, as values that compose.

An averager is made once, handed to one optimizer, and then called three times in each step: `land` before the update,
`average` after it for all that ends inside the step, `post` for what travels on while the next step computes. So SGP
and OSGP, local SGD, and averages on top of gossip are the same few lines in the optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from .errors import UsageError
from .mass import Mass
from .mixing import scalar
from .transports import Told
from .world import World

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
        nodes: worlds whose ranks hold the same values and carry messages together, so they make the same updates.
    """

    overlap: int = 0
    worlds: tuple[World, ...] = ()
    every: int = 1
    outlives: bool = True
    lockstep: bool = True
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


class NoAverage(Averager):
    """Leave the values alone: local training, and the no-average variant of SlowMo."""

    def describe(self) -> str:
        return "NoAverage()"


class ExactAverage(Averager):
    """The mean over all ranks, weights honoured, in the step itself.

        z <- Σ_j w_j z_j / Σ_j w_j ,   w <- 1

    A rewrite: it lands everything in flight first. 16-bit values are summed in float32. All ranks end with the same
    bits. Costs 2(n-1)/n of the parameters' bytes a rank.

    Args:
        world: the ranks whose mean is taken, n of them.

    >>> import gossip
    >>> averager = gossip.Every(12, gossip.ExactAverage(gossip.init()))     # local SGD, τ = 12
    """

    def __init__(self, world: World) -> None:
        self.worlds = (world,)
        self._channel = world.channel()
        self._next = 0  # the first step that has not been averaged: what has counted is not done again after a death

    def describe(self) -> str:
        return f"ExactAverage(size={self.worlds[0].size})"

    def average(self, step: int) -> None:
        if not self.due(step) or step < self._next:
            return
        mass = self.mass
        numerators, total, companions = self._channel.together(self._sums)
        self._next = step + 1
        # z = Σ x / Σ w
        for values, x in zip(mass.values, numerators, strict=True):
            x.div_(scalar(total[0]))
            if x is not values:
                values.copy_(x)
        self._share(total, companions)

    def _sums(self) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        """Σ x, Σ w and the sums of the companions over all ranks."""
        mass = self.mass
        numerators = self._numerators()
        companions = self._companions()
        total = mass.weight.clone().reshape(1)
        with self._channel.waiting():
            mass.stats.wait(self._channel.sum([*numerators, total, *companions]))
        return numerators, total, companions

    def _numerators(self) -> list[torch.Tensor]:
        """x = w·z once all has landed: in place where the dtype is wide enough to be summed in."""
        mass = self.mass
        mass.settle()
        mass.look(mass.values)
        numerators = [wide(values) for values in mass.values]
        if self._channel.carrier.parties:  # where the values have to outlive the sum
            pairs = zip(mass.values, numerators, strict=True)
            numerators = [x.clone() if x is values else x for values, x in pairs]
        if not mass.whole:
            for x in numerators:
                x.mul_(scalar(mass.weight))
        return numerators

    def _companions(self) -> list[torch.Tensor]:
        return [wide_copy(tensor.detach().reshape(-1)) for tensor in self.mass.companions]

    def _share(self, total: torch.Tensor, companions: list[torch.Tensor]) -> None:
        """Every rank holds the same: w = Σ w / n, and so for the companions."""
        mass, n = self.mass, self._channel.size
        with torch.no_grad():
            for tensor, summed in zip(mass.companions, companions, strict=True):
                tensor.copy_(summed.div_(n).reshape(tensor.shape))
        # That is 1 for all ranks together, which on a GPU nobody reads; some of them share what they hold together.
        everyone = n == self._channel.carrier.size
        if mass.balanced or (everyone and total.is_cuda) or abs(total.item() / n - 1) < ROUNDING:
            mass.become_whole()
            mass.balanced |= everyone
        else:
            mass.weight = total[0] / n

    def forget(self) -> None:
        self._next = 0


def wide(values: torch.Tensor) -> torch.Tensor:
    """`values` where sums are accurate enough: themselves, or a float32 copy of 16-bit ones."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def wide_copy(values: torch.Tensor) -> torch.Tensor:
    """A copy of `values` where sums are accurate enough."""
    return values.clone() if wide(values) is values else values.float()


class Composite(Averager):
    """An averager made of others: what is asked of it is asked of each of them, in order."""

    def __init__(self, *members: Averager) -> None:
        self.members = members
        self.worlds = tuple(world for member in members for world in member.worlds)
        self.overlap = max((member.overlap for member in members), default=0)
        self.outlives = all(member.outlives for member in members)
        self.lockstep = all(member.lockstep for member in members)
        self.nodes = tuple(node for member in members for node in member.nodes)

    def bind(self, mass: Mass, every: int) -> None:
        for member in self.members:
            member.bind(mass, every)
        super().bind(mass, every)

    def land(self, step: int) -> None:
        for member in self.members:
            member.land(step)

    def average(self, step: int) -> None:
        for member in self.members:
            member.average(step)

    def post(self, step: int) -> None:
        for member in self.members:
            member.post(step)

    def rebind(self) -> None:
        for member in self.members:
            member.rebind()

    def forget(self) -> None:
        for member in self.members:
            member.forget()

    def tell(self) -> State:
        return {str(number): member.tell() for number, member in enumerate(self.members)}

    def weights(self, told: Told) -> dict[int, float]:
        each = [member.weights(part) for member, part in self._parts(told)]
        return {rank: sum(weights[rank] for weights in each) for rank in told}

    def go_on(self, told: Told, scale: float) -> float:
        return sum(member.go_on(part, scale) for member, part in self._parts(told))

    def _parts(self, told: Told) -> list[tuple[Averager, Told]]:
        return [
            (member, {rank: each[str(number)] for rank, each in told.items()})
            for number, member in enumerate(self.members)
        ]

    def state_dict(self) -> State:
        return {str(number): member.state_dict() for number, member in enumerate(self.members)}

    def load_state_dict(self, state: State) -> None:
        for number, member in enumerate(self.members):
            member.load_state_dict(state[str(number)])


class Every(Composite):
    """Let `averager` act in every `period`-th step only. Rounds of gossip count posts, not steps.

    Args:
        period: steps from one to the next; it acts in each step t with (t + 1) mod period = 0.
        averager: what acts then.

    Raises:
        UsageError: a period that is not a whole number of at least 1.

    >>> Every(4, Every(2, NoAverage())).describe()
    'Every(4, Every(2, NoAverage()))'
    """

    def __init__(self, period: int, averager: Averager) -> None:
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise UsageError(f"Every({period!r}, ...): the period is a whole number of steps, at least 1")
        super().__init__(averager)
        self.period = period

    def describe(self) -> str:
        return f"Every({self.period}, {self.members[0].describe()})"

    def bind(self, mass: Mass, every: int) -> None:
        super().bind(mass, every * self.period)


class Chain(Composite):
    """Several averagers, one after another in each step.

    Gossip-PGA is `Chain(PushSum(...), Every(H, ExactAverage(...)))`.

    Args:
        members: in the order in which they act.

    >>> Chain(NoAverage(), Every(2, NoAverage())).describe()
    'Chain(NoAverage(), Every(2, NoAverage()))'
    """

    def describe(self) -> str:
        return f"Chain({', '.join(member.describe() for member in self.members)})"
