"""Gossip simulated: the disagreement of the ranks, round by round and message by message."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from topologies.analysis.rounds import SMALL, Rounds, column
from topologies.analysis.spectrum import contraction, is_quick
from topologies.arrays.edges import Floats, Ranks
from topologies.checks import natural
from topologies.errors import TopologyError
from topologies.kinds.circulants import MANY_HOPS, Circulant
from topologies.topology import TOLERANCE, Topology

EXACT = 1e-12
"""An error up to this is rounding: the ranks hold the exact mean."""

SUDDEN = 1e-6
"""A schedule is exact if one round reduces the error at least by this factor; other schedules only converge."""

SCANT = 1e-290
"""The weight below which its digits are lost."""

LIMIT = 10_000
"""The largest number of rounds that `until` simulates."""

WORK = 500_000_000
"""The largest count of numbers that `until` moves, a few seconds."""


@dataclass(frozen=True, eq=False)
class Consensus:
    """The result of `consensus`."""

    size: int
    """The number of ranks n."""
    errors: Floats
    """Shape (rounds + 1,): the disagreement before round 0 and after each round, ‖z - mean‖/‖z₀ - mean‖."""
    messages: Ranks
    """Shape (rounds + 1,): messages that the busiest rank of each round has sent or received, added up."""
    weights: tuple[float, float]
    """The lowest and the highest push-sum weight of any rank after any round.

    (1.0, 1.0) if all rounds are doubly stochastic.
    """

    @property
    def rounds(self) -> int:
        """The number of simulated rounds."""
        return len(self.errors) - 1

    def bytes(self, nbytes: int) -> Ranks:
        """Shape (rounds + 1,): bytes that the busiest network card has carried, for messages of `nbytes`."""
        return self.messages * nbytes

    def rounds_to(self, error: float) -> int | None:
        """The first number of rounds after which the error is at most `error`; None if it stays above."""
        return _first(self.errors <= error)

    def rounds_to_exact(self) -> int | None:
        """The number of rounds after which the error falls to nothing at once; None if it only shrinks."""
        sudden = np.concatenate([[0.0], self.errors[:-1]]) * SUDDEN
        return 0 if self.errors[0] <= EXACT else _first((self.errors <= EXACT) & (self.errors <= sudden))


class State(NamedTuple):
    """The ranks after some rounds."""

    error: float
    """‖z - mean‖/‖z₀ - mean‖."""
    messages: int
    """Messages that the busiest rank of each round has sent or received, added up."""
    low: float
    """The lowest weight so far."""
    high: float
    """The highest weight so far."""


def consensus(topology: Topology, rounds: int, *, seed: int = 0) -> Consensus:
    """Simulate `rounds` rounds of push-sum from random values and compute the disagreement of the ranks.

        x(t + 1) = P(t) x(t),    w(t + 1) = P(t) w(t),    z = x/w,    error(t) = ‖z(t) - mean‖/‖z(0) - mean‖

    The values have a normal distribution, so the error is the remaining part of an average disagreement. For the worst
    disagreement over a period see `contraction`. Messages are those of the busiest rank in each round: the larger of
    its sends and receives, because a network card does both at once. No n×n matrix is made beyond 256 ranks, so 100 000
    ranks take seconds.

    Args:
        topology: the schedule.
        rounds: from 0.
        seed: of the values, from 0.

    Raises:
        TopologyError: other numbers.

    >>> from topologies.analysis import consensus
    >>> run = consensus(topologies.exponential(8), rounds=3)
    >>> run.errors.round(12).tolist()[-1], run.messages.tolist(), run.weights
    (0.0, [0, 1, 2, 3], (1.0, 1.0))

    Source: Kempe, Dobra, Gehrke: Gossip-Based Computation of Aggregate Information, FOCS 2003.
    """
    rounds = natural(rounds, "the number of rounds to simulate")
    seed = natural(seed, "the seed of the values to simulate")
    return _gathered(topology, list(itertools.islice(states(topology, seed), rounds + 1)))


def rounds_to(topology: Topology, error: float, limit: int = 10_000) -> int | None:
    """The number of rounds after which the error of `consensus` is at most `error`; None beyond `limit` rounds.

    With `EXACT` it is the length of a schedule that reaches the mean in finitely many rounds.

    Args:
        topology: the schedule.
        error: above 0.
        limit: the largest number of rounds that are simulated.

    Raises:
        TopologyError: other numbers.

    >>> from topologies.analysis import EXACT, rounds_to
    >>> rounds_to(topologies.exponential(16), EXACT), rounds_to(topologies.ring(16), 0.01)
    (4, 71)
    """
    if not error > 0:
        raise TopologyError(f"an error of {error!r} is never reached: give a number above 0, such as 0.01 or EXACT")
    limit = natural(limit, "the most rounds to simulate")
    for round, state in enumerate(itertools.islice(states(topology), limit + 1)):
        if state.error <= error:
            return round
    return None


def until(topology: Topology, error: float, least: int = 0) -> Consensus:
    """`consensus` until the error is at most `error`, for at least `least` rounds and a few seconds at most.

    The limit is 10 000 rounds, or fewer if the ranks are so many that a round takes milliseconds.
    """
    history = []
    limit = max(least, min(LIMIT, WORK // effort(topology)))
    for round, state in enumerate(itertools.islice(states(topology), limit + 1)):
        history.append(state)
        if state.error <= error and round >= least:
            break
    return _gathered(topology, history)


def left_by_a_period(topology: Topology, run: Consensus) -> float | None:
    """`contraction`, or None if it takes long; 0 if the run became exact within a period."""
    exact = run.rounds_to_exact()
    if topology.period is not None and exact is not None and exact <= topology.period:
        return 0.0
    return contraction(topology) if is_quick(topology) else None


def effort(topology: Topology) -> int:
    """About how many numbers the simulation of a round moves, estimated from round 0."""
    hops = column(topology, 0)
    if hops is not None:
        return topology.size * min(MANY_HOPS, len(hops))
    # Each round of a schedule without a period is computed anew.
    return (topology.size + 3 * len(topology.edges(0).source)) * (1 if topology.period else 3)


def states(topology: Topology, seed: int = 0) -> Iterator[State]:
    """The state before round 0 and after each round, without end."""
    size = topology.size
    # With few ranks, several values at once, or the error would depend more on the draw than on the graph.
    width = 16 if size <= SMALL else 1
    x = np.random.default_rng(seed).normal(size=(size, width) if size <= SMALL else size)
    mean = x.mean(axis=0)
    x = x - mean
    start = float(np.linalg.norm(x)) or 1.0
    w, z = np.ones(size), x
    rounds = Rounds(topology)
    messages, low, high, even = 0, 1.0, 1.0, True
    yield State(float(size > 1), messages, low, high)
    for round in itertools.count():
        step = rounds.of(round)
        x = step.mix(x)
        # Rows of a circulant matrix sum to what its columns sum to.
        if not (even and isinstance(step.operator, Circulant)):
            w = step.mix(w)
            if even and np.abs(w - 1).max() <= TOLERANCE:
                w = np.ones(size)
            else:
                even = False
                low, high = min(low, float(w.min())), max(high, float(w.max()))
        # A rank that never receives keeps its value, even if its weight has become too small to divide by.
        z = x if even else np.divide(x.T, w, out=z.T.copy(), where=w > SCANT).T
        messages += step.load
        yield State(float(np.linalg.norm(z)) / start, messages, low, high)


def _gathered(topology: Topology, history: Sequence[State]) -> Consensus:
    errors = np.array([state.error for state in history])
    messages = np.array([state.messages for state in history], dtype=np.int64)
    return Consensus(topology.size, errors, messages, (history[-1].low, history[-1].high))


def _first(condition: npt.NDArray[np.bool_]) -> int | None:
    places = np.flatnonzero(condition)
    return int(places[0]) if len(places) else None
