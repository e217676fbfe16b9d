"""Gossip graphs: the share of its weight that each rank sends to each peer, as a pure function of (rank, round).

The rooms, in the order of imports: `arrays/`, `topology.py` with `validation.py`, `kinds/` (bases of families),
`composition/` (graphs made of graphs), `families/` and `catalogue.py`, `custom/` and `loading.py` (graphs of the user),
`analysis/`, `commands/`. A room may import the rooms before it, and outside of this package only numpy and networkx.
`python -m topologies` is the command line.
"""

from __future__ import annotations

from topologies import analysis
from topologies.arrays.edges import Edges
from topologies.composition import interleave, lift, relabel, repeat, reverse, switch, without
from topologies.custom.files import from_file
from topologies.custom.functions import from_function
from topologies.custom.matrices import from_matrix
from topologies.custom.networkx_graphs import from_networkx
from topologies.errors import SpecError, TopologyError
from topologies.families.alternating_exponential import alternating_exponential
from topologies.families.base_graph import base_graph
from topologies.families.binary_tree import binary_tree
from topologies.families.bipartite_exponential import bipartite_exponential
from topologies.families.circulant import circulant
from topologies.families.complete import complete
from topologies.families.equidyn import equidyn
from topologies.families.equistatic import equistatic
from topologies.families.erdos_renyi import erdos_renyi
from topologies.families.exponential import exponential
from topologies.families.grid import grid, torus
from topologies.families.hybrid import hybrid
from topologies.families.hypercube import hypercube
from topologies.families.linear import linear
from topologies.families.matcha import matcha
from topologies.families.node_aware import node_aware
from topologies.families.one_peer_hypercube import one_peer_hypercube
from topologies.families.random_pairs import random_pairs
from topologies.families.random_peer import random_peer
from topologies.families.random_regular import random_regular
from topologies.families.ring import ring
from topologies.families.sgp_graph import sgp_graph
from topologies.families.small_world import small_world
from topologies.families.star import star
from topologies.families.static_exponential import static_exponential
from topologies.loading import load
from topologies.topology import Topology, Turn
from topologies.validation import validate

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022  grouped by use
    "__version__",
    # the interface
    "Topology",
    "Turn",
    "Edges",
    "validate",
    # one graph for all rounds
    "binary_tree",
    "circulant",
    "complete",
    "equistatic",
    "erdos_renyi",
    "grid",
    "hypercube",
    "random_regular",
    "ring",
    "small_world",
    "star",
    "static_exponential",
    "torus",
    # another graph in each round
    "alternating_exponential",
    "base_graph",
    "bipartite_exponential",
    "exponential",
    "hybrid",
    "linear",
    "one_peer_hypercube",
    "sgp_graph",
    # drawn anew in each round, the same on every rank
    "equidyn",
    "matcha",
    "random_pairs",
    "random_peer",
    # for ranks that share hosts
    "node_aware",
    # graphs of graphs
    "interleave",
    "lift",
    "relabel",
    "repeat",
    "reverse",
    "switch",
    "without",
    # one's own
    "from_networkx",
    "from_matrix",
    "from_function",
    "from_file",
    "load",
    # what a graph is worth
    "analysis",
    # errors
    "SpecError",
    "TopologyError",
]


def __dir__() -> list[str]:
    """The public names; the modules behind them stay importable."""
    return [*__all__, "__doc__", "__file__", "__name__", "__path__"]
