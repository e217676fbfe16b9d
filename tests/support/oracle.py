"""The papers' recursions, dense, in plain NumPy float64: the only reference implementation.

Push-sum is in numerator form: rank i holds x_i and w_i, and its model is z_i = x_i / w_i. Rows are ranks: `x` is (n, d)
for n ranks and d parameters, `w` is (n,). The runtime keeps z and merges with lerps, so the two share no formula.

Sources: Assran et al., ICML 2019, arXiv 1811.10792 (SGP, OSGP); Wang et al., ICLR 2020, arXiv 1910.00643 (SlowMo).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import networkx as nx
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Gradient = Callable[[int, int, Array], Array]
"""g(rank, step, z) -> (d,); NaN for a parameter without a gradient in that step."""
Rate = Callable[[int], "float | Array"]
"""The learning rate of a step, one number or one for each of the d parameters."""
Matrices = Callable[[int], Array]
"""Round -> the column-stochastic P(round); P[i, j] is the share of rank j's weight that goes to rank i."""


class Network:
    """The mass that n ranks hold, and the mass in flight between them."""

    def __init__(self, start: Array) -> None:
        self.x = start.astype(np.float64)
        self.w = np.ones(len(start))
        self.flights: list[tuple[int, Array, Array]] = []

    @property
    def z(self) -> Array:
        """The models, z = x / w."""
        return self.x / self.w[:, None]

    @property
    def total(self) -> tuple[Array, float]:
        """Σ x and Σ w, held and in flight."""
        _, x, w = zip((0, self.x, self.w), *self.flights, strict=True)
        return np.sum(x, axis=(0, 1)), float(np.sum(w))

    def post(self, P: Array, due: int) -> None:
        """Give away shares: x_i <- P_ii x_i at once, and Σ_{j≠i} P_ij x_j is in flight to i; likewise w."""
        keep = np.diag(P)
        sends = P - np.diag(keep)
        self.flights.append((due, sends @ self.x, sends @ self.w))
        self.x, self.w = keep[:, None] * self.x, keep * self.w

    def land(self, step: int) -> None:
        """Add the flights that are due."""
        for due, x, w in self.flights:
            if due <= step:
                self.x, self.w = self.x + x, self.w + w
        self.flights = [flight for flight in self.flights if flight[0] > step]

    def settle(self) -> None:
        """Add all flights."""
        self.land(max((due for due, _, _ in self.flights), default=0))

    def average(self) -> None:
        """x_i <- Σ x / Σ w and w_i <- 1, for every i. Nothing is in flight."""
        assert not self.flights
        self.x = np.tile(self.x.sum(axis=0) / self.w.sum(), (len(self.x), 1))
        self.w = np.ones(len(self.w))


class SGD:
    """Stochastic gradient descent as torch computes it: momentum μ, weight decay λ on z."""

    def __init__(self, momentum: float | Array = 0, weight_decay: float | Array = 0, nesterov: bool = False) -> None:
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.buffer: Array | None = None

    def change(self, g: Array, z: Array, rate: float | Array) -> Array:
        """Δ, zero without a gradient."""
        used = ~np.isnan(g)
        buffer = np.zeros_like(z) if self.buffer is None else self.buffer
        # g <- g + λ z
        g = np.where(used, g, 0.0) + self.weight_decay * z
        # b <- μ b + g
        self.buffer = np.where(used, self.momentum * buffer + g, buffer)
        # d = g + μ b (Nesterov), else b
        d = g + self.momentum * self.buffer if self.nesterov else self.buffer
        # Δ = -γ d
        return np.where(used, -rate * d, 0.0)


@dataclass(frozen=True)
class SlowMo:
    """Options of the outer step; `average` is "exact", "none" or matrices; `shared` averages u over the ranks."""

    period: int
    momentum: float = 0.5
    lr: float = 1.0
    average: str | Matrices = "exact"
    nesterov: bool = False
    rescale: bool = True
    buffers: str = "maintain"
    shared: bool = False


class History(NamedTuple):
    """Models (steps, n, d) and weights (steps, n) after each step, and both after the last flight has landed."""

    z: Array
    w: Array
    settled_z: Array
    settled_w: Array


