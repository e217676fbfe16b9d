"""The hosts: how long they compute, and what their links carry."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Machine:
    """One host like all others, its link, and the share of hosts that are slower.

    compute: mean seconds of an update's forward and backward pass. jitter: standard deviation of these over their mean,
    at most 1, drawn anew for each rank and update. tail: index a > 2 of a Pareto tail, P(compute > x) ~ x^-a; None is
    lognormal. rate: bits per second of a host's link, each way at once. latency: seconds of a message besides its
    transfer. merge: seconds for each byte that a rank merges or adds; it does nothing else meanwhile.

    ranks_per_host: ranks that share one link. group: ranks that a hierarchical all-reduce sums among first, each with a
    link of its own; where several ranks share a host, the host is the group. inside_rate, inside_latency: in a group;
    None where they are those of the link. slow_share: of the hosts, in whole hosts, that compute `slow_compute` times
    longer and whose links carry `slow_rate` times less. eager: a message leaves although its receiver still computes;
    otherwise the two meet first (rendezvous), as large messages over MPI and Gloo do.
    """

    compute: float
    rate: float
    latency: float = 0.0
    jitter: float = 0.0
    tail: float | None = None
    merge: float = 0.0
    ranks_per_host: int = 1
    group: int = 8
    inside_rate: float | None = None
    inside_latency: float | None = None
    slow_share: float = 0.0
    slow_compute: float = 1.0
    slow_rate: float = 1.0
    eager: bool = False


class Cluster:
    """n = `size` ranks on such machines; `seed` chooses which hosts are slow and draws what each update computes.

    link, group: shape (n,), where a rank is. rates: bits per second of each link. members: ranks of a whole group.
    """

    def __init__(self, machine: Machine, size: int, seed: int = 0) -> None:
        self.machine, self.size, self.seed = machine, size, seed
        shared = machine.ranks_per_host > 1
        self.members = min(size, machine.ranks_per_host if shared else machine.group)
        self.link: Ranks = np.arange(size) // machine.ranks_per_host
        self.group: Ranks = np.arange(size) // self.members
        links = int(self.link[-1]) + 1
        slow = np.zeros(links, dtype=bool)
        count = math.floor(machine.slow_share * links + 0.5)
        slow[np.random.default_rng([seed, size, 0]).permutation(links)[:count]] = True
        self.rates: Floats = np.where(slow, machine.rate / machine.slow_rate, machine.rate)
        self._means: Floats = machine.compute * np.where(slow, machine.slow_compute, 1.0)[self.link]

    @property
    def slowest_rate(self) -> float:
        """Bits per second of the slowest link, which sets the pace of a collective."""
        return float(self.rates.min())

    @property
    def inside(self) -> tuple[float, float]:
        """Bits per second and latency between two ranks of one group."""
        machine = self.machine
        rate = self.slowest_rate if machine.inside_rate is None else machine.inside_rate
        return rate, machine.latency if machine.inside_latency is None else machine.inside_latency

    def computes(self) -> Iterator[Floats]:
        """Update after update, shape (n,): the seconds that each rank computes. Same seed, same seconds."""
        jitter, a = self.machine.jitter, self.machine.tail
        rng = np.random.default_rng([self.seed, self.size, 1])
        while True:
            if jitter == 0:
                yield self._means
            elif a is None:
                # X = exp(σZ − σ²/2) has mean 1 and variance exp(σ²) − 1 = jitter²
                σ = math.sqrt(math.log1p(jitter**2))
                yield self._means * np.exp(σ * rng.standard_normal(self.size) - σ**2 / 2)
            else:
                # X = 1 − m + m·L with L = (a − 1)(U^(−1/a) − 1), a Pareto excess of mean 1 and variance a/(a − 2)
                m = jitter * math.sqrt((a - 2) / a)
                # U^(−1/a) = exp(E/a), E exponential
                yield self._means * (1 - m + m * ((a - 1) * np.expm1(rng.standard_exponential(self.size) / a)))
