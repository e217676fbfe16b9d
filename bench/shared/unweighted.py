"""Gossip that forgets the push-sum weight: what is wrong without it.

Source of what it lacks: Assran et al., ICML 2019, arXiv 1811.10792, section 2.
"""

from __future__ import annotations

from gossip import PushSum
from gossip.averagers.composition import Composite


class Unweighted(Composite):
    """`gossip`, with every rank's weight taken for 1 at all times.

        z_i <- Σ_j P[i,j] z_j / Σ_j P[i,j]

    A mean of what has come, by a matrix whose rows sum to 1 and whose columns need not: ranks agree, but each round
    moves the mean, and what they agree on counts those for more whom many hear. Where P is doubly stochastic it is
    push-sum itself.

    >>> import gossip, topologies
    >>> world = gossip.init()
    >>> Unweighted(gossip.PushSum(world, topologies.exponential(world.size))).describe()[:10]
    'Unweighted'
    """

    def __init__(self, gossip: PushSum) -> None:
        super().__init__(gossip)

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
