"""The methods that are compared: how each is built around an optimizer, and what it communicates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch.nn import Module
from torch.optim import Optimizer

import topologies
from gossip import Averager, Every, ExactAverage, GossipOptimizer, NoAverage, PushSum, UsageError, World
from gossip.averagers.composition import Composite
from slowmo import SlowMo, StreamingSlowMo
from slowmo.outer.wrapper import Outer

Trained = GossipOptimizer | Outer

BASES = {
    "none": "no communication",
    "ar": "AR",
    "exact": "exact average",
    "local": "Local",
    "sgp": "SGP",
    "osgp": "OSGP",
    "hier": "hierarchical SGP",
    "hier-parts": "hierarchical SGP, in parts",
}
OUTERS = {
    "none": "",
    "average": "+average",
    "slowmo": "-SlowMo",
    "noaverage": "-SlowMo-noaverage",
    "streaming": "-SlowMo-streaming",
    "eighths": "-SlowMo-eighths",
}
STREAMING = ("streaming", "eighths")
SLOW = ("slowmo", "noaverage", *STREAMING)  # outer steps with slow momentum


class Traffic(NamedTuple):
    """The messages that a method sends."""

    overlap: int | None = None  # updates that a round of gossip travels, 0 for SGP and 1 for OSGP; None without gossip
    averages: tuple[int, ...] = ()  # periods of the exact averages of the model: (1,) for AR-SGD, (τ,) for Local SGD
    collective: str = "own"  # how these averages go, by its name in `scale.machine`

    @property
    def blocking(self) -> bool:
        """Whether nothing is in flight between two steps."""
        return self.overlap != 1

    @property
    def window(self) -> int:
        """Updates after which the same is sent again."""
        return max(self.averages, default=1)


@dataclass(frozen=True)
class Method:
    """A base optimizer over the ranks, and an outer step around it.

    base: "ar" averages gradients. "exact" averages parameters in every step, and "local" every `period` steps. "sgp"
    gossips, and "osgp" gossips while the next step computes. "hier" averages gradients on each host and gossips between
    hosts, over the exponential graph.

    outer: every `period` steps, "average" the parameters exactly, do that with slow momentum ("slowmo"), slow momentum
    without it ("noaverage"), or nothing ("none"). Two average one part of the model after another: "streaming" applies
    each a step later, "eighths" sends eighths that travel for four steps.
    """

    base: str
    outer: str = "none"
    period: int = 12  # τ
    momentum: float = 0.0  # β of slow momentum
    rate: float = 1.0  # α of slow momentum
    buffers: str = "maintain"  # the outer step does this to the base optimizer's state: "maintain", "reset", "average"
    overlap: int = 1  # steps that a round of "osgp" travels; above 1 it posts as rarely, unless it lands by arrival
    graph: str = "exponential"  # the SPEC that `topologies.load` takes
    weighted: bool = True  # whether gossip honours the push-sum weight
    wire: str | None = None  # how values of gossip travel, as `PushSum` takes it
    landing: str | None = None  # when rounds land, as `PushSum` takes it; None for when they are due
    label: str | None = None  # the name in tables; None for one that follows from the other attributes

    def __post_init__(self) -> None:
        if self.base not in BASES or self.outer not in OUTERS:
            raise UsageError(f"{self.base}-{self.outer} is no method: bases are {[*BASES]}, outer steps {[*OUTERS]}")
        if self.outer not in SLOW and (self.momentum, self.rate) != (0.0, 1.0):
            raise UsageError(f"{self.base}-{self.outer} has no slow momentum, so momentum and rate stay 0 and 1")
        if self.outer in ("none", *STREAMING) and self.buffers != "maintain":
            raise UsageError(f"{self.base}-{self.outer} has no outer step that could {self.buffers} buffers")
        if not self.gossips and (self.graph, self.weighted, self.wire) != ("exponential", True, None):
            raise UsageError(f"{self.base} does not gossip, so it has no graph, weight or wire")
        if (self.overlap, self.landing) != (1, None) and self.base != "osgp" and self.landing != "forward":
            raise UsageError(f"{self.base} does not overlap")
        if self.base == "local" and self.outer == "noaverage":
            raise UsageError("local steps without any average are no method: take sgp or osgp")

    @property
    def gossips(self) -> bool:
        """Whether it uses the graph."""
        return self.base in ("sgp", "osgp")

    @property
    def periodic(self) -> bool:
        """Whether something happens in every τ-th update only."""
        return self.outer != "none" or self.base == "local"

    @property
    def blocking(self) -> bool:
        """Whether nothing is in flight between two steps."""
        return self.base != "osgp" and self.landing != "forward" and self.outer not in STREAMING

    @property
    def title(self) -> str:
        """For tables."""
        if self.label is not None:
            return self.label
        said = [BASES[self.base] + OUTERS[self.outer]]
        said += [f"τ={self.period}"] if self.periodic else []
        said += [f"β={self.momentum:g}"] if self.outer in SLOW else []
        said += [f"α={self.rate:g}"] if self.rate != 1 else []
        said += [self.buffers] if self.buffers != "maintain" else []
        said += [f"overlap {self.overlap}"] if self.overlap > 1 else []
        said += [self.wire] if self.wire else []
        said += [] if self.weighted else ["without weight"]
        said += [f"on {self.graph.rpartition(':')[2]}"] if self.graph != "exponential" else []
        return " ".join(said)

    def over(self, graph: str, period: int) -> Method:
        """The same with another τ and, where it gossips, over another graph."""
        return replace(self, period=period, graph=graph if self.gossips else self.graph)

    def around(self, optimizer: Optimizer, world: World, module: Module | None = None) -> Trained:
        """This method around a base optimizer, on one rank of a world."""
        gradients = {"ar": world, "hier": world.node, "hier-parts": world.node}.get(self.base)
        inner = GossipOptimizer(optimizer, self._averager(world), gradients=gradients, module=module)
        if self.outer == "none":
            return inner
        if self.outer in STREAMING:
            shards, delay = (min(8, self.period), min(4, self.period)) if self.outer == "eighths" else (None, 1)
            return StreamingSlowMo(inner, world, self.period, self.momentum, self.rate, shards=shards, delay=delay)
        averager = NoAverage() if self.outer == "noaverage" else ExactAverage(world)
        return SlowMo(inner, averager, self.period, self.momentum, self.rate, self.buffers)

    def _averager(self, world: World) -> Averager:
        if self.base == "exact":
            return ExactAverage(world)
        if self.base == "local" and self.outer == "none":  # an outer step brings the average of Local SGD itself
            return Every(self.period, ExactAverage(world))
        if self.base in ("hier", "hier-parts"):
            node = world.node if self.base == "hier-parts" else None
            return PushSum(world.across, topologies.exponential(world.across.size), node=node)
        if not self.gossips:
            return NoAverage()
        overlap = self.overlap if self.base == "osgp" else 0
        graph = topologies.load(self.graph, world.size)
        gossip = PushSum(world, graph, overlap, self.landing or "due", wire=self.wire)
        averager = gossip if self.weighted else Unweighted(gossip)
        return Every(overlap, averager) if overlap > 1 and self.landing is None else averager

    def traffic(self, moments: int = 0, collective: str = "own") -> Traffic:
        """The messages of each update and of every τ-th; `buffers="average"` sends `moments` with each parameter.

        The averages of a streaming outer step hide behind the computing and count as nothing.
        """
        averages = [1] if self.base in ("ar", "exact") else []
        if self.outer in ("average", "slowmo") or (self.base, self.outer) == ("local", "none"):
            averages.append(self.period // (1 + moments) if self.buffers == "average" else self.period)
        return Traffic({"sgp": 0, "osgp": 1}.get(self.base), tuple(averages), collective)


class Unweighted(Composite):
    """Gossip that takes every rank's weight for 1: z_i <- Σ_j P[i,j] z_j / Σ_j P[i,j], which is wrong without push-sum.

    Rows of this matrix sum to 1 and columns need not. So ranks agree, but each round moves the mean, and ranks with
    many out-peers count for more (Assran et al., ICML 2019, arXiv 1811.10792, section 2). Where P is doubly stochastic
    it is push-sum itself.
    """

    def describe(self) -> str:
        return f"Unweighted({self.members[0].describe()})"

    def land(self, step: int) -> None:
        super().land(step)
        self._forget_weight()

    def average(self, step: int) -> None:
        super().average(step)
        self._forget_weight()

    def _forget_weight(self) -> None:
        """w <- 1, once what was in flight has landed."""
        if self.mass.rounds_in_flight == 0:
            self.mass.set_one()


def _slow(base: str, outer: str, label: str) -> Method:
    return Method(base, outer, momentum=0.5, buffers="maintain" if outer in STREAMING else "reset", label=label)


METHODS = {
    "none": Method("none"),
    "ar": Method("ar", label="AR-SGD"),
    "exact": Method("exact"),
    "sgp": Method("sgp", label="SGP"),
    "sgp-forward": Method("sgp", landing="forward", label="SGP, landing in forward"),
    "sgp-bf16": Method("sgp", wire="bfloat16", label="SGP, bfloat16"),
    "sgp-int8": Method("sgp", wire="int8", label="SGP, int8"),
    "hier": Method("hier"),
    "hier-parts": Method("hier-parts"),
    "osgp": Method("osgp", label="OSGP"),
    "osgp-int8": Method("osgp", wire="int8", label="OSGP, int8"),
    "local": Method("local", label="Local SGD"),
    "ar-slowmo": _slow("ar", "slowmo", "AR-SlowMo"),
    "local-slowmo": _slow("local", "slowmo", "Local-SlowMo"),
    "sgp-slowmo": _slow("sgp", "slowmo", "SGP-SlowMo"),
    "osgp-slowmo": _slow("osgp", "slowmo", "OSGP-SlowMo"),
    "sgp-noaverage": _slow("sgp", "noaverage", "SGP-SlowMo-noaverage"),
    "osgp-noaverage": _slow("osgp", "noaverage", "OSGP-SlowMo-noaverage"),
    "local-streaming": _slow("local", "streaming", "Local-SlowMo, streaming"),
    "osgp-streaming": _slow("osgp", "streaming", "OSGP-SlowMo, streaming"),
    "local-eighths": _slow("local", "eighths", "Local-SlowMo, in eighths"),
    "osgp-eighths": _slow("osgp", "eighths", "OSGP-SlowMo, in eighths"),
}
"""The methods that commands offer by name; `Method.over` gives them τ and a graph."""
