"""Topologies made of topologies; everything stays a function of (rank, round).

`interleave`, `repeat` and `switch` put the rounds of others in another order. `relabel`, `reverse` and `without` change
who sends to whom. `lift` puts a graph of hosts and a graph inside each host together.
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
