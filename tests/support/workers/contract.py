"""The contract of each transport named, on this rank of a real process set: `python -m workers.contract mpi gloo`.

`mpi/far` speaks as between hosts, `mpi/staged` and `mpi/direct` as with a device's memory, which the host's plays, and
`mpi/device` with that of `world.device`.
"""

from __future__ import annotations

import sys

import torch

import gossip
from gossip import testing
from gossip.transports.collective import sums
from gossip.transports.mpi.backend import MpiBackend
from workers import twin

LANE = sums.LANE


def main(*transports: str) -> None:
    torch.set_num_threads(1)
    for run in transports:
        transport, _, how = run.partition("/")
        with gossip.init(transport=transport, timeout=60) as world:
            assert world.transport == transport
            speak(world, how)
            device = world.device if how == "device" else None
            testing.check_transport(world, device=device)
            # All processes stand on one host: the node is everybody, and nobody has a counterpart elsewhere.
            assert (world.node.rank, world.node.size) == (world.rank, world.size)
            assert (world.across.rank, world.across.size) == (0, 1)
            testing.check_transport(world.node, device=device)
            testing.check_transport(world.across, device=device)


def speak(world: gossip.World, how: str, chunk: int = 50_000) -> None:
    """Let MPI speak as it would elsewhere, until the next call.

    By `chunk` bytes, the megabytes of the contract are some dozens of chunks, and many of its tensors less than one.
    """
    if not isinstance(world.base.backend, MpiBackend):
        return
    engine = world.base.backend.engine
    engine.near = frozenset() if how == "far" else frozenset(range(world.size))
    engine.routes = None
    sums.LANE = chunk if how in ("staged", "direct") else LANE  # a device's sums in two halves too
    if how == "staged":
        twin.staged(world, chunk)
    elif how == "direct":
        twin.direct(world, chunk)


if __name__ == "__main__":
    main(*sys.argv[1:])
