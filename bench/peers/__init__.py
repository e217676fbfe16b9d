"""Peers: other libraries that do what we do, driven through the same loop and measured in the same run.

Each file holds one library, written from its public behaviour, imports it when it is built, and says what a reader of
its row has to know. What they need is the extra `peers` in setup.cfg; what is not installed is left out with a word.
"""

from . import allreduce, ddp, decent_dp, fairscale, post_local_sgd, torchft
from .peer import Peer, Running

YARDSTICK = "torch-allreduce"
"""Measured in every run, last."""

PEERS = {
    YARDSTICK: allreduce.PEER,
    "ddp": ddp.PEER,
    "ddp-overlap": ddp.OVERLAP,
    "post-local-sgd": post_local_sgd.PEER,
    "decent-dp": decent_dp.PEER,
    "decent-dp-ring": decent_dp.RING,
    "torchft": torchft.PEER,
    "torchft-diloco": torchft.DILOCO,
    "fairscale-sgp": fairscale.PEER,
    "fairscale-slowmo": fairscale.SLOWMO,
    "fairscale-local-slowmo": fairscale.LOCAL,
}

__all__ = ["PEERS", "YARDSTICK", "Peer", "Running"]
