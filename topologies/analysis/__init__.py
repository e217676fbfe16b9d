"""What can be computed of a topology before a byte moves.

`spectrum.py` reads matrices of small graphs, `consensus.py` simulates gossip on any number of ranks, `reach.py` counts
peers and asks who hears of whom, `facts.py` gathers all of it, `cost.py` turns rounds into seconds on a network,
`advice.py` ranks the families by them, and `figures.py` computes the known numbers again.
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
