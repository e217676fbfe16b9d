"""The static exponential graph: all hops of the exponential graph in every round."""

from __future__ import annotations

from topologies.checks import positive
from topologies.families.exponential import powers
from topologies.kinds.circulants import Columns, uniform
from topologies.validation import validated


class StaticExponential(Columns):
    """The schedule that `static_exponential` returns."""


def static_exponential(size: int) -> StaticExponential:
    """Static exponential graph, directed: in every round each rank sends over all hops that are powers of two.

        r -> (r + 2^i) mod n    for i = 0 … L - 1,    L = ⌈log₂ n⌉,    every share 1/(1 + L)

    For even n the spectral gap is 2/(1 + L), and for odd n it is larger. The one-peer `exponential` graph takes the
    same hops one after the other, with 1/L of the messages a round.

    Args:
        size: number of ranks n, from 1.

    Raises:
        TopologyError: another size.

    >>> static_exponential(6).turn(rank=0, round=0)
    Turn(keep=0.25, sends={1: 0.25, 2: 0.25, 4: 0.25}, receives={5: 0.25, 4: 0.25, 2: 0.25})

    Source: Ying, Yuan, Chen, Hu, Pan, Yin, Exponential Graph is Provably Efficient for Decentralized Deep Training,
    NeurIPS 2021, arXiv 2110.13363, section 3.
    """
    size = positive(size, "the size of a static exponential graph")
    return validated(StaticExponential(size, [uniform(size, powers(2, size))]))
