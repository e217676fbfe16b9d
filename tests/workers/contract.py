"""The contract of each transport named, on this rank of a real process set: `python -m workers.contract mpi gloo`.

`mpi/far` speaks as between hosts.
"""

from __future__ import annotations

import sys

import torch

import gossip
from gossip import testing
from gossip.transports.mpi import MpiTransport


def main(*transports: str) -> None:
    torch.set_num_threads(1)
    for run in transports:
        transport, _, far = run.partition("/")
        with gossip.init(transport=transport, timeout=60) as world:
            assert world.transport == transport
            if far:
                part(world)
            testing.check_transport(world)
            # All processes stand on one host: the node is everybody, and nobody has a counterpart elsewhere.
            assert (world.node.rank, world.node.size) == (world.rank, world.size)
            assert (world.across.rank, world.across.size) == (0, 1)
            testing.check_transport(world.node)
            testing.check_transport(world.across)


def part(world: gossip.World) -> None:
    """Let MPI speak to ranks of this host as to those of others."""
    assert isinstance(world.base, MpiTransport)
    assert world.base.engine.near == frozenset(range(world.size))
    world.base.engine.near = frozenset()


if __name__ == "__main__":
    main(*sys.argv[1:])
