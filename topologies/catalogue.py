"""The families by the names that `topologies.load` and the command line know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from topologies.families.complete import complete
from topologies.families.exponential import exponential
from topologies.families.ring import ring
from topologies.topology import Topology

CATALOGUE: Mapping[str, Callable[..., Topology]] = MappingProxyType(
    {
        "complete": complete,
        "exponential": exponential,
        "ring": ring,
    }
)
