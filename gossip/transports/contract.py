"""The contract that every transport keeps: one law a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import PeerTimeout

Ranks = Any  # a World: ranks 0..size-1 with channels, groups, gather and barrier

Dtypes = Sequence[torch.dtype]
Law = Callable[[Ranks, Dtypes, torch.device], None]


def check_transport(
    world: Ranks, dtypes: Dtypes = (torch.float32, torch.float64, torch.bfloat16), device: torch.device | None = None
) -> None:
    """The contract of a transport, run on every rank of any world; raises AssertionError where it is broken.

    Messages of one pair of ranks keep their order, expected ones too; other messages have none. Several tensors and
    dtypes travel in a message, and empty batches land. Channels and groups do not meet. Sums, also in halves, have
    equal bits everywhere. Broadcast, gather and barrier work, and a deadline names the peer.

    Args:
        world: any ranks.
        dtypes: of the tensors that they exchange.
        device: of these tensors; by default the rank's GPU over NCCL, and the host over all others.
    """
    n, free = world.size, world.base.lanes > 1  # in a stream messages have one order, and the watchdog sees a deadline
    for laws, applies in ((ALWAYS, True), (PAIRS, n > 1), (TRIPLES, n > 2 and free), (UNORDERED, n > 1 and free)):
        for law in laws if applies else ():
            law(world, dtypes, device or world.base.home or torch.device("cpu"))
            world.barrier()


def _filled(device: torch.device, count: int, value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((count,), value, dtype=dtype, device=device)


def _neighbours(world: Ranks) -> tuple[int, int]:
    return (world.rank - 1) % world.size, (world.rank + 1) % world.size


def _exchange(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Each rank hands several tensors to its right neighbour; sizes from one element to a megabyte."""
    n, (left, right) = world.size, _neighbours(world)
    sent = [_filled(device, count, world.rank, dtype) for dtype in dtypes for count in (1, 1000, 262_144)]
    room = [torch.full_like(tensor, -1) for tensor in sent]
    flight = world.channel().post({right: sent} if n > 1 else {}, {left: room} if n > 1 else {}, "an exchange")
    flight.wait()
    if n > 1:
        assert all(bool((tensor == left).all()) for tensor in room), "what arrived is not what the left one sent"
        assert flight.bytes_sent == flight.bytes_received == sum(tensor.nbytes for tensor in sent)


