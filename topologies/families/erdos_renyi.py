"""Erdős-Rényi graphs: every pair of ranks is joined with the same probability."""

from __future__ import annotations

import math

import networkx as nx

from topologies import checks
from topologies.arrays.connectivity import first_connected
from topologies.arrays.weights import undirected
from topologies.checks import positive
from topologies.kinds.table import Table
from topologies.validation import validated


class ErdosRenyi(Table):
    """The schedule that `erdos_renyi` returns."""


def erdos_renyi(size: int, probability: float | None = None, seed: int = 0, weights: str = "metropolis") -> ErdosRenyi:
    """Erdős-Rényi graph: each pair of ranks exchanges with probability p, in all rounds or never, drawn by `seed`.

        {i, j} is an edge with probability p, each pair independently

    Such a graph connects when p lies above ln(n)/n. The default is twice that, about 2 ln(n) neighbours a rank; on up
    to 4 ranks that is about .7. A draw that is not connected is drawn again.

    Args:
        size: number of ranks n, from 1.
        probability: p, from 0 to 1; None stands for 2 ln(n)/n.
        seed: an integer from 0.
        weights: "metropolis" or "uniform", as for `grid`.

    Raises:
        TopologyError: other values, or 100 draws of which none is connected.

    >>> erdos_renyi(3, probability=1).turn(rank=0, round=0)
    Turn(keep=0.333..., sends={1: 0.333..., 2: 0.333...}, receives={1: 0.333..., 2: 0.333...})

    Source: Gilbert, Random Graphs, Annals of Mathematical Statistics 1959. The bound for connection: Erdős, Rényi, On
    Random Graphs I, Publicationes Mathematicae Debrecen 1959.
    """
    size = positive(size, "the size of an Erdős-Rényi graph")
    seed = checks.natural(seed, "the seed of an Erdős-Rényi graph")
    usual = 2 * math.log(size) / size
    p = usual if probability is None else checks.probability(probability, "the probability of an Erdős-Rényi graph")
    ends = first_connected(
        seed,
        lambda seed: nx.fast_gnp_random_graph(size, p, seed),
        f"an Erdős-Rényi graph of {size} ranks with probability={p:g}",
        f"pass probability={math.ceil(usual * 1000) / 1000:g} or more",
    )
    return validated(ErdosRenyi([undirected(size, ends, weights)]))
