"""All facts about a topology, in one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from topologies.analysis.consensus import EXACT, effort, left_by_a_period, until
from topologies.analysis.reach import Degrees, degrees, window
from topologies.analysis.rounds import column
from topologies.analysis.spectrum import is_quick, spectral_gap
from topologies.topology import TOLERANCE, Topology
from topologies.validation import APERIODIC_ROUNDS, rounds_of

EDGES = 12_000_000
"""About the largest number of edges of a schedule that `facts` reads."""

FOLLOWED = 3_000_000
"""About the largest number of edges that it follows to find the connectivity window."""

FEWEST = 16
"""The smallest number of judged rounds of a schedule without a period; with a period it is 64, or the period."""


@dataclass(frozen=True)
class Facts:
    """The result of `facts`; None stands for a fact that does not exist, or takes too long for so many ranks."""

    name: str
    """`repr(topology)`."""
    size: int
    """The number of ranks n."""
    period: int | None
    """Rounds until it repeats; None if it never does."""
    judged_rounds: int
    """The number of first rounds behind degrees, messages, stochasticity and symmetry.

    One period, or 64 rounds without a period; fewer if the ranks are many.
    """
    degrees: Degrees
    """Peers of a rank and round."""
    messages_per_round: float
    """Messages that the busiest rank sends, or receives if these are more, in the mean of the judged rounds."""
    doubly_stochastic_rounds: int
    """The number of judged rounds whose rows sum to 1 too, so that weights stay 1."""
    symmetric: bool
    """Whether P = Pᵀ in every judged round."""
    spectral_gap: float | None
    """1 - |λ₂| if one graph serves all rounds."""
    contraction: float | None
    """The part of the worst disagreement that a period leaves."""
    rounds_to_exact: int | None
    """Rounds after which every rank holds the exact mean; None if the ranks only approach it."""
    rounds_to_thousandth: int | None
    """Rounds until an average disagreement has shrunk to 1e-3; None beyond the rounds that `until` simulates."""
    window: int | None
    """The smallest B such that any B rounds in a row connect all ranks."""
    weights: tuple[float, float]
    """The lowest and the highest push-sum weight seen in the simulation, which runs at least over the judged rounds."""

    @property
    def doubly_stochastic(self) -> bool:
        """Whether all judged rounds are doubly stochastic."""
        return self.doubly_stochastic_rounds == self.judged_rounds

    def as_dict(self) -> dict[str, Any]:
        """The facts for JSON: plain numbers, lists, None."""
        return {**asdict(self), "weights": list(self.weights), "doubly_stochastic": self.doubly_stochastic}


def facts(topology: Topology) -> Facts:
    """The results of all other functions of `topologies.analysis` for a topology, in a few seconds.

    Args:
        topology: the schedule, on any number of ranks.

    >>> from topologies.analysis import facts
    >>> found = facts(topologies.exponential(8))
    >>> found.rounds_to_exact, found.degrees.out.high, found.doubly_stochastic, found.spectral_gap
    (3, 1, True, None)
    """
    size, period = topology.size, topology.period
    fewest = FEWEST if period is None else APERIODIC_ROUNDS
    judged = min(rounds_of(topology), max(fewest, EDGES // effort(topology)))
    run = until(topology, EXACT, least=judged)
    return Facts(
        name=repr(topology),
        size=size,
        period=period,
        judged_rounds=judged,
        degrees=degrees(topology, judged),
        messages_per_round=float(run.messages[judged]) / judged,
        doubly_stochastic_rounds=sum(topology.doubly_stochastic(round) for round in range(judged)),
        symmetric=all(_symmetric(topology, round) for round in range(judged)),
        spectral_gap=spectral_gap(topology) if period == 1 and is_quick(topology) else None,
        contraction=left_by_a_period(topology, run),
        rounds_to_exact=run.rounds_to_exact(),
        rounds_to_thousandth=run.rounds_to(1e-3),
        window=window(topology, FOLLOWED),
        weights=run.weights,
    )


def _symmetric(topology: Topology, round: int) -> bool:
    # P = Pᵀ
    hops = column(topology, round)
    if hops is not None:
        return all(abs(share - hops.get(-hop % topology.size, 0.0)) <= TOLERANCE for hop, share in hops.items())
    _, source, target, share = topology.edges(round)
    there, back = source * topology.size + target, target * topology.size + source
    order, other = np.argsort(there), np.argsort(back)
    return bool((there[order] == back[other]).all() and (np.abs(share[order] - share[other]) <= TOLERANCE).all())
