"""OSGP with an event on one rank: `python -m workers.watched killed mpi 5 rank=1 step=6` on every rank."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import torch

import gossip
import topologies


def happens(what: str, world: gossip.World) -> None:
    """The event, on its rank."""
    print(f"{what} at {time.monotonic()}", flush=True)
    if what in ("killed", "killed early"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "hung":
        threading.Event().wait(100)
    elif what == "exits":
        sys.exit(3)
    elif what in ("told", "asked"):
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "job told":  # of one host, so that mpirun itself is the parent
        os.kill(os.getppid(), signal.SIGTERM)
    elif what == "job asked":
        os.kill(os.getppid(), signal.SIGUSR2)
    elif what == "job watched":
        os.kill(os.getppid(), signal.SIGUSR1)


def main(what: str, transport: str, timeout: str, *more: str) -> None:
    """A step of every rank takes some ten milliseconds."""
    where = dict(pair.split("=") for pair in more)
    rank, at = int(where.get("rank", 1)), int(where.get("step", 6))
    torch.set_num_threads(1)
    gossip.init(transport, timeout=60).barrier()  # all have read their libraries, before the short deadline holds
    world = gossip.init(transport, timeout=float(timeout))
    parameter = torch.zeros(1000, requires_grad=True)
    osgp = gossip.PushSum(world, topologies.exponential(world.size), overlap=1)
    optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), osgp)
    pause = threading.Event()
    for step in range(2000):
        if "asked" in what and step % 5 == 0 and world.stop_requested():
            print(f"rank {world.rank} saves step {step}", flush=True)
            break
        if world.rank == rank and step == at:
            happens(what, world)
        if what == "killed early" and step == at:  # the others notice when they post, if Gloo is awake by then
            while not world.base.board.has_ended(rank, patience=1):
                pass
            pause.wait(0.2)
        if what == "job watched" and step == at + 20:
            break
        optimizer.step()
        pause.wait(0.01)
    optimizer.settle()
    world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
