"""The interface: the share of its weight that each rank sends to each peer in each round."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from statistics import median_high
from typing import NamedTuple

import numpy as np

from topologies.arrays.edges import Edges, Floats
from topologies.checks import positive

TOLERANCE = 1e-12
"""The largest distance of a sum of shares from 1."""

DESCRIBED_ROUNDS = 16
"""The number of first rounds of an aperiodic topology that `Topology.describe` reads."""

DESCRIBED_ENTRIES = 100_000
"""About the largest number of shares that `Topology.describe` reads, so that it takes well under a second."""

REMEMBERED_ROUNDS = 64
"""The number of rounds for which an aperiodic topology remembers facts, such as double stochasticity."""


class Turn(NamedTuple):
    """The exchange of one rank in one round: `keep + sum(sends.values()) == 1` and `keep > 0`.

    >>> Turn(keep=0.5, sends={1: 0.5}, receives={3: 0.5})
    Turn(keep=0.5, sends={1: 0.5}, receives={3: 0.5})
    """

    keep: float
    """The share of its own weight that stays."""
    sends: Mapping[int, float]
    """Out-peer -> the share of its own weight that goes there."""
    receives: Mapping[int, float]
    """In-peer -> the share of that peer's weight that comes here."""


class Topology(ABC):
    """A schedule of column-stochastic matrices, one for each round t = 0, 1, 2, …

        P(t)[i, j] = the share of rank j's weight that goes to rank i

    A subclass writes `turn` and passes size and period to `super().__init__`. These laws hold, and
    `topologies.validate` checks them:

    - `turn` depends on (rank, round) only; a random graph takes its seed from the round;
    - columns sum to 1, every share lies in (0, 1], and every rank keeps a share above 0;
    - i is in `turn(j, t).sends` exactly when j is in `turn(i, t).receives`, with the same share;
    - no rank sends to itself, and round t + period is round t;
    - the edges of all rounds of a period together lead from every rank to every other one.

    A topology never changes once made, so threads, optimizers and processes may share it.

    Example, a ring that changes direction after every round:

        class Swing(Topology):
            def __init__(self, size):
                super().__init__(size, period=2)

            def turn(self, rank, round):
                hop = 1 if round % 2 == 0 else -1
                return Turn(0.5, {(rank + hop) % self.size: 0.5}, {(rank - hop) % self.size: 0.5})
    """

    size: int
    """The number of ranks n."""
    period: int | None
    """Rounds until the schedule repeats; None if it never does."""

    def __init__(self, size: int, period: int | None) -> None:
        """Set size and period.

        Raises:
            TopologyError: a size or period that is not a positive integer.
        """
        self.size = positive(size, "the size of a topology")
        self.period = None if period is None else positive(period, "the period of a topology")

    @abstractmethod
    def turn(self, rank: int, round: int) -> Turn:
        """The exchange of `rank`, 0 to n - 1, in `round`, 0, 1, 2, …; called at every training step."""

    def edges(self, round: int) -> Edges:
        """All turns of `round` as arrays: P(round) without its zeros, from the shares that ranks keep and send.

        A class that can compute the arrays without a turn of every rank overrides this; `validate` compares the two.
        """
        turns = [self.turn(rank, round) for rank in range(self.size)]
        return Edges(
            np.array([turn.keep for turn in turns], dtype=np.float64),
            np.repeat(np.arange(self.size), [len(turn.sends) for turn in turns]),
            np.array([peer for turn in turns for peer in turn.sends], dtype=np.int64),
            np.array([share for turn in turns for share in turn.sends.values()], dtype=np.float64),
        )

    def matrix(self, round: int) -> Floats:
        """P(round), shape (n, n), float64: entry [i, j] is the share of rank j's weight that goes to rank i.

        The matrix holds n² numbers, so it serves for small graphs. The runtime only calls `turn`.
        """
        return self.edges(round).matrix()

    def mix(self, values: Floats, round: int) -> Floats:
        """One simulated round of gossip, P(round) @ values; no n×n matrix is made.

        Args:
            values: shape (n,) or (n, d), float64.
            round: from 0.

        >>> topologies.ring(4, directed=True).mix(np.array([4.0, 0, 0, 0]), round=0)
        array([2., 2., 0., 0.])
        """
        return self.edges(round).mix(values)

    def doubly_stochastic(self, round: int) -> bool:
        """Whether the rows of P(round) sum to 1 as well, within 1e-12, so that equal weights stay equal.

        The answer is computed in O(n · degree) and remembered for each round of the period.
        """
        return self._fact("doubly stochastic", round, self._rows_sum_to_one)

    def keeps_alike(self, round: int) -> bool:
        """Whether every rank keeps the same share in P(round), within 1e-12; remembered likewise."""
        return self._fact("keeps alike", round, self._diagonal_is_constant)

    def _rows_sum_to_one(self, round: int) -> bool:
        # Σ_j P[i, j] = 1
        return bool(np.abs(self.edges(round).rows() - 1).max() <= TOLERANCE)

    def _diagonal_is_constant(self, round: int) -> bool:
        return bool(np.ptp(self.edges(round).keep) <= TOLERANCE)

    def _fact(self, name: str, round: int, compute: Callable[[int], bool]) -> bool:
        # A topology never changes, so the answers can be kept, even if a subclass did not call our __init__. An entry
        # is replaced as a whole, so threads may share it.
        answers: dict[tuple[str, int], tuple[int, bool]] = self.__dict__.setdefault("_facts", {})
        phase = round if self.period is None else round % self.period
        entry = name, phase % (self.period or REMEMBERED_ROUNDS)
        known, answer = answers.get(entry, (-1, False))
        if known != phase:
            answer = compute(phase)
            answers[entry] = phase, answer
        return answer

    def describe(self) -> str:
        """One line that is the same on all ranks that run the same schedule: class, size, period, digest of the turns.

        The digest covers one period, or the first 16 rounds of an aperiodic schedule, with shares to 12 digits. Beyond
        about 100 000 shares it covers one turn in k only, and the text names k.

        >>> topologies.exponential(8).describe()
        'Exponential(size=8, period=3) sha256:3e9b2a42e53923aa'
        """
        ranks = self._representatives()
        rounds = self.period or DESCRIBED_ROUNDS
        turns = len(ranks) * rounds
        # The median number of shares in a turn, because one hub of many peers would make the mean large.
        shares = median_high(1 + 2 * len(self.turn(rank, 0).sends) for rank in ranks[:: 1 + len(ranks) // 10])
        stride = -(-turns * shares // DESCRIBED_ENTRIES)
        # A stride that shares a factor with the number of ranks would read the same ranks in every round.
        while math.gcd(stride, len(ranks)) > 1:
            stride += 1
        digest = hashlib.sha256()
        for number in range(0, turns, stride):
            round, place = divmod(number, len(ranks))
            digest.update(_canonical(self.turn(ranks[place], round)))
        some = "" if stride == 1 else f" of one turn in {stride}"
        early = "" if self.period else f" in the first {rounds} rounds"
        return f"{self!r} sha256:{digest.hexdigest()[:16]}{some}{early}"

    def __repr__(self) -> str:
        """Class, size and period."""
        return f"{type(self).__name__}(size={self.size}, period={self.period})"

    def _representatives(self) -> Sequence[int]:
        """Ranks whose turns determine those of all others; fewer than all if a class has a symmetry."""
        return range(self.size)


def _canonical(turn: Turn) -> bytes:
    # Twelve digits, because hosts may differ in the last bit of a share and still run the same schedule.
    def text(shares: Mapping[int, float]) -> str:
        return ",".join(f"{int(peer)}:{share:.12g}" for peer, share in sorted(shares.items()))

    return f"{turn.keep:.12g}|{text(turn.sends)}|{text(turn.receives)}\n".encode()
