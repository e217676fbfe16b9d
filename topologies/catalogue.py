"""The families by the names that `topologies.load` and the command line know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from topologies.families.complete import complete
from topologies.families.exponential import exponential
from topologies.families.ring import ring
from topologies.topology import Topology

Family = Callable[..., Topology]

GROUPS: Mapping[str, tuple[Family, ...]] = MappingProxyType(
    {
        "one graph for all rounds": (
            complete,
            ring,
        ),
        "another graph in each round": (exponential,),
        "drawn anew in each round, the same on every rank": (),
        "for ranks that share hosts": (),
    }
)

CATALOGUE: Mapping[str, Family] = MappingProxyType(
    {family.__name__: family for group in GROUPS.values() for family in group}
)