def train(
    start: Array,
    gradient: Gradient,
    rate: Rate,
    steps: int,
    *,
    matrices: Matrices | None = None,
    overlap: int = 0,
    every: int = 1,
    exact_every: int = 0,
    sgd: SGD | None = None,
    slowmo: SlowMo | None = None,
    average_gradients: bool = False,
) -> History:
    """Train n ranks from `start` (n, d): push-sum posts every `every` steps, exact averages follow `exact_every`."""
    n = len(start)
    net, sgd = Network(start), sgd or SGD()
    rounds = outer_rounds = 0
    # x_{0,0} and u_0 = 0.
    anchor, u = net.z, np.zeros_like(net.x)
    rates: list[Array] = []
    z, w = [], []
    for t in range(steps):
        # The gradient at the models of step t - 1. Then the flights of step t - overlap are due.
        g = np.stack([gradient(i, t, net.z[i]) for i in range(n)])
        net.land(t)
        if average_gradients:
            # g = Σ g_j / n; a rank without a gradient adds 0. Without a gradient on any rank there is none.
            g = np.tile(np.where(np.isnan(g).all(axis=0), np.nan, np.nansum(g, axis=0) / n), (n, 1))
        # The change counts for mass 1: z <- z + Δ/w is x <- x + Δ.
        net.x = net.x + sgd.change(g, net.z, rate(t))
        rates.append(rate(t) * np.ones_like(net.x))

        P = matrices(rounds) if matrices is not None and (t + 1) % every == 0 else None
        if P is not None and overlap == 0:
            # x <- P x, w <- P w
            net.post(P, due=t)
            net.land(t)

        if exact_every and (t + 1) % exact_every == 0:
            net.settle()
            net.average()
        if slowmo is not None and (t + 1) % slowmo.period == 0:
            net.settle()
            if slowmo.average == "exact":
                net.average()
            elif callable(slowmo.average):
                net.post(slowmo.average(outer_rounds), due=t)
                net.land(t)
                outer_rounds += 1
            anchor, u = outer_step(slowmo, anchor, net.z, u, np.mean(rates, axis=0))
            if slowmo.shared:
                u = np.tile(u.mean(axis=0), (n, 1))
            # A rewrite changes z and leaves w.
            net.x = net.w[:, None] * anchor
            rates.clear()
            if slowmo.buffers == "reset":
                sgd.buffer = None
            elif slowmo.buffers == "average" and sgd.buffer is not None:
                sgd.buffer = np.tile(sgd.buffer.mean(axis=0), (n, 1))

        if P is not None and overlap >= 1:
            net.post(P, due=t + overlap)
        rounds += P is not None
        z.append(net.z)
        w.append(net.w)
    net.settle()
    return History(np.stack(z), np.stack(w), net.z, net.w)


