"""The methods that are compared, as data: what happens after each update, and what every τ updates."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

import topologies
from gossip import Averager, Every, ExactAverage, GossipOptimizer, NoAverage, PushSum, UsageError, World
from slowmo import SlowMo, StreamingSlowMo

from ..scale import Method as Timed
from .algorithms import Trained
from .unweighted import Unweighted

BASES = {"ar": "AR", "local": "Local", "sgp": "SGP", "osgp": "OSGP"}
OUTERS = {
    "none": "",
    "average": "+average",
    "slowmo": "-SlowMo",
    "noaverage": "-SlowMo-noaverage",
    "streaming": "-SlowMo-streaming",
}
SLOW = ("slowmo", "noaverage", "streaming")
"""Outer steps with slow momentum."""


@dataclass(frozen=True)
class Method:
    """A base optimizer over the ranks, and an outer step around it.

    Attributes:
        base: "ar" averages gradients, "local" averages parameters every `period` steps, "sgp" gossips, and "osgp" does
            so while the next step computes.
        outer: every `period` steps, "average" the parameters exactly, do that with slow momentum ("slowmo"), slow
            momentum without it ("noaverage") or with averages of one part after another, applied a step later
            ("streaming"), or nothing ("none").
        period: τ.
        momentum, rate: β and α of slow momentum.
        buffers: what the outer step does to the base optimizer's state: "maintain", "reset" or "average" it.
        overlap: steps that a round of "osgp" travels; above 1 it posts as rarely.
        graph: who gossips with whom, as `topologies.load` takes it.
        weighted: whether gossip honours the push-sum weight.
        wire: how values of gossip travel, as `PushSum` takes it.

    Raises:
        UsageError: parts that do not go together.

    >>> Method("sgp", "slowmo", period=48, momentum=0.6).title
    'SGP-SlowMo τ=48 β=0.6'
    """

    base: str
    outer: str = "none"
    period: int = 12
    momentum: float = 0.0
    rate: float = 1.0
    buffers: str = "maintain"
    overlap: int = 1
    graph: str = "exponential"
    weighted: bool = True
    wire: str | None = None

    def __post_init__(self) -> None:
        if self.base not in BASES or self.outer not in OUTERS:
            raise UsageError(f"{self.base}-{self.outer} is no method: bases are {[*BASES]}, outer steps {[*OUTERS]}")
        if self.outer not in SLOW and (self.momentum, self.rate) != (0.0, 1.0):
            raise UsageError(f"{self.base}-{self.outer} has no slow momentum, so momentum and rate stay 0 and 1")
        if self.outer in ("none", "streaming") and self.buffers != "maintain":
            raise UsageError(f"{self.base}-{self.outer} has no outer step that could {self.buffers} buffers")
        if not self.gossips and (self.graph, self.weighted, self.wire) != ("exponential", True, None):
            raise UsageError(f"{self.base} does not gossip, so it has no graph, weight or wire")
        if self.overlap != 1 and self.base != "osgp":
            raise UsageError(f"{self.base} does not overlap")
        if self.base == "local" and self.outer == "noaverage":
            raise UsageError("local steps without any average are no method: take sgp or osgp")

    @property
    def gossips(self) -> bool:
        """Whether it uses the graph."""
        return self.base in ("sgp", "osgp")

    @property
    def periodic(self) -> bool:
        """Whether τ matters."""
        return self.outer != "none" or self.base == "local"

    @property
    def title(self) -> str:
        """For tables."""
        name = BASES[self.base] + OUTERS[self.outer]
        said = [f"τ={self.period}"] if self.periodic else []
        said += [f"β={self.momentum:g}"] if self.outer in SLOW else []
        said += [f"α={self.rate:g}"] if self.rate != 1 else []
        said += [self.buffers] if self.buffers != "maintain" else []
        said += [f"overlap {self.overlap}"] if self.base == "osgp" and self.overlap > 1 else []
        said += [self.wire] if self.wire else []
        said += [] if self.weighted else ["without weight"]
        said += [f"on {self.graph.rpartition(':')[2]}"] if self.graph != "exponential" else []
        return " ".join([name, *said])

    def around(self, optimizer: Optimizer, world: World) -> Trained:
        """This method around a base optimizer, on one rank of a world."""
        if self.base == "ar":
            inner = GossipOptimizer(optimizer, NoAverage(), gradients=world)
        elif self.base == "local":
            # With an outer step, its average is that of Local SGD.
            alone = self.outer == "none"
            inner = GossipOptimizer(optimizer, Every(self.period, ExactAverage(world)) if alone else NoAverage())
        else:
            inner = GossipOptimizer(optimizer, self._gossip(world))
        if self.outer == "none":
            return inner
        if self.outer == "streaming":
            return StreamingSlowMo(inner, world, self.period, self.momentum, self.rate)
        averager = NoAverage() if self.outer == "noaverage" else ExactAverage(world)
        return SlowMo(inner, averager, self.period, self.momentum, self.rate, self.buffers)

    def _gossip(self, world: World) -> Averager:
        overlap = self.overlap if self.base == "osgp" else 0
        gossip = PushSum(world, topologies.load(self.graph, world.size), overlap, wire=self.wire)
        averager = gossip if self.weighted else Unweighted(gossip)
        return Every(overlap, averager) if overlap > 1 else averager

    def timed(self, moments: int) -> Timed:
        """As `bench scale` predicts its time, around an optimizer with as many moments of each parameter: averaging
        them as well is an average of that many times the bytes more, and one that streams hides behind computing."""
        streams = self.outer == "streaming"
        averages = self.base == "ar" or (self.base == "local" and not streams) or self.outer in ("average", "slowmo")
        exact = "own" if averages else None
        every = 1 if self.base == "ar" else self.period
        if self.buffers == "average" and every > 1:
            every //= 1 + moments
        overlap = {"sgp": 0, "osgp": 1}.get(self.base)
        return Timed(self.title, overlap, exact, every)
