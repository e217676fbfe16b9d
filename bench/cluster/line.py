"""What the line takes: raw sockets move bytes from every rank to the next, all at once, and nothing else is done.

Inside a command, between the ranks of a world, whoever started them and wherever they are:

    with gossip.init() as world:
        seconds = line.measure(world, 1_024_000)

Where several ranks share a host and its link, ask for the line between hosts: `line.measure(world.across, ...)`.
Run as a file, it is one of the processes by which `python -m bench cluster` measures its hosts. It then imports
neither torch nor MPI, and the processes meet through sockets that they were born with.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gossip import World

REPEATS = 7
PAUSE = 0.1  # seconds


class Ranks(Protocol):
    """Who takes part, as far as this file needs it; a World is one."""

    @property
    def rank(self) -> int:
        """This process's number."""

    @property
    def size(self) -> int:
        """How many there are."""

    def all_gather(self, data: bytes) -> list[bytes]:
        """What every rank gave, by rank, on every rank."""

    def barrier(self) -> None:
        """Return once every rank has called it."""


Peers = tuple[Sequence[int], Sequence[int]]
"""To whom this rank sends in a round, and from whom it receives."""


def measure(
    world: World, nbytes: int, repeats: int = REPEATS, hop: int = 1, *, pause: float = PAUSE, timeout: float = 60.0
) -> float:
    """Seconds in which rank i sends `nbytes` to rank i + hop and has received as many from rank i - hop.

    Every rank calls it, with the same arguments. Each repeat begins with `pause` seconds in which nothing is sent, as
    in a compute (a shaper then lets its first burst through at once), and a barrier; one more repeat goes before them,
    unseen. The median over repeats and ranks is returned, the same on every rank.

    Raises:
        TimeoutError: nothing moved for `timeout` seconds; it names the ranks.
        ConnectionError: a neighbour is gone.
    """
    from gossip.transports.torch.interfaces import own_address

    address = "127.0.0.1" if len(set(world.hosts)) == 1 else own_address(world.hosts)
    ranks = times(world, address, nbytes, repeats, neighbours(world, hop), pause=pause, timeout=timeout)
    return statistics.median(seconds for rank in ranks for seconds in rank)


def neighbours(ranks: Ranks, hop: int = 1) -> list[Peers]:
    """Every round to the rank `hop` places on, and from the one as many places back."""
    return [([(ranks.rank + hop) % ranks.size], [(ranks.rank - hop) % ranks.size])]


def times(
    ranks: Ranks,
    address: str,
    nbytes: int,
    repeats: int,
    rounds: Sequence[Peers],
    *,
    pause: float = PAUSE,
    timeout: float = 60.0,
) -> list[list[float]]:
    """The seconds of every repeat of every rank, [rank][repeat], on every rank, which others reach at `address`.

    The repeats walk through `rounds`, in each of which `nbytes` go to every peer; once through, and at least one
    round, goes before them, unseen.
    """
    with _connected(ranks, address, rounds, timeout) as (outwards, inwards):
        data, room = memoryview(bytes(nbytes)), memoryview(bytearray(nbytes))
        took = []
        for number in range(len(rounds) + repeats):
            targets, sources = rounds[number % len(rounds)]
            going = {outwards[peer]: data for peer in targets}
            coming = {inwards[peer]: room for peer in sources}
            time.sleep(pause)
            level(ranks)
            try:
                took.append(_exchange(going, coming, timeout))
            except TimeoutError as error:
                raise TimeoutError(
                    f"between rank {ranks.rank} and ranks {sorted({*targets, *sources})} nothing moved for "
                    f"{timeout:g} s: is a link cut?"
                ) from error
        return [json.loads(each)[len(rounds) :] for each in ranks.all_gather(json.dumps(took).encode())]


def level(ranks: Ranks) -> None:
    """Let all ranks go on together: a first barrier gathers them, and a second one finds all of them awake."""
    ranks.barrier()
    ranks.barrier()