def stream(
    start: Array,
    gradient: Gradient,
    rate: Callable[[int], float],
    steps: int,
    slowmo: SlowMo,
    *,
    shards: int,
    delay: int,
    matrices: Matrices | None = None,
    overlap: int = 0,
) -> tuple[Array, Array]:
    """The models (steps, n, d) and the anchor (d,) of streaming SlowMo over SGD, and over push-sum with `matrices`."""
    n, d = start.shape
    net, sgd = Network(start), SGD()
    anchor, u = start[0].astype(np.float64), np.zeros(d)
    rates: list[list[float]] = [[] for _ in range(shards)]
    sums: list[tuple[int, slice, Array, Array, float]] = []
    z = []

    def take(t: int) -> None:
        while sums and sums[0][0] <= t:
            _, part, own, omega, gamma = sums.pop(0)
            mean = (omega[:, None] * own).sum(axis=0) / omega.sum()
            anchor[part], u[part] = outer_step(slowmo, anchor[part], mean, u[part], np.full_like(mean, gamma))
            # With gossip during the delay z <- z + (a − mean), else z <- a + (z − own); x = w z.
            net.x[:, part] += net.w[:, None] * (anchor[part] - (mean if matrices is not None and delay > 0 else own))

    for t in range(steps):
        g = np.stack([gradient(i, t, net.z[i]) for i in range(n)])
        net.land(t)
        net.x = net.x + sgd.change(g, net.z, rate(t))
        if matrices is not None and overlap == 0:
            net.post(matrices(t), due=t)
            net.land(t)
        take(t)
        for shard, iteration in enumerate(rates):
            iteration.append(rate(t))
            # Iterations of shard s end (s + 1)/shards of a period after those of the last shard.
            if (t + 1) % slowmo.period == (shard + 1) * slowmo.period // shards % slowmo.period:
                part = slice(shard * d // shards, (shard + 1) * d // shards)
                sums.append((t + delay, part, net.z[:, part], net.w.copy(), float(np.mean(iteration))))
                iteration.clear()
        if delay == 0:
            take(t)
        if matrices is not None and overlap >= 1:
            net.post(matrices(t), due=t + overlap)
        z.append(net.z)
    return np.stack(z), anchor


def outer_step(slowmo: SlowMo, anchor: Array, z: Array, u: Array, rate: Array) -> tuple[Array, Array]:
    """x_{t+1,0} and u_{t+1} from x_{t,0} = `anchor`, x_{t,τ} = `z`, γ_t = `rate`; at rate 0, x_{t,τ} and u_t."""
    moved = rate > 0 if slowmo.rescale else np.ones_like(rate, dtype=bool)
    gamma = np.where(moved, rate, 1.0) if slowmo.rescale else np.ones_like(rate)
    # u_{t+1} = β u_t + (x_{t,0} - x_{t,τ}) / γ_t
    slow = slowmo.momentum * u + (anchor - z) / gamma
    # Nesterov momentum replaces u_{t+1} below by β u_{t+1} + (x_{t,0} - x_{t,τ}) / γ_t.
    along = slowmo.momentum * slow + (anchor - z) / gamma if slowmo.nesterov else slow
    # x_{t+1,0} = x_{t,0} - α γ_t u_{t+1}
    x = anchor - slowmo.lr * gamma * along
    return np.where(moved, x, z), np.where(moved, slow, u)


def matrix(graph: nx.DiGraph[int]) -> Array:
    """P of one round: u -> v carries the edge's share of u, or 1 / (out-degree + 1) if edges have none."""
    P = np.zeros((len(graph), len(graph)))
    for u, v in graph.edges:
        P[v, u] = graph.edges[u, v].get("weight", 1 / (graph.out_degree(u) + 1))
    # A rank keeps the rest.
    return P + np.diag(1 - P.sum(axis=0))


def cycle(graphs: Sequence[nx.DiGraph[int]]) -> Matrices:
    """The graphs' matrices, over and over."""
    matrices = [matrix(graph) for graph in graphs]
    return lambda round: matrices[round % len(matrices)]


def exponential(size: int) -> Matrices:
    """The one-peer exponential graph: in round t rank j sends half of its weight to j + 2^(t mod ⌈log₂ n⌉)."""
    hops = [1 << i for i in range((size - 1).bit_length())] or [0]
    # P = (I + S^h) / 2
    return lambda t: (np.eye(size) + np.roll(np.eye(size), hops[t % len(hops)], axis=0)) / 2


def random_digraphs(size: int, count: int, seed: int, weighted: bool = True) -> list[nx.DiGraph[int]]:
    """A cycle of irregular digraphs whose union is strongly connected; one alone need not be connected.

    In every round a rank sends to up to three peers, often to none. With `weighted` the shares differ too, and every
    rank keeps at least a fifth of its weight.
    """
    random = np.random.default_rng((size, count, seed))
    graphs: list[nx.DiGraph[int]] = []
    for _ in range(count):
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(size))
        for u in range(size):
            others = random.permutation(np.delete(np.arange(size), u))
            graph.add_edges_from((u, int(v)) for v in others[: random.integers(0, min(3, size - 1) + 1)])
        graphs.append(graph)
    # A closed tour with each edge in some round connects the union.
    tour = [int(rank) for rank in random.permutation(size)]
    for u, v in zip(tour, tour[1:] + tour[:1], strict=True):
        if u != v:
            graphs[int(random.integers(count))].add_edge(u, v)
    for graph in graphs if weighted else ():
        for u in range(size):
            peers = list(graph.successors(u))
            shares = random.dirichlet(np.ones(len(peers) + 1))
            for v, share in zip(peers, shares, strict=False):
                graph.edges[u, v]["weight"] = 0.05 / len(peers) + 0.55 * float(share)
    return graphs
