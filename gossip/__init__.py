"""Gossip instead of all-reduce: push-sum SGP and OSGP over time-varying graphs, for any torch optimizer.

`world` is this process's place among the ranks, `averagers` act between two updates, and `optimizer` calls them in each
step. `transports` moves tensors, and `checkpoint` keeps a job on disk. `testing` runs ranks as threads, `launch` runs a
script on every rank, and `trace` joins the timelines of all ranks.
"""

__version__ = "0.1.0"

from . import checkpoint, testing
from .averagers.base import Averager, NoAverage
from .averagers.composition import Chain, Every
from .averagers.exact import ExactAverage
from .averagers.push_sum import PushSum
from .errors import (
    CheckpointError,
    Disagreement,
    GossipError,
    PeerDied,
    PeerLost,
    PeerTimeout,
    TransportUnavailable,
    UsageError,
)
from .observe.stats import Counters, Stats
from .observe.weight_report import WeightReport
from .optimizer import GossipOptimizer
from .recovery.deaths import Death
from .world import World, init

__all__ = [  # noqa: RUF022  grouped by use
    # the ranks
    "World",
    "init",
    # the optimizer and its reports
    "GossipOptimizer",
    "Stats",
    "Counters",
    "Death",
    "WeightReport",
    # averagers
    "Averager",
    "PushSum",
    "ExactAverage",
    "NoAverage",
    "Every",
    "Chain",
    # checkpoints
    "checkpoint",
    # ranks as threads, and the contract of a transport
    "testing",
    # errors
    "GossipError",
    "UsageError",
    "TransportUnavailable",
    "Disagreement",
    "CheckpointError",
    "PeerTimeout",
    "PeerLost",
    "PeerDied",
]
