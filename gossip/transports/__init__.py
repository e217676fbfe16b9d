"""Transports: how tensors travel between ranks. They know nothing of graphs, weights or optimizers.

A backend (`flight`: `post` returns a `Flight` with `done`, `pause`, `missing`, `cancel`) moves one batch at a time, in
`mpi/`, `torch/` or `memory`. One `communicator` stands above any of them: ranks, channels, groups, collectives, and
`wait` with its deadline. `deadlines` has the sentences of a wait that takes long. `collective/` has generators of
batches over a `Channel`, the few things of a communicator that they use. `contract` tests it all.

`gossip.world` imports `mpi` and `torch` when they are chosen, since they need what may not be installed.
May import: checks, errors, launching, observe.
"""

from .carrier import Carrier, Told
from .collective.sums import post_in_parts
from .communicator import Communicator
from .flight import Backend, Channel, Flight
from .memory import Killed, MemoryBackend, Network

__all__ = [
    "Backend",
    "Carrier",
    "Channel",
    "Communicator",
    "Flight",
    "Killed",
    "MemoryBackend",
    "Network",
    "Told",
    "post_in_parts",
]
