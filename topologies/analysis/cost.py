"""Rounds turned into seconds: a model of communication alone, on hosts with one network card each.

The model has no compute. Gossip with overlap=1 hides a round behind the next forward and backward pass. So a round that
takes no longer than these costs a training step nothing, and `round_seconds` is the number to compare with them. All
links are alike, so a schedule that spares slow links between hosts has no advantage in this model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from topologies.analysis.consensus import Consensus
from topologies.analysis.reach import loads
from topologies.arrays.edges import Floats, Ranks
from topologies.checks import positive
from topologies.errors import TopologyError
from topologies.topology import Topology


@dataclass(frozen=True)
class Link:
    """The network card of each rank: full duplex, and shared by all messages that it sends in a round.

    Raises:
        TopologyError: a rate that is not above 0, or a latency below 0.

    >>> from topologies.analysis import Link
    >>> Link(rate=10e9, latency=50e-6).seconds(messages=2, nbytes=1_250_000)
    0.00205
    """

    rate: float
    """Bits per second, each way."""
    latency: float = 0.0
    """Seconds of a round besides the transfer, for any number of simultaneous messages."""

    def __post_init__(self) -> None:
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise TopologyError(f"a rate of {self.rate!r} carries nothing: give bits per second above 0, such as 10e9")
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise TopologyError(f"a latency of {self.latency!r} cannot be: give seconds from 0 on, such as 50e-6")

    def transfer(self, nbytes: float) -> float:
        """Seconds that `nbytes` take on the wire."""
        return nbytes * 8 / self.rate

    def seconds(self, messages: int, nbytes: int) -> float:
        """Seconds of a round in which the busiest rank sends or receives `messages` of `nbytes` each.

        messages · nbytes · 8 / rate + latency,    0 without messages
        """
        return self.latency + self.transfer(messages * nbytes) if messages else 0.0


def round_seconds(topology: Topology, link: Link, nbytes: int) -> float:
    """Seconds of communication in a round, the mean over a period, or over the first 64 rounds without a period.

    A round lasts as long as its busiest rank needs: the larger of its sends and receives, one after another through one
    network card.

    Args:
        topology: the schedule.
        link: the network card of each rank.
        nbytes: bytes of a message, from 1; the size of the model.

    Raises:
        TopologyError: another number of bytes.

    >>> from topologies.analysis import Link, round_seconds
    >>> round_seconds(topologies.exponential(8), Link(rate=1e9), nbytes=1_000_000)
    0.008
    """
    nbytes = positive(nbytes, "the number of bytes of a message")
    return float(np.mean([link.seconds(load, nbytes) for load in loads(topology).tolist()]))


def elapsed(run: Consensus, link: Link, nbytes: int) -> Floats:
    """Shape (rounds + 1,): seconds of communication until each entry of `run.errors` is reached.

    Args:
        run: the result of `consensus`.
        link: the network card of each rank.
        nbytes: bytes of a message, from 1.

    Raises:
        TopologyError: another number of bytes.

    >>> from topologies.analysis import Link, consensus, elapsed
    >>> elapsed(consensus(topologies.exponential(8), rounds=3), Link(rate=1e9), nbytes=1_000_000).tolist()
    [0.0, 0.008, 0.016, 0.024]
    """
    nbytes = positive(nbytes, "the number of bytes of a message")
    sent: Ranks = np.diff(run.messages)
    return np.concatenate([[0.0], np.cumsum([link.seconds(load, nbytes) for load in sent.tolist()])])


def allreduce_seconds(size: int, link: Link, nbytes: int) -> float:
    """Seconds of an exact average of `nbytes` on every rank, by the faster of two algorithms of all-reduce.

        ring                         2 (n - 1) latency + 2 (n - 1)/n · transfer
        halving and doubling         2 log₂(p) latency + 2 (p - 1)/p · transfer,    p the largest power of two <= n,
          and where p < n, besides   2 latency + 2 transfer

    The last line is for the ranks beyond p, which hand their values to a partner and receive the result. If n is no
    power of two, the second algorithm is faster on few bytes and the first on many.

    Args:
        size: number of ranks n, from 1.
        link: the network card of each rank.
        nbytes: bytes that each rank contributes, from 1.

    Raises:
        TopologyError: other numbers.

    >>> from topologies.analysis import Link, allreduce_seconds
    >>> allreduce_seconds(8, Link(rate=1e9), nbytes=1_000_000)
    0.014

    Source: Thakur, Rabenseifner, Gropp: Optimization of Collective Communication Operations in MPICH, IJHPCA 2005,
    section 4.5.
    """
    size = positive(size, "the number of ranks of an all-reduce")
    transfer = link.transfer(positive(nbytes, "the number of bytes of an all-reduce"))
    rounds = size.bit_length() - 1
    power = 1 << rounds
    ring = 2 * (size - 1) * link.latency + 2 * (size - 1) / size * transfer
    halving = 2 * rounds * link.latency + 2 * (power - 1) / power * transfer
    fold = 2 * link.latency + 2 * transfer if power < size else 0.0
    return min(ring, halving + fold)
