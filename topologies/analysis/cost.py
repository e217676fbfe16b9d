"""Rounds turned into seconds: a model of communication alone, on hosts that have one network card each.

Compute is left out. Gossip with overlap=1 hides a round behind the next forward and backward pass, so a round that
takes no longer than these costs a training step nothing, and `round_seconds` is the number to hold against them. All
links are alike, so a schedule that spares the slow ones between hosts looks no better here than one that does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from topologies.analysis.consensus import Consensus
from topologies.analysis.reach import loads
from topologies.arrays.edges import Floats, Ranks
from topologies.errors import TopologyError
from topologies.topology import Topology, positive


@dataclass(frozen=True)
class Link:
    """The network card of each rank: full duplex, and shared by all messages that it sends in a round.

    Raises `TopologyError` for a rate that is not above 0 and a latency below 0.

    >>> from topologies.analysis import Link
    >>> Link(rate=10e9, latency=50e-6).seconds(messages=2, nbytes=1_250_000)
    0.00205
    """

    rate: float
    """Bits per second, each way."""
    latency: float = 0.0
    """Seconds that a round takes besides the transfer, however many messages travel at once."""

    def __post_init__(self) -> None:
        """Refuse what is no network."""
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise TopologyError(f"a rate of {self.rate!r} carries nothing: give bits per second above 0, such as 10e9")
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise TopologyError(f"a latency of {self.latency!r} cannot be: give seconds from 0 on, such as 50e-6")

    def transfer(self, nbytes: float) -> float:
        """Seconds that so many bytes take on the wire."""
        return nbytes * 8 / self.rate

    def seconds(self, messages: int, nbytes: int) -> float:
        """Seconds of a round in which the busiest rank sends or receives so many messages of `nbytes` each; 0 of none.

        messages · nbytes · 8 / rate + latency
        """
        return self.latency + self.transfer(messages * nbytes) if messages else 0.0


def round_seconds(topology: Topology, link: Link, nbytes: int) -> float:
    """Seconds of communication in a round, the mean over a period, or the first 64 rounds where there is none.

    A round lasts as long as its busiest rank needs: the larger of the messages that it sends and those that it
    receives, one after another through one network card. nbytes: the size of a message, which is that of the model.

    >>> from topologies.analysis import Link, round_seconds
    >>> round_seconds(topologies.exponential(8), Link(rate=1e9), nbytes=1_000_000)
    0.008
    """
    nbytes = positive(nbytes, "the number of bytes of a message")
    return float(np.mean([link.seconds(load, nbytes) for load in loads(topology).tolist()]))


def elapsed(run: Consensus, link: Link, nbytes: int) -> Floats:
    """Shape (rounds + 1,): seconds of communication until each entry of `run.errors` is reached.

    >>> from topologies.analysis import Link, consensus, elapsed
    >>> elapsed(consensus(topologies.exponential(8), rounds=3), Link(rate=1e9), nbytes=1_000_000).tolist()
    [0.0, 0.008, 0.016, 0.024]
    """
    nbytes = positive(nbytes, "the number of bytes of a message")
    sent: Ranks = np.diff(run.messages)
    return np.concatenate([[0.0], np.cumsum([link.seconds(load, nbytes) for load in sent.tolist()])])


def allreduce_seconds(size: int, link: Link, nbytes: int) -> float:
    """Seconds of an exact average of `nbytes` on every rank, the faster of two ways to all-reduce it.

        ring                         2 (n - 1) latency + 2 (n - 1)/n · transfer
        halving and doubling         2 log₂(p) latency + 2 (p - 1)/p · transfer,    p the largest power of two <= n,
          and where p < n, besides   2 latency + 2 transfer

    The last line is for the ranks beyond p, which hand their values to a partner and get the result back. On few bytes
    the second wins, on many the first does, where n is no power of two.

    >>> from topologies.analysis import Link, allreduce_seconds
    >>> allreduce_seconds(8, Link(rate=1e9), nbytes=1_000_000)
    0.014

    Thakur, Rabenseifner, Gropp: Optimization of Collective Communication Operations in MPICH, IJHPCA 2005, section 4.5.
    """
    size = positive(size, "the number of ranks of an all-reduce")
    transfer = link.transfer(positive(nbytes, "the number of bytes of an all-reduce"))
    rounds = size.bit_length() - 1
    power = 1 << rounds
    ring = 2 * (size - 1) * link.latency + 2 * (size - 1) / size * transfer
    halving = 2 * rounds * link.latency + 2 * (power - 1) / power * transfer
    fold = 2 * link.latency + 2 * transfer if power < size else 0.0
    return min(ring, halving + fold)
