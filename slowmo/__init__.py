"""Slow momentum on top of any base optimizer, and the family of methods around it.

`slow_momentum` is SlowMo. `sharded` keeps a part of anchor and momentum on each rank. `shared_momentum` averages the
momentum alone. `streaming/` averages one part of the model after another while steps go on. `outer/` holds the outer
step and the public wrapper of them all. `family` names compositions in one line. `refusals` checks arguments.
May import: gossip, topologies.
"""

from topologies import __version__

from .family import bmuf, diloco, double_averaging, gossip_pga, local_sgd, lookahead, noloco
from .sharded import ShardedSlowMo
from .shared_momentum import SharedMomentum
from .slow_momentum import SlowMo
from .streaming.streaming_slowmo import StreamingSlowMo

__all__ = [  # noqa: RUF022  grouped by use
    "__version__",
    # the method, and its variants
    "SlowMo",
    "StreamingSlowMo",
    "ShardedSlowMo",
    "SharedMomentum",
    # compositions with names
    "bmuf",
    "lookahead",
    "local_sgd",
    "gossip_pga",
    "diloco",
    "noloco",
    "double_averaging",
]


def __dir__() -> list[str]:
    """The public names; the modules behind them stay importable."""
    return [*__all__, "__doc__", "__file__", "__name__", "__path__"]
