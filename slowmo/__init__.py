"""Slow momentum on top of any base optimizer, and the family of methods around it.

`slow_momentum` is SlowMo, `outer` what it shares with its relatives: `streaming` averages one part of the model after
another while steps go on (over `stream`, cut by `fragments`, applied by `landing`), `sharded` keeps a part of anchor
and momentum on each rank, `shared_momentum` averages the momentum alone. `rule` is the outer step itself,
`outer_optimizer` any torch optimizer in its place, and `memory` is where anchors rest. `family` names what is composed
in one line. `buffers` is what happens to the base optimizer's state at an outer step, `rates` follows its learning
rate, `refusals` is what none of them can work with.
"""

from .family import bmuf, diloco, double_averaging, gossip_pga, local_sgd, lookahead, noloco
from .sharded import ShardedSlowMo
from .shared_momentum import SharedMomentum
from .slow_momentum import SlowMo
from .streaming.streaming_slowmo import StreamingSlowMo

__all__ = [  # noqa: RUF022  grouped by use
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
