"""A paper's table of seconds (`bench.shared.paper`) beside the model's.

The model has bytes over bandwidth and no jitter, latency or merging.
"""

from __future__ import annotations

from typing import NamedTuple

import topologies

from ..shared.paper import COMPUTE, IMAGENET, LOCAL_PERIOD, NBYTES, PERIOD, RATE, SGP_OVERLAPS
from .machine import Cluster, Machine
from .methods import methods
from .simulation import simulate

MACHINE = Machine(compute=COMPUTE, rate=RATE)
TABLE = IMAGENET.seconds
WITHIN = 0.12
WHY = SGP_OVERLAPS


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
    nodes = IMAGENET.nodes
    found = simulate(
        chosen, Cluster(MACHINE, nodes), topologies.exponential(nodes), NBYTES, steps=PERIOD, warmup=PERIOD
    )
    return [
        Row(name, chosen[name].title, paper, found[name].seconds.mean, found[name].seconds.mean / paper - 1)
        for name, paper in TABLE.items()
    ]
