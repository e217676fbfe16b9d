"""The time of an exact average of all ranks, from the moment the last of them is there.

Letters: n ranks, B bytes, β bits per second of the slowest link, α latency, γ seconds per byte added. Every rank sends
and receives at once, and a step of a collective lasts as long as its slowest hop.
"""

from collections.abc import Callable

from gossip.transports.sums import RING

from ..shared.methods import METHODS, Traffic
from .machine import Cluster


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
    levels = cluster.size.bit_length() - 1
    host = cluster.machine.ranks_per_host
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
    if inside:
        rate, latency = cluster.inside
        return latency, 8 / rate
    return cluster.machine.latency, 8 / cluster.slowest_rate


def sent(cluster: Cluster, nbytes: float) -> float:
    """Bytes that a rank sends at least: 2B(n − 1)/n."""
    return 2 * nbytes * (cluster.size - 1) / cluster.size


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
