"""A paper's table of seconds beside the model's.

Wang, Tantia, Ballas, Rabbat: SlowMo, ICLR 2020, arXiv 1910.00643, table 2: ImageNet, ResNet-50, 32 nodes with 10 Gbit/s
Ethernet; τ = 48, of Local SGD 12. The model has bytes over bandwidth and no jitter, latency or merging.
"""

from __future__ import annotations

from typing import NamedTuple

import topologies

from .machine import Cluster, Machine
from .methods import methods
from .simulation import simulate

NODES, NBYTES, PERIOD, LOCAL_PERIOD = 32, 102_400_000, 48, 12
MACHINE = Machine(compute=0.271, rate=10e9)
TABLE = {
    "ar": 0.420,
    "local": 0.294,
    "local-slowmo": 0.282,
    "sgp": 0.304,
    "sgp-slowmo": 0.302,
    "sgp-noaverage": 0.298,
    "osgp": 0.271,
    "osgp-slowmo": 0.271,
}
WITHIN = 0.12
WHY = (
    "The paper's SGP took 33 ms beyond its compute, and 102.4 MB take 82 ms one way at 10 Gbit/s: part of its transfer "
    "ran while it computed. SGP here sends after the update and waits."
)


class Row(NamedTuple):
    """A method, the paper's seconds, the model's, and model / paper − 1."""

    method: str
    title: str
    paper: float
    model: float
    error: float


def rows() -> list[Row]:
    """The table, beside the model."""
    chosen = {name: method for name, method in methods(PERIOD, LOCAL_PERIOD).items() if name in TABLE}
    found = simulate(
        chosen, Cluster(MACHINE, NODES), topologies.exponential(NODES), NBYTES, steps=PERIOD, warmup=PERIOD
    )
    return [
        Row(name, chosen[name].title, paper, found[name].seconds.mean, found[name].seconds.mean / paper - 1)
        for name, paper in TABLE.items()
    ]
