"""Who sends which share of its weight to whom, as pure functions of (rank, round).

`topology.py` holds the interface, `validation.py` its laws, `circulant.py` the base of graphs in which all ranks do the
same, `families/` the graphs, `networkx_graphs.py` and `loading.py` the ways to bring one's own. Needs numpy and
networkx only. `python -m topologies` lists, shows and checks graphs.
"""

from __future__ import annotations

from topologies.errors import SpecError, TopologyError
from topologies.families.complete import complete
from topologies.families.exponential import exponential
from topologies.families.ring import ring
from topologies.loading import load
from topologies.networkx_graphs import from_networkx
from topologies.topology import Topology, Turn
from topologies.validation import validate

__all__ = [  # noqa: RUF022  grouped by use
    # the interface
    "Topology",
    "Turn",
    "validate",
    # the families
    "complete",
    "exponential",
    "ring",
    # one's own
    "from_networkx",
    "load",
    # errors
    "SpecError",
    "TopologyError",
]
