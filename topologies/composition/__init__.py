"""Topologies made of topologies; each is a function of (rank, round) again.

`interleave`, `repeat` and `switch` put the rounds of others in another order. `relabel`, `reverse` and `without` change
the edges. `lift` combines a graph of hosts with a graph inside each host. The room imports `arrays`, `checks`,
`topology`, `validation` and `kinds`.
"""

from __future__ import annotations

from topologies.composition.interleave import interleave
from topologies.composition.lift import lift
from topologies.composition.relabel import relabel
from topologies.composition.repeat import repeat
from topologies.composition.reverse import reverse
from topologies.composition.switch import switch
from topologies.composition.without import without

__all__ = ["interleave", "lift", "relabel", "repeat", "reverse", "switch", "without"]
