"""Peers: other libraries with the same purpose, driven through the same loop and measured in the same run.

Each file holds one library, which it imports when a peer is built, and the limits of its rows. Their packages are the
extra `peers` in setup.cfg; what is missing is left out. The room imports `bench.shared` and `bench.measuring`.
"""

from . import decent_dp, fairscale, torch_own, torchft
from .peer import Peer

YARDSTICK = "torch-allreduce"  # measured in every run, last

PEERS = {
    YARDSTICK: torch_own.ALL_REDUCE,
    "ddp": torch_own.DDP,
    "ddp-overlap": torch_own.OVERLAP,
    "post-local-sgd": torch_own.POST_LOCAL_SGD,
    "decent-dp": decent_dp.PEER,
    "decent-dp-ring": decent_dp.RING,
    "torchft": torchft.PEER,
    "torchft-diloco": torchft.DILOCO,
    "fairscale-sgp": fairscale.PEER,
    "fairscale-slowmo": fairscale.SLOWMO,
    "fairscale-local-slowmo": fairscale.LOCAL,
}

__all__ = ["PEERS", "YARDSTICK", "Peer"]
