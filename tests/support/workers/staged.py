"""A device's tensors over real MPI: `python -m workers.staged FOLDER twin`, or `device` with a real one.

Rings both ways at once, two batches under way, tensors that no chunk divides; saves what became of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import gossip
import topologies
from gossip.transports.mpi.backend import MpiBackend
from gossip.transports.mpi.gpu import staging
from gossip.transports.mpi.gpu.cuda import Memory
from workers import twin

CHUNK = 1 << 16
SIZES = (13 * CHUNK + 5, 0, CHUNK, CHUNK - 1, 2 * CHUNK + 1, 33)
"""Bytes of the tensors of a message, with an envelope of the host before, between and after them."""
ROUNDS = 6


class Message:
    """Envelope, tensors of the device with an envelope between them, envelope."""

    def __init__(self, fill: int, device: torch.device) -> None:
        envelope = [torch.full((3,), float(fill), dtype=torch.float64) for _ in range(3)]
        body = [torch.full((size,), fill, dtype=torch.uint8, device=device) for size in SIZES]
        self.tensors = [envelope[0], *body[:3], envelope[1], *body[3:], envelope[2]]

    def holds(self, fill: int) -> bool:
        """Every byte is as it was sent."""
        return all(bool((tensor == fill).all()) for tensor in self.tensors)


def rings(world: gossip.World, device: torch.device, memory: Memory | None) -> list[int]:
    """Both ways around, round after round, two of them under way, the later one waited for first.

    The buffers that had been made after each pair of rounds.
    """
    channel, n, me = world.channel(), world.size, world.rank
    made = []
    for pair in range(ROUNDS // 2):
        flights, rooms = [], []
        for number in (2 * pair, 2 * pair + 1):
            room = {(me + side) % n: Message(0, device) for side in (1, -1)}
            sends = {(me + side) % n: Message(value(me, me + side, number, n), device).tensors for side in (-1, 1)}
            receives = {peer: message.tensors for peer, message in room.items()}
            flights.append(channel.post(sends, receives, f"round {number}"))
            rooms.append(room)
        for flight in reversed(flights):
            flight.wait()
            assert memory is None or flight.posted < flight.moved <= flight.landed, "nobody would ask soon for the rest"
        for number, room in enumerate(rooms, start=2 * pair):
            for peer, message in room.items():
                assert message.holds(value(peer, me, number, n)), f"round {number} from rank {peer} is not what it sent"
        made.append(0 if memory is None else memory.made)
    return made


def value(source: int, target: int, number: int, n: int) -> int:
    """Another one for each message; of all 256 not the poison."""
    return 1 + (number * n * n + source % n * n + target % n) % 250


def everyone(world: gossip.World, device: torch.device) -> None:
    """All to all, in an order that differs from rank to rank."""
    channel, n, me = world.channel(), world.size, world.rank
    peers = [(me + step) % n for step in range(1, n)]
    rooms = {peer: Message(0, device) for peer in peers}
    sends = {peer: Message(value(me, peer, 0, n), device).tensors for peer in reversed(peers)}
    channel.post(sends, {peer: room.tensors for peer, room in rooms.items()}, "all to all").wait()
    assert all(room.holds(value(peer, me, 0, n)) for peer, room in rooms.items())


def route(world: gossip.World, device: torch.device) -> str:
    """The route that an optimizer tells."""
    parameter = torch.zeros(1000, device=device, requires_grad=True)
    sgd = torch.optim.SGD([parameter], lr=0.1)
    optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))
    for _ in range(3):
        optimizer.step()
    optimizer.settle()
    return optimizer.stats.route


def main(folder: str, kind: str) -> None:
    """With each way to travel."""
    torch.set_num_threads(1)
    world = gossip.init("mpi", timeout=60)
    told = [route(world, torch.device("cpu"))]
    if kind == "device":
        staging.CHUNK = CHUNK
        assert isinstance(world.base.backend, MpiBackend)
        torch.zeros(1, device=world.device)
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(2):
            channel, room = world.channel(), Message(0, world.device)
            channel.post(
                {(world.rank + 1) % world.size: Message(7, world.device).tensors},
                {(world.rank - 1) % world.size: room.tensors},
                "a round without a wait for the device",
            ).wait()
        torch.cuda.set_sync_debug_mode("default")
        assert room.holds(7)
        rings(world, world.device, None)
        everyone(world, world.device)
        told.append(route(world, world.device))
        np.savez(Path(folder) / f"{world.rank}.npz", told=told)
        return
    memory = twin.staged(world, CHUNK)
    made = rings(world, world.device, memory)
    everyone(world, world.device)
    told.append(route(world, world.device))
    assert not memory.used, "buffers were not given back"
    most = memory.most_used
    twin.direct(world, CHUNK)
    rings(world, world.device, None)
    told.append(route(world, world.device))
    np.savez(Path(folder) / f"{world.rank}.npz", told=told, made=made, most=most)


if __name__ == "__main__":
    main(*sys.argv[1:])