@contextlib.contextmanager
def _connected(
    ranks: Ranks, address: str, rounds: Sequence[Peers], timeout: float
) -> Iterator[tuple[dict[int, socket.socket], dict[int, socket.socket]]]:
    """A connection to every rank that is sent to, and one from every rank that is received from."""
    targets = sorted({peer for out, _ in rounds for peer in out})
    sources = sorted({peer for _, into in rounds for peer in into})
    outwards: dict[int, socket.socket] = {}
    inwards: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("", 0), backlog=ranks.size))
        listener.settimeout(timeout)
        word = os.urandom(16)  # by which a neighbour is told from a stranger who tries our port
        mine = {"host": address, "port": listener.getsockname()[1], "word": word.hex()}
        everybody = [json.loads(each) for each in ranks.all_gather(json.dumps(mine).encode())]
        for peer in targets:
            there = everybody[peer]
            outwards[peer] = open_sockets.enter_context(
                socket.create_connection((there["host"], there["port"]), timeout)
            )
            outwards[peer].sendall(bytes.fromhex(there["word"]) + struct.pack("!I", ranks.rank))
        while len(inwards) < len(sources):
            try:
                coming = open_sockets.enter_context(listener.accept()[0])
            except TimeoutError as error:
                missing = sorted(set(sources) - set(inwards))
                raise TimeoutError(f"ranks {missing} did not connect to rank {ranks.rank} for {timeout:g} s") from error
            coming.settimeout(timeout)
            said = coming.recv(len(word) + 4, socket.MSG_WAITALL)
            if said[: len(word)] == word:
                inwards[struct.unpack("!I", said[len(word) :])[0]] = coming
        for each in (*outwards.values(), *inwards.values()):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setblocking(False)
        yield outwards, inwards


def _exchange(going: dict[socket.socket, memoryview], coming: dict[socket.socket, memoryview], timeout: float) -> float:
    """Seconds until everything is handed over and all room is full."""
    began = time.perf_counter()
    left = {**going, **coming}
    with selectors.DefaultSelector() as ready:
        for each in left:
            ready.register(each, selectors.EVENT_WRITE if each in going else selectors.EVENT_READ, each)
        while ready.get_map():
            events = ready.select(timeout)
            if not events:
                raise TimeoutError
            for key, _ in events:
                each = key.data
                moved = each.send(left[each]) if each in going else each.recv_into(left[each])
                if not moved:
                    raise ConnectionError("a neighbour closed the line: it has failed, and says why")
                left[each] = left[each][moved:]
                if not left[each]:
                    ready.unregister(each)
    return time.perf_counter() - began


class Star:
    """Ranks that meet through rank 0: it has a socket to each of the others, and they have one to it."""

    def __init__(self, rank: int, size: int, sockets: Sequence[socket.socket]) -> None:
        self.rank, self.size = rank, size
        self._sockets = sockets

    def all_gather(self, data: bytes) -> list[bytes]:
        """What every rank gave, by rank, on every rank."""
        if self.rank > 0:
            _put(self._sockets[0], data)
            return [_take(self._sockets[0]) for _ in range(self.size)]
        given = [data, *(_take(each) for each in self._sockets)]
        everything = b"".join(struct.pack("!I", len(each)) + each for each in given)
        for each in self._sockets:
            each.sendall(everything)
        return given

    def barrier(self) -> None:
        """Return once every rank has called it."""
        self.all_gather(b"")


def _put(to: socket.socket, data: bytes) -> None:
    to.sendall(struct.pack("!I", len(data)) + data)


def _take(source: socket.socket) -> bytes:
    (length,) = struct.unpack("!I", _exactly(source, 4))
    return _exactly(source, length)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise ConnectionError("another process of the measurement has ended")
        data += more
    return data


def main() -> None:
    """RANK SIZE ADDRESS SIZES REPEATS PAUSE TIMEOUT FILE DESCRIPTORS: one process of each host; rank 0 writes FILE."""
    rank, size, address, sizes, repeats, pause, timeout, path, handles = sys.argv[1:]
    star = Star(int(rank), int(size), [socket.socket(fileno=int(each)) for each in handles.split(",")])
    found = {
        nbytes: times(
            star, address, int(nbytes), int(repeats), neighbours(star), pause=float(pause), timeout=float(timeout)
        )
        for nbytes in sizes.split(",")
    }
    if star.rank == 0:
        Path(path).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
