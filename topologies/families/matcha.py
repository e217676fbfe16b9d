"""MATCHA: a graph taken apart into matchings, of which a random subset is active in each round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from topologies.arrays.connectivity import is_strongly_connected
from topologies.arrays.draws import draw, draws
from topologies.arrays.edges import Edges, Ranks
from topologies.arrays.weights import metropolis
from topologies.checks import check_rank, natural, positive
from topologies.errors import TopologyError
from topologies.families.ring import ring
from topologies.topology import Topology, Turn
from topologies.validation import is_share, rounds_of, validate


class Matcha(Topology):
    """The schedule that `matcha` returns."""

    def __init__(self, base: Topology, budget: float, seed: int) -> None:
        super().__init__(base.size, period=None if base.size > 1 else 1)
        self.budget, self.seed = budget, seed
        self._base, self._bound = base.describe(), int(budget * 2**32)
        edges = base.edges(0)
        self._source, self._target = np.divmod(np.sort(edges.source * base.size + edges.target), base.size)
        self._links = _matched(base.size, self._source.tolist(), self._target.tolist())
        # In the order of the edges, by rank and then by peer.
        self._matching = np.array([matching for links in self._links for matching in links], dtype=np.int64)
        self.matchings = int(self._matching.max(initial=-1)) + 1

    def turn(self, rank: int, round: int) -> Turn:
        check_rank(rank, self.size)
        links = self._links[rank]
        active = self._active(round, set(links).union(*(self._links[peer] for peer in links.values())))
        own = len(active & links.keys())
        # P[i, j] = 1 / (1 + max(d_i, d_j)),    P[j, j] = 1/(1 + d_j) + Σ_i (1/(1 + d_j) - P[i, j])
        even, more = 1 / (1 + own), 0.0
        shares: dict[int, float] = {}
        for matching, peer in links.items():
            if matching in active:
                shares[peer] = share = 1 / (1 + max(own, len(active & self._links[peer].keys())))
                more += even - share
        return Turn(even + more, shares, dict(shares))

    def edges(self, round: int) -> Edges:
        active = self._draws(round) < self._bound
        source, target = self._source[active], self._target[active]
        degree = np.bincount(source, minlength=self.size)
        even = 1 / (1 + degree)
        share = metropolis(degree[source], degree[target])
        keep = even + np.bincount(source, even[source] - share, minlength=self.size)
        return Edges(keep, source, target, share)

    def _active(self, round: int, matchings: Iterable[int]) -> set[int]:
        word = draw(self.seed, round)
        return {matching for matching in matchings if draws(word, matching) < self._bound}

    def _draws(self, round: int) -> Ranks:
        return draws(draw(self.seed, round), self._matching)

    def connects(self, rounds: int) -> bool:
        """Whether the active matchings of the first `rounds` rounds connect all ranks."""
        active = np.zeros(len(self._matching), dtype=np.bool_)
        for round in range(rounds):
            active |= self._draws(round) < self._bound
        return is_strongly_connected(self.size, self._source[active], self._target[active])

    def __repr__(self) -> str:
        return f"Matcha(size={self.size}, base={self._base}, budget={self.budget}, seed={self.seed})"


def matcha(size: int, base: Topology | None = None, budget: float = 0.5, seed: int = 0) -> Matcha:
    """MATCHA: the edges of a graph in matchings, and each matching is active in a round with a probability; aperiodic.

        P(t)[i, j] = 1 / (1 + max(d_i, d_j))    along the active edges of round t, d their number at a rank

    A matching is a set of edges without a common rank, so a rank has one message for each active matching. The edges go
    in order into the first matching with room for them. A graph of degree at most d has at most 2 d - 1 matchings.
    Every matching is active independently, drawn from (seed, round, matching).

    The probability is the same for all matchings. The paper optimises one for each, and the weight besides. But the
    last digits of eigenvalues differ from host to host, and all ranks have to agree on the active matchings.

    A turn takes one draw for each matching at the rank and at its peers: microseconds on a sparse base, and
    milliseconds beside a hub with thousands of edges.

    Args:
        size: number of ranks n, from 1.
        base: a topology of `size` ranks with one graph for all rounds, all of whose edges go both ways, as
            `torus(size)`. Its shares do not matter. None stands for `ring(size)`.
        budget: the probability, above 0 and at most 1; it is also the mean fraction of the edges of `base` that are
            active.
        seed: an integer of at least 0, the same on every rank.

    Raises:
        TopologyError: other values, or a budget so low that the first 64 rounds do not connect all ranks.

    >>> [list(matcha(6, seed=1).turn(rank=0, round=round).sends) for round in range(5)]
    [[1], [], [5], [], [5]]

    Source: Wang, Sahu, Yang, Joshi, Kar: MATCHA, Speeding Up Decentralized SGD via Matching Decomposition Sampling,
    2019, arXiv 1905.09435, section 3.
    """
    size = positive(size, "the size of a MATCHA schedule")
    if not is_share(budget):
        raise TopologyError(f"the budget of a MATCHA schedule must be a number above 0 and at most 1, not {budget!r}")
    seed = natural(seed, "the seed of a MATCHA schedule")
    base = ring(size) if base is None else base
    _check_base(base, size)
    topology = Matcha(base, float(budget), seed)
    if not topology.connects(rounds_of(topology)):
        raise TopologyError(
            f"budget={budget} activates so few of the {topology.matchings} matchings that {rounds_of(topology)} rounds "
            "do not connect all ranks: raise it, or take another seed"
        )
    validate(topology)
    return topology


def _check_base(base: Topology, size: int) -> None:
    if not isinstance(base, Topology):
        raise TopologyError(
            f"the base of a MATCHA schedule is a topology, as in base=topologies.torus({size}), not {base!r}"
        )
    validate(base)
    if base.size != size:
        raise TopologyError(f"base={base!r} has {base.size} ranks where {size} are asked for: make it of {size} ranks")
    if base.period != 1:
        raise TopologyError(
            f"base={base!r} changes from round to round: give one graph for all rounds, as in base=torus({size})"
        )
    edges = base.edges(0)
    one_way = np.setdiff1d(edges.source * size + edges.target, edges.target * size + edges.source)
    if len(one_way):
        j, i = divmod(int(one_way[0]), size)
        raise TopologyError(
            f"base={base!r} has the edge {j} -> {i} and not {i} -> {j}: in a matching both ranks send, so give a graph "
            "whose edges go both ways"
        )


def _matched(size: int, source: Sequence[int], target: Sequence[int]) -> tuple[dict[int, int], ...]:
    """Matching -> peer for each rank, for sorted edges that stand in both directions.

    >>> _matched(3, [0, 1, 1, 2], [1, 0, 2, 1])
    ({0: 1}, {0: 0, 1: 2}, {1: 1})
    """
    links: tuple[dict[int, int], ...] = tuple({} for _ in range(size))
    # Every matching below room[r] already has an edge at rank r.
    room = [0] * size
    for u, v in zip(source, target, strict=True):
        if u > v:
            continue
        matching = max(room[u], room[v])
        while matching in links[u] or matching in links[v]:
            matching += 1
        for one, other in ((u, v), (v, u)):
            links[one][matching] = other
            while room[one] in links[one]:
                room[one] += 1
    return links
