"""The line: raw sockets move bytes from every rank to the next, all at once, and nothing else is done.

Where several ranks share a host and its link, ask for the line between hosts: `line.measure(world.across, ...)`.
"""

import contextlib
import os
import selectors
import socket
import statistics
import struct
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from gossip import World
from gossip.transports.torch.interfaces import own_address
from topologies import Topology

from ..shared import record
from ..shared.statistics import summary

REPEATS = 7
PAUSE = 0.1  # seconds
LONGEST = 8  # the most rounds of a graph: each takes a pause and a transfer, and a connection to each of its peers
Rounds = Sequence[tuple[Collection[int], Collection[int]]]
"""The ranks that this rank sends to in each round, and those that it receives from."""
Sockets = dict[int, socket.socket]


def measure(world: World, nbytes: int, repeats: int = REPEATS, *, pause: float = PAUSE, timeout: float = 60) -> float:
    """Seconds in which rank i sends `nbytes` to rank i + 1 and has received as many from rank i - 1.

    Every rank calls it, with the same arguments. Each repeat begins with `pause` seconds in which nothing is sent, as
    in a compute (a shaper then lets its first burst through at once), and a barrier; one more repeat goes before them,
    unseen. The median over repeats and ranks is returned, the same on every rank.
    """
    address = "127.0.0.1" if len(set(world.hosts)) == 1 else own_address(world.hosts)
    ranks = times(world, address, nbytes, repeats, neighbours(world), pause=pause, timeout=timeout)
    return statistics.median(seconds for rank in ranks for seconds in rank)


def neighbours(world: World, hop: int = 1) -> Rounds:
    """Every round to the rank `hop` places on, and from the one as many places back."""
    return [([(world.rank + hop) % world.size], [(world.rank - hop) % world.size])]


def times(
    world: World, address: str, nbytes: int, repeats: int, rounds: Rounds, *, pause: float = PAUSE, timeout: float = 60
) -> list[list[float]]:
    """The seconds of every repeat of every rank, [rank][repeat], on every rank, which others reach at `address`.

    The repeats walk through `rounds`, in each of which `nbytes` go to every peer; once through goes before, unseen.
    """
    with _connected(world, address, rounds, timeout) as (outwards, inwards):
        data, room = memoryview(bytes(nbytes)), memoryview(bytearray(nbytes))
        took = []
        for number in range(len(rounds) + repeats):
            targets, sources = rounds[number % len(rounds)]
            going = {outwards[peer]: data for peer in targets}
            coming = {inwards[peer]: room for peer in sources}
            time.sleep(pause)
            level(world)
            try:
                took.append(_exchange(going, coming, timeout))
            except TimeoutError as error:
                between = f"between rank {world.rank} and ranks {sorted({*targets, *sources})}"
                raise TimeoutError(f"{between} nothing moved for {timeout:g} s: is a link cut?") from error
        return [each[len(rounds) :] for each in record.gather(world, took)]


def level(world: World) -> None:
    """Let all ranks go on together: a first barrier gathers them, and a second one finds all of them awake."""
    world.barrier()
    world.barrier()


@contextlib.contextmanager
def _connected(world: World, address: str, rounds: Rounds, timeout: float) -> Iterator[tuple[Sockets, Sockets]]:
    """A connection to every rank that is sent to, and one from every rank that is received from."""
    sources = {peer for _, into in rounds for peer in into}
    outwards: Sockets = {}
    inwards: Sockets = {}
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.create_server(("", 0), backlog=world.size))
        listener.settimeout(timeout)
        word = os.urandom(16)  # by which a neighbour is told from a stranger who tries our port
        everybody = record.gather(world, [address, listener.getsockname()[1], word.hex()])
        for peer in sorted({peer for out, _ in rounds for peer in out}):
            host, port, theirs = everybody[peer]
            outwards[peer] = open_sockets.enter_context(socket.create_connection((host, port), timeout))
            outwards[peer].sendall(bytes.fromhex(theirs) + struct.pack("!I", world.rank))
        while len(inwards) < len(sources):
            try:
                coming = open_sockets.enter_context(listener.accept()[0])
            except TimeoutError as error:
                missing = sorted(sources - inwards.keys())
                raise TimeoutError(f"ranks {missing} did not connect to rank {world.rank} for {timeout:g} s") from error
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
            for each in (key.data for key, _ in events):
                moved = each.send(left[each]) if each in going else each.recv_into(left[each])
                if not moved:
                    raise ConnectionError("a neighbour closed the line: it has failed, and says why")
                left[each] = left[each][moved:]
                if not left[each]:
                    ready.unregister(each)
    return time.perf_counter() - began


def over_graph(world: World, graph: Topology, nbytes: int, pause: float, timeout: float) -> dict[str, float] | None:
    """Of `nbytes` over the hops of `graph`, now, over all ranks and repeats; None where links carry unequal loads.

    One host has no links; hosts with unequal numbers of ranks have unequal loads. The pause before each repeat is as
    long as a compute: an idle connection may begin anew, slowly, where the hosts are not those of `bench cluster`.
    Ranks that share a host send side by side, so there every host sends to the next: the link's time is that of each.
    """
    hosts = Counter(world.hosts)
    if len(hosts) == 1 or len(set(hosts.values())) > 1:
        return None
    ranks = world.across
    # A period of the graph, as far as it is short enough to be walked through.
    turns = [graph.turn(world.rank, number) for number in range(min(graph.period or LONGEST, LONGEST))]
    rounds = neighbours(ranks) if ranks.size < world.size else [(turn.sends, turn.receives) for turn in turns]
    repeats = max(REPEATS, 2 * len(rounds))
    took = times(ranks, own_address(ranks.hosts), nbytes, repeats, rounds, pause=max(pause, PAUSE), timeout=timeout)
    everywhere = record.gather(world, [each for repeats in took for each in repeats])
    return summary([each for rank in everywhere for each in rank])._asdict()


def paused_and_steady(
    world: World, graph: Topology, nbytes: int, pause: float, timeout: float
) -> tuple[dict[str, float], float] | None:
    """`over_graph`, after a pause, and those of a message right behind another one; None where it is.

    After a pause a shaper, as a switch's buffer, has room for a burst. A sender that never pauses has not.
    """
    paused = over_graph(world, graph, nbytes, pause, timeout)
    twice = over_graph(world, graph, 2 * nbytes, pause, timeout)
    return None if paused is None or twice is None else (paused, twice["median"] - paused["median"])
