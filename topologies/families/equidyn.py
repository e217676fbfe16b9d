"""EquiDyn: one random hop a round, the same for all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topologies.arrays.draws import below, draw
from topologies.checks import flag, natural, positive
from topologies.errors import TopologyError
from topologies.kinds.circulants import Circulant
from topologies.kinds.pairing import Pairing, R, choose
from topologies.validation import is_share, validated


class DirectedEquiDyn(Circulant):
    """The directed schedule that `equidyn` returns."""

    def __init__(self, size: int, eta: float, seed: int) -> None:
        self.eta, self.seed = eta, seed
        super().__init__(size, period=None if size > 1 else 1)

    def column(self, round: int) -> Mapping[int, float]:
        if self.size == 1:
            return {0: 1.0}
        # (1 - η) I + η W(a)
        share = self.eta * (self.size - 1) / self.size
        return {0: 1 - share, _hop(self.size, self.seed, round): share}

    def __repr__(self) -> str:
        return f"DirectedEquiDyn(size={self.size}, eta={self.eta}, seed={self.seed})"


class UndirectedEquiDyn(Pairing):
    """The undirected schedule that `equidyn` returns."""

    def __init__(self, size: int, eta: float, seed: int) -> None:
        self.eta, self.seed = eta, seed
        super().__init__(size, None if size > 1 else 1, share=eta * (size - 1) / size)

    def partner(self, rank: R, round: int) -> R:
        if self.size == 1:
            return rank
        start = below(self.size, draw(self.seed, round, 1))
        return walk_partner(rank, self.size, _hop(self.size, self.seed, round), start)

    def __repr__(self) -> str:
        return f"UndirectedEquiDyn(size={self.size}, eta={self.eta}, seed={self.seed})"


def equidyn(size: int, directed: bool = True, eta: float = 0.5, seed: int = 0) -> DirectedEquiDyn | UndirectedEquiDyn:
    """EquiDyn: one hop a, 1 <= a < n, drawn anew in each round for all ranks together; one peer, aperiodic.

    Directed (OD-EquiDyn), S[(j + 1) mod n, j] = 1:

        P(t) = (1 - η) I + η (1/n I + (n - 1)/n S^a)

    Undirected (OU-EquiDyn): a random start s is drawn too. The ranks i = s, s + 1, … in turn pair with i + a where both
    are still free. Two partners give each other η (n - 1)/n, and the other ranks rest.

    At η = 1/2 a round leaves about half of the squared disagreement in the mean, for any n. No number of rounds is
    exact.

    Args:
        size: number of ranks n, from 1.
        directed: True for OD-EquiDyn, False for OU-EquiDyn.
        eta: η, above 0 and at most 1.
        seed: an integer of at least 0, the same on every rank.

    Raises:
        TopologyError: other values.

    >>> equidyn(8, seed=1).turn(rank=0, round=0)
    Turn(keep=0.5625, sends={1: 0.4375}, receives={7: 0.4375})

    Source: Song, Li, Jin, Shi, Yan, Yin, Yuan: Communication-Efficient Topologies for Decentralized Learning with O(1)
    Consensus Rate, NeurIPS 2022, arXiv 2210.07881, section 4.
    """
    size = positive(size, "the size of an EquiDyn schedule")
    if not is_share(eta):
        raise TopologyError(f"the eta of an EquiDyn schedule must be a number above 0 and at most 1, not {eta!r}")
    seed = natural(seed, "the seed of an EquiDyn schedule")
    directed = flag(directed, "the option directed of an EquiDyn schedule")
    return validated((DirectedEquiDyn if directed else UndirectedEquiDyn)(size, float(eta), seed))


def walk_partner(rank: R, size: int, hop: int, start: int) -> R:
    """The partner of `rank` when i = start, start + 1, … in turn take i + hop if both are free; itself if it has none.

    >>> [walk_partner(rank, 5, hop=2, start=0) for rank in range(5)]
    [2, 3, 0, 1, 4]
    """
    return choose(
        _takes(rank, size, hop, start),
        (rank + hop) % size,
        choose(_takes((rank - hop) % size, size, hop, start), (rank - hop) % size, rank),
    )


def _takes(rank: R, size: int, hop: int, start: int) -> Any:
    # With m = min(a, n - a), the first m ranks of the walk take others, the next m do not, and so on. The last m ranks
    # would reach past the start, where all are taken.
    place, span = (rank - start) % size, min(hop, size - hop)
    return (place < size - span) & (place // span % 2 == 0)


def _hop(size: int, seed: int, round: int) -> int:
    return 1 + below(size - 1, draw(seed, round, 0))
