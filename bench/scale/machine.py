"""The hosts: how long they compute, what their links carry, and how long an exact average of all their ranks takes.

Letters: n ranks, B bytes, β bits per second of the slowest link, α latency, γ seconds per byte added. In a collective,
from the moment the last rank is there, every rank sends and receives at once, and a step lasts as long as its slowest
hop.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossip.transports.collective.sums import RING

from ..shared.methods import METHODS, Traffic

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

    link, group: shape (n,), where a rank is. members: ranks of a whole group. rates: bits per second of each link.
    slowest_rate: which sets the pace of a collective. inside: bits per second and latency inside a group.
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
        rate, latency = machine.inside_rate, machine.inside_latency
        self.slowest_rate = float(self.rates.min())
        self.inside = self.slowest_rate if rate is None else rate, machine.latency if latency is None else latency

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


def ring(cluster: Cluster, nbytes: float) -> float:
    """Reduce-scatter and all-gather around a ring of all ranks, which enters and leaves each host once."""
    n = cluster.size
    α, second = _hop(cluster, inside=cluster.machine.ranks_per_host >= n)
    # 2(n − 1)(α + 8B/(nβ)) + γB(n − 1)/n
    return 2 * (n - 1) * (α + second * nbytes / n) + cluster.machine.merge * nbytes * (n - 1) / n


def circulant(cluster: Cluster, nbytes: float) -> float:
    """Reduce-scatter and all-gather along a circulant graph: ceil(log₂ n) rounds each, for any n.

    In a round of the reduce-scatter a rank that holds partial sums of s' blocks of B/n keeps s = ceil(s'/2), sends the
    others to rank r + s and receives as many from r − s; the all-gather goes the same way back.
    Träff: Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms, 2024, arXiv 2410.14234.
    """
    n, host = cluster.size, cluster.machine.ranks_per_host
    α, second = _hop(cluster, inside=host >= n)
    total, held = 0.0, n
    while held > 1:
        kept = -(-held // 2)
        # Of a host's ranks, as many reach another host as the hop is long.
        through = min(kept, host) if host < n else 1
        # 2(α + 8(s' − s)B/(nβ)), which adds up to 2(α ceil(log₂ n) + 8B(n − 1)/(nβ)) with one rank a host
        total += 2 * (α + second * (held - kept) * nbytes / n * through)
        held = kept
    return total + cluster.machine.merge * nbytes * (n - 1) / n


def own(cluster: Cluster, nbytes: float) -> float:
    """This runtime's exact sum: around a ring, and along a circulant graph where there are many ranks."""
    return (ring if cluster.size <= RING else circulant)(cluster, nbytes)


def tree(cluster: Cluster, nbytes: float) -> float:
    """Recursive halving and doubling, the nearest ranks and the largest parts first.

    Beyond the largest power of two p <= n, ranks first hand their values to a neighbour and get the result back.
    Thakur, Rabenseifner, Gropp: Optimization of Collective Communication Operations in MPICH, IJHPCA 2005, section 4.5.
    """
    levels, host = cluster.size.bit_length() - 1, cluster.machine.ranks_per_host
    total, volume = 0.0, float(nbytes)
    for level in range(levels):
        volume /= 2
        inside = host % (2 << level) == 0
        α, second = _hop(cluster, inside)
        # All ranks of a host leave it in the same step: 2(α + 8V·host/β), V = B/2, B/4, …
        total += 2 * (α + second * volume * (1 if inside else host)) + cluster.machine.merge * volume
    if 1 << levels < cluster.size:
        α, second = _hop(cluster, inside=host % 2 == 0)
        total += 2 * (α + second * nbytes) + cluster.machine.merge * nbytes
    return total


def binomial(cluster: Cluster, nbytes: float) -> float:
    """A reduction to rank 0 and a broadcast from it by binomial trees, all bytes in every step."""
    total = 0.0
    for level in range((cluster.size - 1).bit_length()):
        α, second = _hop(cluster, inside=cluster.machine.ranks_per_host % (2 << level) == 0)
        # 2 log₂ n (α + 8B/β) + γB log₂ n
        total += 2 * (α + second * nbytes) + cluster.machine.merge * nbytes
    return total


def hierarchical(cluster: Cluster, nbytes: float) -> float:
    """Reduce-scatter inside each group, ring all-reduces of the parts across the groups, all-gather inside."""
    g = cluster.members
    groups = -(-cluster.size // g)
    rate, inner = cluster.inside
    within = 2 * (g - 1) * (inner + 8 * nbytes / g / rate)
    α, second = _hop(cluster, inside=False)
    # Each of the g rings carries B/g; where the group is a host, all of them through one link.
    through = nbytes if cluster.machine.ranks_per_host > 1 else nbytes / g
    across = 2 * (groups - 1) * (α + second * through / groups)
    added = nbytes * (g - 1) / g + nbytes / g * (groups - 1) / groups
    return within + across + cluster.machine.merge * added


def _hop(cluster: Cluster, inside: bool) -> tuple[float, float]:
    """Latency, and seconds for each byte."""
    rate, latency = cluster.inside if inside else (cluster.slowest_rate, cluster.machine.latency)
    return latency, 8 / rate


COLLECTIVES: dict[str, Callable[[Cluster, float], float]] = {
    each.__name__: each for each in (own, circulant, ring, tree, binomial, hierarchical)
}
"""Seconds of each, for a cluster and B bytes."""

OTHERS = {f"ar-{name}": name for name in ("ring", "tree", "binomial", "hierarchical")}
"""All-reduces to compare AR-SGD's own with."""
NAMES = (
    *("none", "ar", *OTHERS, "exact", "local", "sgp", "osgp", "local-slowmo", "sgp-slowmo", "osgp-slowmo"),
    *("sgp-noaverage", "osgp-noaverage"),
)
TITLES = {name: f"AR {OTHERS[name]}" if name in OTHERS else METHODS[name].title for name in NAMES}


def traffics(period: int, local_period: int | None = None, average: str = "own") -> dict[str, Traffic]:
    """The traffic of each method; `period` is τ of SlowMo, `local_period` that of Local SGD where it is another one.

    average: the collective of this runtime's exact sums. Gradients or parameters, it takes the same time; and slow
    momentum without its average sends nothing, so methods that differ in nothing else are equal here.
    """
    found = {}
    for name in NAMES:
        τ = local_period if local_period and name.startswith("local") else period
        method = METHODS["ar" if name in OTHERS else name].over("exponential", τ)
        found[name] = method.traffic(collective=OTHERS.get(name, average))
    return found
