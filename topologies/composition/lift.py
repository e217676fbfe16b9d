"""A graph of hosts combined with a graph inside each host."""

from __future__ import annotations

import operator

import numpy as np

from topologies.checks import positive
from topologies.composition.composed import Arranged
from topologies.composition.order import Interleaved
from topologies.composition.side_by_side import SideBySide
from topologies.errors import TopologyError
from topologies.kinds.circulants import Columns, uniform
from topologies.topology import Topology
from topologies.validation import validate, validated


class Lifted(Arranged):
    """The schedule that `lift` returns."""

    def __init__(self, outer: Topology, inner: Topology, rounds: int) -> None:
        """`rounds`: inner rounds before each outer one."""
        # Row a has the ranks of node a.
        ranks = np.arange(outer.size * inner.size).reshape(outer.size, inner.size)
        self.schedule = two_levels(SideBySide([(inner, ranks)]), rounds, SideBySide([(outer, ranks.T)]))
        super().__init__(self.schedule.size, self.schedule.period, [outer, inner])
        self.rounds = rounds

    def at(self, round: int) -> tuple[Topology, int]:
        return self.schedule.at(round)

    def options(self) -> str:
        return f"rounds={self.rounds}"


def two_levels(inside: SideBySide, rounds: int, across: SideBySide) -> Interleaved:
    """In each cycle `rounds` rounds inside the hosts and one round across them.

    A level whose groups all have a single rank takes no round.
    """
    levels = [(inside, rounds), (across, 1)]
    busy = [level for level in levels if any(members.shape[1] > 1 for _, members in level[0].blocks)]
    return Interleaved(*zip(*busy or levels[:1], strict=True))


def lift(outer: Topology, inner: Topology | int, rounds: int | None = None) -> Lifted:
    """A graph of m nodes and a graph of the k ranks of a node, combined to a graph of m · k ranks.

    Rank a·k + l is local rank l of node a. In each cycle all nodes run some rounds of `inner` inside. Then each local
    rank runs one round of `outer` with the ranks of the same l on the other nodes:

        P = I_m ⊗ P_inner(s)    and then    P = P_outer(c) ⊗ I_k    in cycle c

    A level of one rank takes no round: over nodes of one rank the result is `outer` itself. For hosts with different
    numbers of ranks see `topologies.node_aware`.

    Args:
        outer: a topology on the m nodes.
        inner: a topology on the k ranks of one node, or k itself for the complete graph.
        rounds: inner rounds in a cycle, at least 1; None for the whole period of `inner`.

    Raises:
        TopologyError: other values, topologies that break the laws, or no `rounds` for an `inner` without a period.

    >>> two_levels = lift(exponential(4), 2)
    >>> [dict(two_levels.turn(0, round).sends) for round in range(4)]
    [{1: 0.5}, {2: 0.5}, {1: 0.5}, {4: 0.5}]
    """
    validate(outer)
    if not isinstance(inner, Topology):
        try:
            inner = operator.index(inner)
        except TypeError:
            raise TopologyError(
                f"the inner level of lift is a {type(inner).__name__}: pass a topology on the ranks of one node, or "
                "their number"
            ) from None
        k = positive(inner, "the number of ranks of a node")
        inner = Columns(k, [uniform(k, range(k))])
    validate(inner)
    if rounds is None:
        rounds = inner.period
        if rounds is None:
            raise TopologyError(
                f"the inner level of lift, {inner!r}, has no period: pass rounds=, the number of inner rounds before "
                "each outer one"
            )
    return validated(Lifted(outer, inner, positive(rounds, "the inner rounds of lift")))
