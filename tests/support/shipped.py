"""Every graph that ships, with its options: the table over which laws, training and command line are tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import topologies
from topologies import Topology


def any_size(size: int) -> bool:
    return True


def power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


@dataclass(frozen=True)
class Shipped:
    """One graph at any size that `fits`; at the others it is refused."""

    label: str
    make: Callable[[int], Topology]
    fits: Callable[[int], bool] = any_size

    def __str__(self) -> str:
        return self.label


def family(name: str, fits: Callable[[int], bool] = any_size, **options: Any) -> Shipped:
    label = ",".join([name, *(f"{option}={value}" for option, value in options.items())])
    return Shipped(label, lambda size: topologies.load(name, size, **options), fits)


FAMILIES = [
    # one graph for all rounds
    family("complete"),
    family("ring"),
    family("ring", directed=True),
    family("star"),
    family("star", weights="uniform"),
    family("grid"),
    family("grid", weights="uniform"),
    family("torus"),
    family("hypercube", power_of_two),
    family("static_exponential"),
    family("circulant", hops=(1, -2, 5)),
    family("binary_tree"),
    family("binary_tree", weights="uniform"),
    family("random_regular"),
    family("random_regular", lambda size: size > 3 and size % 2 == 0, degree=3, seed=1),
    family("erdos_renyi"),
    family("erdos_renyi", weights="uniform", seed=2),
    family("small_world"),
    family("small_world", neighbours=2, rewire=0.5, seed=3),
    family("equistatic"),
    family("equistatic", directed=False, hops=3, seed=1),
    # another graph in each round
    family("exponential"),
    family("exponential", lambda size: size == 1 or size > 2, peers=2),
    family("alternating_exponential"),
    family("bipartite_exponential"),
    family("linear"),
    family("sgp_graph"),
    family("sgp_graph", kind="NPeerDynamicDirectedExponentialGraph", peers=3),
    family("sgp_graph", lambda size: size == 1 or size % 2 == 0, kind="DynamicBipartiteExponentialGraph"),
    family("circulant", hops=(1, 2, -3), one_by_one=True),
    family("one_peer_hypercube", power_of_two),
    *(family("base_graph", peers=peers) for peers in (1, 2, 3, 7)),
    family("hybrid"),
    # drawn anew in each round
    family("equidyn"),
    family("equidyn", directed=False, eta=1, seed=5),
    family("random_pairs"),
    family("random_pairs", seed=2**40),
    family("random_peer"),
    family("random_peer", hops="any", seed=1),
    family("matcha"),
    Shipped("matcha,of a torus", lambda size: topologies.matcha(size, topologies.torus(size), budget=0.3, seed=1)),
    # for ranks that share hosts
    family("node_aware"),
    family("node_aware", local_size=3, inner="complete", outer="ring"),
]

COMPOSED = [
    Shipped("lift", lambda size: topologies.lift(topologies.exponential(size), 1)),
    Shipped(
        "lift to pairs",
        lambda size: topologies.lift(topologies.base_graph(size // 2), topologies.ring(2)),
        lambda size: size % 2 == 0,
    ),
    Shipped("interleave", lambda size: topologies.interleave(topologies.ring(size), topologies.random_pairs(size))),
    Shipped("repeat", lambda size: topologies.repeat(topologies.exponential(size), 3)),
    Shipped("relabel", lambda size: topologies.relabel(topologies.base_graph(size), range(size - 1, -1, -1))),
    Shipped("without", lambda size: topologies.without(topologies.exponential(size + 2), [0, size])),
    Shipped("without the hub", lambda size: topologies.without(topologies.star(size + 1), [0])),
    Shipped("reverse", lambda size: topologies.reverse(topologies.exponential(size))),
    Shipped("reverse, uneven", lambda size: topologies.reverse(topologies.star(size, weights="uniform"))),
    Shipped("switch", lambda size: topologies.switch(topologies.complete(size), 3, topologies.ring(size))),
]

SHIPPED = FAMILIES + COMPOSED


def descriptions() -> dict[str, str]:
    graphs = {str(graph): graph.make(16) for graph in SHIPPED if graph.fits(16)}
    return {name: f"{graph.describe()} {graph.turn(15, 10**9)}" for name, graph in graphs.items()}
