"""Predictions about a topology before any communication.

`spectrum` computes eigenvalues of small graphs, `consensus` simulates gossip on any number of ranks, and `reach` counts
peers and tests connectivity. `facts` gathers these, `cost` turns rounds into seconds on a network, and `advice` ranks
the families by them. `figures` computes figures of the literature again. The room imports `loading` and the rooms
before it.
"""

from __future__ import annotations

from topologies.analysis.advice import Advice, advise
from topologies.analysis.consensus import EXACT, Consensus, consensus, rounds_to
from topologies.analysis.cost import Link, allreduce_seconds, elapsed, round_seconds
from topologies.analysis.facts import Facts, facts
from topologies.analysis.figures import Figure, figures
from topologies.analysis.reach import Degrees, Span, connected, degrees, loads, window
from topologies.analysis.spectrum import contraction, product, spectral_gap

__all__ = [  # noqa: RUF022  grouped by file
    "spectral_gap",
    "product",
    "contraction",
    "EXACT",
    "Consensus",
    "consensus",
    "rounds_to",
    "Degrees",
    "Span",
    "degrees",
    "loads",
    "connected",
    "window",
    "Facts",
    "facts",
    "Figure",
    "figures",
    "Link",
    "round_seconds",
    "elapsed",
    "allreduce_seconds",
    "Advice",
    "advise",
]
