"""Transports: how tensors travel between ranks. They know nothing of graphs, weights or optimizers.

`base` and `flight` are the interface, `collectives`, `sums` and `parts` what is built on it, `survival` how ranks go on
when one has died, and there is one file per way to travel. `mpi` and `distributed` are imported by `gossip.world` when
they are chosen, since they need what may not be installed; `joined` asks for ranks that the program has joined by
itself. Below `mpi`, `mpi_engine` drives MPI, `parcels` are what it carries, and `gpu_aware` chooses how a GPU's tensors
go: `direct` or by `staging`. Below `distributed`, ranks find one another by `rendezvous`, `store` and `interfaces`,
`streams` has what NCCL does in the order of a GPU's stream, and below `memory` is the `network` of threads.
"""

from ..recovery.survival import Carrier, Lasting, Told
from .base import Transport
from .flight import Batch, Flight
from .memory.network import Killed, Network
from .memory.transport import MemoryTransport
from .parts import post_in_parts

__all__ = [
    "Batch",
    "Carrier",
    "Flight",
    "Killed",
    "Lasting",
    "MemoryTransport",
    "Network",
    "Told",
    "Transport",
    "post_in_parts",
]