def _order(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Twenty batches under way at once, short and long, arrive in the order in which they were posted."""
    channel, (left, right) = world.channel(), _neighbours(world)
    rooms = [_filled(device, count, -1) for count in (100, 50_000) * 10]
    flights = [
        channel.post({right: [torch.full_like(room, number)]}, {left: [room]}, f"batch {number}")
        for number, room in enumerate(rooms)
    ]
    for flight in reversed(flights):
        flight.wait()
    assert [int(room[-1]) for room in rooms] == list(range(20)), "batches overtook one another"


def _expected(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Expected and other messages arrive in order; an expected message is not mistaken for one of another channel."""
    channel, (left, right) = world.channel(), _neighbours(world)
    sent = [_filled(device, 100 * (number + 1), number) for number in range(5)]
    rooms = [torch.full_like(tensor, -1) for tensor in sent]
    flights = []
    for part, is_expected in ((slice(0, 1), True), (slice(1, 3), True), (slice(3, 4), False)):
        if is_expected:
            channel.expect({left: rooms[part]})
            world.barrier()
        flights.append(channel.post({right: sent[part]}, {left: rooms[part]}, "an expected message"))
    for flight in flights:
        flight.wait()
    channel.expect({left: rooms[3:4]})
    world.channel().post({right: sent[4:]}, {left: rooms[4:]}, "another message").wait()
    assert [int(room[0]) for room in rooms] == [0, 1, 2, 3, 4], "messages did not arrive in their receive buffers"
    assert all(bool((room == room[0]).all()) for room in rooms), "landed, but not filled"


def _apart(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """A message of one peer lands while an earlier receive from another peer on the same channel is still open."""
    channel, room, word = world.channel(), _filled(device, 1000, -1), _filled(device, 1, 0)
    if world.rank == 0:
        late = channel.post({}, {1: [torch.empty_like(room)]}, "a late message")
        channel.post({}, {2: [room]}, "an early message").wait()
        assert int(room[0]) == 2, "landed, but not filled"
        assert not late.done(), "landed before it was sent"
        channel.post({1: [word]}, {}, "a word").wait()
        late.wait()
    elif world.rank <= 2:
        if world.rank == 1:
            channel.post({}, {0: [word]}, "a word").wait()
        channel.post({0: [_filled(device, 1000, world.rank)]}, {}, "a message").wait()


def _taken(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """A send lands although its receiver still waits for another message of the same batch."""
    channel, word, message = world.channel(), _filled(device, 1, 0), _filled(device, 50_000, world.rank)
    if world.rank == 0:
        rooms = {peer: [torch.full_like(message, -1)] for peer in (1, 2)}
        channel.post({}, rooms, "a prompt and a late message").wait()
        assert all(bool((room == peer).all()) for peer, (room,) in rooms.items()), "landed, but not filled"
    elif world.rank == 1:
        channel.post({}, {2: [word]}, "a word").wait()
        channel.post({0: [message]}, {}, "a late message").wait()
    elif world.rank == 2:
        channel.post({0: [message]}, {}, "a prompt message").wait()
        channel.post({1: [word]}, {}, "a word").wait()


def _channels(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Batches on two channels, posted in opposite orders at the two ends, do not meet."""
    channels, (left, right) = [world.channel(), world.channel()], _neighbours(world)
    rooms = [_filled(device, 10, -1) for _ in channels]
    flights = [
        channels[number].post({right: [_filled(device, 10, number)]}, {left: [rooms[number]]}, "a channel")
        for number in ((0, 1) if world.rank % 2 else (1, 0))
    ]
    for flight in flights:
        flight.wait()
    assert [int(room[0]) for room in rooms] == [0, 1], "a message came out of another channel"


def _sums(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """The sum over ranks, for sizes that the ring does not divide, with the same bits on every rank."""
    channel, n = world.channel(), world.size
    generator = torch.Generator().manual_seed(world.rank)
    for dtype in (torch.float32, torch.float64):
        tensors = [torch.rand(count, generator=generator, dtype=dtype).to(device) for count in (1, 2, 7, 1000, 100_003)]
        own = [tensor.cpu().clone() for tensor in tensors]
        channel.sum(tensors).wait()
        bits = b"".join(tensor.cpu().view(torch.uint8).numpy().tobytes() for tensor in tensors)
        assert len(set(world.all_gather(bits))) == 1, "ranks hold different bits of one sum"
        for before, after in zip(own, tensors, strict=True):
            parts = world.all_gather(before.view(torch.uint8).numpy().tobytes())
            exact = sum(torch.frombuffer(bytearray(part), dtype=dtype).double() for part in parts)
            assert torch.allclose(after.cpu().double(), torch.as_tensor(exact), rtol=1e-5 * n), "not the sum"


def _halves(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Reduce-scatter and all-gather are the sum, and between them each element is summed on one rank."""
    channel = world.channel()
    tensors = [_filled(device, count, world.rank + 1) for count in (1, 7, 1000)]
    channel.reduce_scatter(tensors).wait()
    own = [(number, where.start, where.stop) for number, where in channel.own_parts(tensors)]
    total = world.size * (world.size + 1) // 2
    assert all(bool((tensors[number][start:stop] == total).all()) for number, start, stop in own), "not the sum"
    everyone = [each for said in world.all_gather(json.dumps(own).encode()) for each in json.loads(said)]
    for number, tensor in enumerate(tensors):
        held = sorted(place for part, *where in everyone for place in range(*where) if part == number)
        assert held == list(range(len(tensor))), "an element is summed on no rank, or on several"
    channel.all_gather(tensors).wait()
    assert all(bool((tensor == total).all()) for tensor in tensors), "not the sum"


def _broadcasts(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """From each rank in turn, several dtypes at once."""
    channel = world.channel()
    for source in range(world.size):
        tensors = [_filled(device, 1000, world.rank + 1, dtype) for dtype in dtypes]
        channel.broadcast(tensors, source).wait()
        assert all(bool((tensor == source + 1).all()) for tensor in tensors), f"not what rank {source} holds"


def _gathers(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Bytes of different lengths, none among them."""
    own = bytes([world.rank]) * (3 * world.rank)
    assert world.all_gather(own) == [bytes([rank]) * (3 * rank) for rank in range(world.size)], "not what was given"
    assert world.all_gather(b"") == [b""] * world.size, "something came from nothing"


def _groups(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """Even and odd ranks sum among themselves, then all of them in reverse order."""
    mine = [rank for rank in range(world.size) if rank % 2 == world.rank % 2]
    group = world.group(mine)
    assert (group.rank, group.size) == (mine.index(world.rank), len(mine)), "ranks of a group count from 0"
    total = _filled(device, 5, world.rank)
    group.channel().sum([total]).wait()
    assert int(total[0]) == sum(mine), "a group summed over others"
    backwards = world.group(list(reversed(range(world.size))))
    assert backwards.all_gather(b"%d" % world.rank) == [b"%d" % rank for rank in reversed(range(world.size))]


def _asks(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """A batch lands while nobody waits for it: `done` becomes true by asking alone."""
    n, (left, right) = world.size, _neighbours(world)
    room = _filled(device, 1000, -1)
    sends, receives = ({right: [_filled(device, 1000, world.rank)]}, {left: [room]}) if n > 1 else ({}, {})
    flight = world.channel().post(sends, receives, "a question")
    pause = threading.Event()
    for _ in range(10_000):
        if flight.done():
            break
        pause.wait(0.001)
    assert flight.done(), "never landed, though every rank posted"
    flight.wait()
    assert n == 1 or int(room[0]) == left, "landed, but not filled"


def _deadline(world: Ranks, dtypes: Dtypes, device: torch.device) -> None:
    """A message that never comes ends in an error that names who waited for whom. Leaves its channel unusable."""
    channel = world.channel()
    if world.rank == 0:
        said = ""
        try:
            channel.post({}, {1: [_filled(device, 10, 0)]}, "round 7").wait(0.2)
        except PeerTimeout as error:
            said = str(error)
        for word in (f"rank {channel.me}", f"rank {channel.ranks[1]}", "round 7", "0.2 s"):
            assert word in said, f"a wait for nothing ended without {word!r} in its error: {said!r}"
    world.barrier()
    if world.rank == 1:  # let the receive end, so that nothing is under way when the process does
        channel.post({0: [_filled(device, 10, 0)]}, {}, "round 7").wait()


ALWAYS: list[Law] = [_exchange, _sums, _halves, _broadcasts, _gathers, _groups, _asks]
PAIRS: list[Law] = [_order, _expected]
UNORDERED: list[Law] = [_channels, _deadline]  # the last one leaves a channel that is of no use any more
TRIPLES: list[Law] = [_apart, _taken]
