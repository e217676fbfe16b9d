"""Gossip instead of all-reduce: push-sum SGP and OSGP over time-varying graphs, for any torch optimizer.

`world` says who takes part, `averaging` and `push_sum` what happens between updates, `optimizer` puts it into a step.
`transports` moves tensors, `checkpoint` keeps a job on disk, `testing` runs ranks as threads, `launch` runs a script on
every rank, `timeline` and `trace` show what each rank did when.
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
    # who takes part
    "World",
    "init",
    # the optimizer, and what every step can tell
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
    # what a killed job goes on from
    "checkpoint",
    # ranks as threads, and the contract of a transport
    "testing",
    # what can go wrong
    "GossipError",
    "UsageError",
    "TransportUnavailable",
    "Disagreement",
    "CheckpointError",
    "PeerTimeout",
    "PeerLost",
    "PeerDied",
]
