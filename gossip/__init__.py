"""Gossip instead of all-reduce: push-sum SGP and OSGP over time-varying graphs, for any torch optimizer.

`world` is the ranks, `optimizer` the step of five phases: land, gradients, update, average, post. `state/` holds one
rank's values and weight, `averagers/` act between two updates, `training/` is the step around them, `transports/` move
tensors. `recovery/` goes on without dead ranks, `observe/` tells people of a run, `checkpoint/` keeps a job on disk,
`launching/` reads launchers. `testing`, `launch`, `trace` and `status` are used by name. `topologies` and `slowmo` are
the packages beside this one, for programs that prefer one root.
"""

from . import naming  # noqa: F401  first, for it says whether the topologies are ours

# isort: split
import importlib
from typing import TYPE_CHECKING

import topologies
from topologies import __version__

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
from .observe.stats import Counters, Stats, WeightReport
from .optimizer import GossipOptimizer
from .recovery.deaths import Death
from .world import World, init

__all__ = ["World", "__version__", "init"]
__all__ += ["Counters", "Death", "GossipOptimizer", "Stats", "WeightReport"]  # the optimizer and its reports
__all__ += ["Averager", "Chain", "Every", "ExactAverage", "NoAverage", "PushSum"]
__all__ += ["checkpoint", "testing"]  # checkpoints; ranks as threads, and the contract of a transport
__all__ += ["CheckpointError", "Disagreement", "GossipError", "PeerDied", "PeerLost", "PeerTimeout"]
__all__ += ["TransportUnavailable", "UsageError"]
__all__ += ["topologies"]


if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> object:
        """`gossip.slowmo`, which its first use loads."""
        if name == "slowmo":
            return importlib.import_module("gossip.slowmo")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names; the modules behind them stay importable."""
    return [*__all__, "__doc__", "__file__", "__name__", "__path__"]
