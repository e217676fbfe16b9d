"""Graphs by name, as the options of composed families take them."""

from __future__ import annotations

from topologies.errors import TopologyError
from topologies.families.complete import complete
from topologies.families.exponential import exponential
from topologies.families.ring import ring
from topologies.topology import Topology, positive

NAMES = ("complete", "exponential", "ring")


def named(name: str, size: int, peers: int, option: str) -> Topology:
    """The complete graph, the ring, or the exponential graph with `peers`, on `size` ranks.

    Raises:
        TopologyError: another name, or peers that the graph does not have; the message begins with `option`.
    """
    if not isinstance(name, str) or name not in NAMES:
        raise TopologyError(
            f"{option}={name!r} is none of {', '.join(map(repr, NAMES))}: choose one of these, or put other graphs "
            "together with topologies.switch or topologies.lift"
        )
    if name == "exponential":
        return exponential(size, peers)
    if positive(peers, f"{option}_peers") != 1:
        raise TopologyError(
            f"{option}={name!r} has its peers by its nature, so {option}_peers={peers!r} does not fit: leave it out, "
            f"or pass {option}='exponential'"
        )
    return complete(size) if name == "complete" else ring(size)
