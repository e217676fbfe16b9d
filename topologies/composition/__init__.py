"""Topologies made of topologies; each is a function of (rank, round) again.

`order` puts the rounds of others in another order: `interleave`, `repeat`, `switch`. `relabel`, `reverse` and `without`
change the edges. `lift` combines a graph of hosts with a graph inside each host, and `side_by_side` sets groups of
ranks beside each other. The room imports `arrays`, `checks`, `topology`, `validation` and `kinds`.
"""

from __future__ import annotations

from topologies.composition.lift import lift
from topologies.composition.order import interleave, repeat, switch
from topologies.composition.relabel import relabel
from topologies.composition.reverse import reverse
from topologies.composition.without import without

__all__ = ["interleave", "lift", "relabel", "repeat", "reverse", "switch", "without"]
