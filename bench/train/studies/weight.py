"""Gossip with and without the push-sum weight, on a directed graph whose columns alone sum to 1, with skewed labels."""

import networkx as nx

from ...shared.methods import Method
from ..study import Arm, Study, claims, tuned
from .grids import RATES

GRAPH = f"{__name__}:lopsided"
METHODS = {
    f"{name}{'' if weighted else ' without weight'}": Method(name.lower(), graph=GRAPH, weighted=weighted)
    for name in ("SGP", "OSGP")
    for weighted in (True, False)
}


def lopsided(size: int) -> nx.DiGraph:
    """A ring in which every rank but the last also sends to rank 0, and rank 0 to every other second rank.

    Each source shares evenly, so columns sum to 1 and rows do not: rank 0 has the most in-peers.

    >>> sorted(lopsided(4).in_degree())
    [(0, 3), (1, 1), (2, 2), (3, 1)]
    """
    ring = nx.cycle_graph(size, create_using=nx.DiGraph)
    ring.add_edges_from((rank, 0) for rank in range(1, size))
    ring.add_edges_from((0, rank) for rank in range(2, size, 2))
    return ring


STUDY = Study(
    name="weight",
    title="The push-sum weight on an irregular directed graph, 8 workers, skewed labels",
    hypothesis=(
        "Without the weight ranks agree on a mean that counts some ranks' data for more, so with skewed labels the "
        "score is worse than with it."
    ),
    arms=tuple(Arm(name, tuned("textures", method, RATES["textures"], skew=0.1)) for name, method in METHODS.items()),
    claims=claims("SGP > SGP without weight, OSGP > OSGP without weight"),
)
