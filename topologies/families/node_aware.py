"""Schedules that know which ranks share a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from topologies.arrays.edges import Ranks
from topologies.checks import integers, positive
from topologies.composition.composed import Arranged, shown
from topologies.composition.lift import two_levels
from topologies.composition.side_by_side import SideBySide
from topologies.errors import TopologyError
from topologies.families.hybrid import graph_by_name
from topologies.topology import Topology
from topologies.validation import validated

LOCAL_SIZE = 4
"""The default number of ranks on a host."""

Graph = Callable[[int], Topology]


class NodeAware(Arranged):
    """The schedule that `node_aware` returns."""

    def __init__(self, hosts: Sequence[int], inner: Graph, outer: Graph) -> None:
        """The arguments: ranks on each host, and functions from a number of ranks to a graph."""
        self.hosts = tuple(hosts)
        sizes = np.array(hosts, dtype=np.int64)
        starts = np.cumsum(sizes) - sizes
        inside = _groups([np.arange(start, start + k) for start, k in zip(starts, hosts, strict=True)], inner)
        # Local rank l on all hosts that have one.
        across = _groups([starts[sizes > place] + place for place in range(max(hosts))], outer)
        self.schedule = two_levels(inside, inside.period or 1, across)
        parts = [topology for level in (inside, across) if level in self.schedule.parts for topology, _ in level.blocks]
        super().__init__(self.schedule.size, self.schedule.period, parts)

    def at(self, round: int) -> tuple[Topology, int]:
        return self.schedule.at(round)

    def options(self) -> str:
        return f"hosts={shown(self.hosts)}"


def node_aware(
    size: int,
    local_size: int | None = None,
    hosts: Iterable[int] | None = None,
    inner: str = "exponential",
    outer: str = "exponential",
    inner_peers: int = 1,
    outer_peers: int = 1,
) -> NodeAware:
    """Two levels: gossip inside each host, over fast links, and then one round between hosts, over the network.

    In each cycle all hosts run one period of the inner graph at the same time. Then each rank runs one round of the
    outer graph with the ranks of the same local rank on the other hosts. With k ranks on every host this is

        P = I ⊗ P_inner(s)    for all rounds s of its period,  then    P = P_outer(c) ⊗ I_k    in cycle c

    and a rank of an exponential graph sends over the network in one round of 1 + log₂ k only.

    If hosts differ, the longest inner period counts, and hosts with shorter ones start over in each cycle. The same
    holds for the outer periods. A level of one rank takes no round.

    For other graphs see `topologies.lift`. For ranks that are dealt out to hosts in another order see
    `topologies.relabel`.

    Args:
        size: number of ranks n, from 1. Consecutive ranks fill the hosts in order.
        local_size: ranks on a host, 4 by default; the last host has the remainder.
        hosts: in place of `local_size`, the ranks on each host, as in [4, 4, 3].
        inner: "exponential", "ring" or "complete".
        outer: likewise.
        inner_peers: peers of an exponential inner graph, or fewer on a host with too few ranks.
        outer_peers: likewise for the outer graph.

    Raises:
        TopologyError: other values.

    >>> schedule = node_aware(11, hosts=[4, 4, 3])
    >>> [dict(schedule.turn(0, round).sends) for round in range(schedule.period)]
    [{1: 0.5}, {2: 0.5}, {4: 0.5}, {1: 0.5}, {2: 0.5}, {8: 0.5}]
    """
    size = positive(size, "the size of a node-aware graph")
    counts = _hosts(size, local_size, hosts)
    inner_peers = positive(inner_peers, "the inner peers of a node-aware graph")
    outer_peers = positive(outer_peers, "the outer peers of a node-aware graph")
    return validated(
        NodeAware(
            counts,
            lambda k: graph_by_name(inner, k, _fitting(inner, inner_peers, k), "inner"),
            lambda m: graph_by_name(outer, m, _fitting(outer, outer_peers, m), "outer"),
        )
    )


def _groups(groups: Sequence[Ranks], graph: Graph) -> SideBySide:
    """One topology of all groups; groups of the same size share a graph."""
    alike: dict[int, list[Ranks]] = {}
    for group in groups:
        alike.setdefault(len(group), []).append(group)
    return SideBySide([(graph(k), np.stack(members)) for k, members in sorted(alike.items())])


def _fitting(name: str, peers: int, size: int) -> int:
    return min(peers, max(1, size - 1)) if isinstance(name, str) and name == "exponential" else peers


def _hosts(size: int, local_size: int | None, hosts: Iterable[int] | None) -> Sequence[int]:
    if hosts is None:
        k = positive(LOCAL_SIZE if local_size is None else local_size, "the ranks on a host of a node-aware graph")
        return [min(k, size - start) for start in range(0, size, k)]
    if local_size is not None:
        raise TopologyError(
            f"a node-aware graph got local_size={local_size!r} and hosts={hosts!r}: pass one of them, hosts where "
            "they differ"
        )
    if isinstance(hosts, int):
        raise TopologyError(
            f"hosts={hosts} of a node-aware graph is one number: give the ranks on each host, as in hosts=4,4,3, or "
            f"local_size={-(-size // max(1, hosts))} for hosts that are alike"
        )
    counts = integers(hosts, "the hosts of a node-aware graph")
    for number, count in enumerate(counts):
        positive(count, f"the number of ranks on host {number} of a node-aware graph")
    if sum(counts) != size:
        raise TopologyError(
            f"the hosts of a node-aware graph have {sum(counts)} ranks, but its size is {size}: "
            "let hosts name the ranks on each host, so that they add up to the size"
        )
    return counts
