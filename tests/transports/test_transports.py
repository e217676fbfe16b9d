"""One contract for every transport, and what the threads' network can do to messages."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import networkx as nx
import pytest
import spawn
import torch
import torch.distributed as dist

import gossip
import topologies
from gossip import testing
from gossip.testing import Network
from gossip.transports import Communicator
from gossip.transports.collective import steps, sums
from gossip.transports.flight import pace
from gossip.transports.mpi import messages
from gossip.transports.mpi.engine import Engine
from gossip.transports.torch import streams, waiter
from gossip.transports.torch.backend import TorchBackend
from gossip.transports.torch.gloo import LONG

Sum = Callable[[Communicator, Sequence[torch.Tensor]], steps.Steps]
Patch = pytest.MonkeyPatch
EAGER = messages.EAGER

CYCLE = topologies.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))
HOSTS = {"even": ["a", "a", "b", "b"], "uneven": ["a", "b", "a", "a", "c"], "alone": ["a"]}


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_memory(size: int) -> None:
    testing.run(size, testing.check_transport)


@pytest.mark.parametrize("hosts", HOSTS.values(), ids=HOSTS)
def test_memory_sub_worlds(hosts: Sequence[str]) -> None:
    """A sub-world keeps the contract of a world."""

    def run(world: gossip.World) -> None:
        testing.check_transport(world.node)
        testing.check_transport(world.across)
        testing.check_transport(world)

    testing.run(len(hosts), run, hosts=hosts)


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_mpirun(size: int) -> None:
    """MPI, also with what the tests take for a device's memory, and Gloo one after another in the same processes."""
    runs = ["mpi", "mpi/far", "mpi/staged", "mpi/direct", "gloo"]
    ended(spawn.run_mpirun(size, ["-m", "workers.contract", *runs]))


@pytest.mark.parametrize("nbytes", [0, 1, EAGER, EAGER + 1, 5 * EAGER, 40 * EAGER - 1])
@pytest.mark.parametrize("most", [0, 1, 16])
def test_a_message_is_cut_the_same_way_at_both_ends(nbytes: int, most: int, monkeypatch: Patch) -> None:
    monkeypatch.setattr(messages, "PIECE", 10 * EAGER)
    memory = torch.arange(nbytes).to(torch.uint8)
    pieces = messages.pieces(memory, most)
    assert torch.equal(torch.cat([torch.from_numpy(piece) for piece in pieces]), memory)
    assert all(piece.size <= messages.PIECE for piece in pieces)
    # As few as there can be.
    eager_bytes = min(nbytes, most * EAGER)
    large, small = -(-(nbytes - eager_bytes) // messages.PIECE), -(-eager_bytes // EAGER)
    assert len(pieces) == max(1, large + small)
    sizes = [piece.size for piece in pieces[large:]]
    assert not small or max(sizes) <= min(EAGER, min(sizes) + 1)


def test_torchrun() -> None:
    ended(spawn.run_torchrun(3, ["-m", "workers.contract", "gloo"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NCCL needs a GPU, and this machine has none")
@pytest.mark.parametrize("size", [1, 2, 4])
def test_nccl(size: int) -> None:
    ended(spawn.run_torchrun(size, ["-m", "workers.contract", "nccl"]))


class Asked:
    """In the place of an event of a GPU."""

    def __init__(self, says: bool | RuntimeError) -> None:
        self.says = says

    def query(self) -> bool:
        if isinstance(self.says, RuntimeError):
            raise self.says
        return self.says


@pytest.mark.parametrize(
    ("says", "said"),
    [
        (False, "rank 0 heard nothing from rank 1"),
        (RuntimeError("captured"), "rank 0 cannot ask its GPU for round 5: CUDA says captured"),
        (True, None),
    ],
)
def test_the_watchdog_ends_the_job_without_holding_tensors(
    says: bool | RuntimeError, said: str | None, monkeypatch: Patch
) -> None:
    def run(world: gossip.World) -> None:
        dog = streams.Watchdog(torch.device("cpu"))
        monkeypatch.setattr(dog, "_thread", threading.current_thread())  # nobody asks but us
        room = torch.zeros(10)
        flight = streams.StreamedFlight(world.base, {1: [torch.zeros(10)]}, {1: [room]}, "round 5")
        flight.event = Asked(says)
        dog.add(flight, 0.0)
        held = weakref.ref(room)
        del room, flight
        gc.collect()
        assert held() is None, "a tensor outlives its flight"
        heard = dog._wrong()
        assert heard is None if said is None else heard is not None and heard.startswith(said)
        assert {rank: subject for rank, (subject, _) in world.base.board.heard.items() if subject == "round 5"} == (
            {1: "round 5"} if said is None else {}
        )

    monkeypatch.setattr(torch.cuda, "Event", lambda: None)
    testing.run(2, lambda world: run(world) if world.rank == 0 else None)


@pytest.mark.parametrize("most", [1, 7, 64, 1000])
def test_both_ends_cut_a_batch_alike(most: int) -> None:
    """The pieces of one pair meet in the same batches, whole and in order, whatever other peers there are."""
    tensors = [torch.arange(n, dtype=dtype) for n in (1, 0, 30, 100) for dtype in (torch.uint8, torch.int64)]
    sent = list(streams.batches([("send", 1, tensor) for tensor in tensors], most=8 * most))
    others = [("receive", 3, torch.empty(500)), ("send", 2, torch.empty(77))]
    both = [*others, *(("receive", 0, torch.empty_like(tensor)) for tensor in tensors)]
    received = list(streams.batches(both, most=8 * most))
    for number, batch in enumerate(sent):
        pieces = [piece for _, _, piece in batch]
        rooms = [piece for kind, peer, piece in received[number] if (kind, peer) == ("receive", 0)]
        assert [(piece.dtype, piece.shape) for piece in pieces] == [(room.dtype, room.shape) for room in rooms]
        assert sum(piece.nbytes for piece in pieces) <= 8 * most
    whole = b"".join(piece.numpy().tobytes() for batch in sent for _, _, piece in batch)
    assert whole == b"".join(tensor.numpy().tobytes() for tensor in tensors)
    assert len(sent) <= 1 + sum(tensor.nbytes for tensor in tensors) // (8 * most - 7)


def ended(outcome: spawn.Outcome) -> None:
    assert outcome.code == 0, f"ended with code {outcome.code} after {outcome.seconds:.0f} s\n{outcome.output[-8000:]}"


def spread(source: int, target: int, number: int) -> float:
    """Between 0 and 4 ms, so that messages of different ranks overtake one another."""
    return 1e-3 * ((3 * source + 5 * target + 7 * number) % 5)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_contract_holds_while_messages_are_late(size: int) -> None:
    testing.run(size, testing.check_transport, timeout=5, network=Network(delay=spread))


def test_delay_is_kept() -> None:
    """A message is not there before its time, and a wait for it lasts no longer than needed."""

    def run(world: gossip.World) -> float:
        room, peer = torch.zeros(3), 1 - world.rank
        began = time.monotonic()
        flight = world.channel().post({peer: [torch.ones(3)]}, {peer: [room]}, "round 0")
        assert not flight.done()
        assert not room.any()
        flight.wait()
        assert room.all()
        return time.monotonic() - began

    for seconds in testing.run(2, run, network=Network(delay=lambda source, target, number: 0.2)):
        assert 0.2 <= seconds < 10


def test_late_messages_of_one_rank_keep_their_order() -> None:
    """The first takes longest, and still arrives first."""

    def run(world: gossip.World) -> list[float]:
        channel, rooms = world.channel(), [torch.zeros(1) for _ in range(4)]
        flights = [
            channel.post(*([{1: [torch.full((1,), float(number))]}, {}] if world.rank == 0 else [{}, {0: [room]}]), "")
            for number, room in enumerate(rooms)
        ]
        flights[-1].wait()
        return [float(room) for room in rooms]

    late = Network(delay=lambda source, target, number: 0.1 if number == 0 else 0.0)
    assert testing.run(2, run, network=late)[1] == [0, 1, 2, 3]


def test_lost_message_is_missed_by_name() -> None:
    """The error has both ranks, the round and the seconds, and comes in time."""
    silent = threading.Event()

    def run(world: gossip.World) -> str:
        base = torch.optim.SGD([torch.zeros(4, requires_grad=True)], lr=0.1)
        optimizer = gossip.GossipOptimizer(base, gossip.PushSum(world, CYCLE, overlap=1))
        for _ in range(3):
            optimizer.step()
        optimizer.settle()
        world.barrier()
        silent.set()
        with pytest.raises(gossip.PeerTimeout) as missed:  # noqa: PT012
            for _ in range(9):
                optimizer.step()
        return str(missed.value)

    began = time.monotonic()
    lossy = Network(lose=lambda source, target, number: source == 0 and silent.is_set())
    sentences = testing.run(3, run, timeout=0.5, network=lossy)
    assert time.monotonic() - began < 10
    # Nothing is heard of rank 0 again, so rank 1 stops in its next round, and the others one after another behind it.
    assert "rank 1 heard nothing from rank 0 in round 3 for 0.5 s" in sentences[1]
    assert "rank 2 heard nothing from rank 1" in sentences[2]
    assert "rank 0 heard nothing from rank 2" in sentences[0]


def test_wait_for_a_rank_that_failed_ends_at_once() -> None:
    """The error is that of the rank which failed first, and the others do not wait for their deadline."""

    def run(world: gossip.World) -> None:
        if world.rank == 1:
            raise ZeroDivisionError("rank 1 cannot go on")
        world.barrier()

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="rank 1 cannot go on"):
        testing.run(3, run, timeout=60)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 17])
@pytest.mark.parametrize("way", [sums.ring_sum, sums.circulant_sum])
def test_both_ways_to_sum_give_the_sum_for_the_least_bytes(way: Sum, size: int, monkeypatch: Patch) -> None:
    """Where a segment ends in the middle of a tensor too."""
    monkeypatch.setattr(sums, "SEGMENT", 4000)

    def run(world: gossip.World) -> tuple[list[torch.Tensor], float]:
        generator = torch.Generator().manual_seed(world.rank)
        shapes = [
            (1, torch.float64),
            (5, torch.float32),
            (1003, torch.float32),
            (0, torch.float32),
            (701, torch.float64),
        ]
        tensors = [torch.randint(-99, 99, (n,), generator=generator).to(dtype) for n, dtype in shapes]
        exact = [tensor.clone() for tensor in tensors]
        flight = steps.Relay(world.channel(), way(world.channel(), tensors), "a sum")
        flight.wait()
        for tensor, before in zip(tensors, exact, strict=True):
            parts = world.all_gather(before.numpy().tobytes())
            total = sum(torch.frombuffer(bytearray(part), dtype=before.dtype) for part in parts) if len(before) else 0
            assert bool((tensor == total).all())
        return tensors, flight.bytes_sent / sum(tensor.nbytes for tensor in tensors)

    ranks = testing.run(size, run)
    assert all(torch.equal(a, b) for tensors, _ in ranks for a, b in zip(tensors, ranks[0][0], strict=True))
    assert [sent for _, sent in ranks] == pytest.approx([2 * (size - 1) / size] * size, abs=0.06)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_lanes_around_a_ring_change_no_bit(size: int, monkeypatch: Patch) -> None:
    """Also where a lane has nothing of a tensor, or of a block."""

    def run(world: gossip.World) -> tuple[list[torch.Tensor], list[torch.Tensor], int, int]:
        generator = torch.Generator().manual_seed(world.rank)
        tensors = [torch.randn(n, generator=generator) for n in (1003, 1, 0, 7)]
        channel, counts = world.channel(), []
        summed = []
        for way in (sums.ring_sum, sums.exact_sum):
            summed.append([tensor.clone() for tensor in tensors])
            relay = steps.Relay(channel, way(channel, summed[-1]), "a sum")
            relay.wait()
            counts.append(relay.messages_sent)
        halves = [tensor.clone() for tensor in tensors]
        channel.reduce_scatter(halves).wait()
        channel.all_gather(halves).wait()
        assert all(torch.equal(a, b) for a, b in zip(halves, summed[0], strict=True))
        return summed[0], summed[1], *counts

    monkeypatch.setattr(sums, "LANE", 100)
    for one, two, whole, halved in testing.run(size, run):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert halved > whole or size == 1


@pytest.fixture
def gloo() -> Iterator[gossip.World]:
    """A world of this rank that takes itself for the first of three."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with gossip.init("gloo") as world:
        yield world
    dist.destroy_process_group()


def of_three(world: gossip.World) -> Communicator:
    channel = world.channel()
    channel.members = range(3)
    return channel


def gone(tensor: torch.Tensor, *, tag: int, group: object, group_dst: int = 1, group_src: int = 1) -> object:
    """In the place of dist.isend and dist.irecv: rank 2 has closed its connections."""
    if 2 in (group_dst, group_src):
        raise RuntimeError("Connection closed by peer")
    return object()


def test_a_message_that_cannot_be_posted_names_its_peer(gloo: gossip.World, monkeypatch: Patch) -> None:
    monkeypatch.setattr(dist, "isend", gone)
    message = [torch.zeros(1)]
    with pytest.raises(gossip.PeerLost) as lost:
        of_three(gloo).post({1: message, 2: message}, {}, "round 7")
    assert str(lost.value) == (
        "rank 0 lost a message of round 7: it could not be posted to or from rank 2 (rank 2, never heard from in a "
        "round): torch.distributed says Connection closed by peer"
    )


def test_expecting_a_message_of_a_lost_peer_does_not_raise(gloo: gossip.World, monkeypatch: Patch) -> None:
    monkeypatch.setattr(dist, "irecv", gone)
    channel, room = of_three(gloo), [torch.zeros(1)]
    channel.expect({2: room})
    with pytest.raises(gossip.PeerLost, match="a message of round 7: it could not be posted to or from rank 2"):
        channel.post({}, {2: room}, "round 7")


def test_receiving_another_message_than_the_expected_one_raises(gloo: gossip.World, monkeypatch: Patch) -> None:
    """On a channel that is of no use any more, a message must not come into room that was made for another one."""
    monkeypatch.setattr(dist, "irecv", gone)
    channel = of_three(gloo)
    channel.expect({1: [torch.zeros(1)]})
    with pytest.raises(gossip.PeerLost, match="cannot receive round 7 from rank 1, of which another message is"):
        channel.post({}, {1: [torch.zeros(1)]}, "round 7")


def test_expected_receives_are_dropped_with_their_channel(gloo: gossip.World, monkeypatch: Patch) -> None:
    monkeypatch.setattr(dist, "irecv", gone)
    channel, room = of_three(gloo), torch.zeros(1)
    channel.expect({1: [room]})
    kept, here = weakref.ref(room), weakref.ref(channel)
    del room
    assert kept() is not None
    del channel
    gc.collect()
    assert here() is None
    assert kept() is None


def test_posting_after_close_raises(gloo: gossip.World, monkeypatch: Patch) -> None:
    channel = of_three(gloo)
    backend = channel.backend
    assert isinstance(backend, TorchBackend)
    gloo.close()
    with pytest.raises(gossip.PeerLost, match="rank 0 cannot post round 7: its world has been closed"):
        channel.post({1: [torch.zeros(1)]}, {}, "round 7")
    monkeypatch.setattr(torch.cuda, "Event", lambda: None)
    with pytest.raises(gossip.PeerLost, match="rank 0 cannot post an exact sum: its world has been closed"):
        backend._streamed_sum(channel, [torch.zeros(1)])


class Gloo:
    """In the place of dist.isend and dist.irecv: what was posted ends when the test says so."""

    def __init__(self, monkeypatch: Patch) -> None:
        self.order: list[tuple[str, int, int]] = []  # "to" a peer or "of" it, the peer, bytes
        self.ends: list[tuple[tuple[str, int, int], int, threading.Event]] = []  # with the tag
        self.broken: set[threading.Event] = set()
        self.posted = threading.Condition()
        monkeypatch.setattr(
            dist, "isend", lambda tensor, group, group_dst, tag: self.post("to", group_dst, tensor, tag)
        )
        monkeypatch.setattr(
            dist, "irecv", lambda tensor, group, group_src, tag: self.post("of", group_src, tensor, tag)
        )

    def post(self, way: str, peer: int, tensor: torch.Tensor, tag: int) -> object:
        ended, what = threading.Event(), (way, peer, tensor.nbytes)

        def wait() -> None:
            assert ended.wait(30), f"nobody ended {what}"
            if ended in self.broken:
                raise RuntimeError("Connection closed by peer")

        with self.posted:
            self.order.append(what)
            self.ends.append((what, tag, ended))
            self.posted.notify_all()
        return SimpleNamespace(wait=wait)

    def end(self, *what: str | int, broken: bool = False) -> int:
        """Let the first such end, once it has been posted; its tag."""
        with self.posted:
            assert self.posted.wait_for(lambda: any(each[0] == what for each in self.ends), timeout=30)
            found = next(each for each in self.ends if each[0] == what)
            self.ends.remove(found)
        self.broken |= {found[2]} if broken else set()
        found[2].set()
        return found[1]


HALF = torch.zeros(LONG // 8)


def test_a_long_message_over_gloo_lands_when_it_is_acknowledged(gloo: gossip.World, monkeypatch: Patch) -> None:
    """The kernel may have taken it long before: what was sent next, to another peer, would share the line with it."""
    mail, channel, bytes_ = Gloo(monkeypatch), of_three(gloo), HALF.nbytes
    flight = channel.post({1: [HALF, HALF]}, {2: [HALF, HALF]}, "round 7")
    assert mail.order == [("of", 2, bytes_)] * 2 + [("of", 1, 1)] + [("to", 1, bytes_)] * 2, "room for the word first"
    tags = [mail.end("of", 2, bytes_), mail.end("to", 1, bytes_), mail.end("to", 1, bytes_)]
    with pytest.raises(gossip.PeerTimeout, match="rank 0 heard nothing from rank 2 in round 7"):
        flight.wait(timeout=0.05)
    assert ("to", 2, 1) not in mail.order, "half of it has come"
    tags += [mail.end("of", 2, bytes_), mail.end("to", 2, 1)]
    with pytest.raises(gossip.PeerTimeout, match="rank 0 could not hand its message to rank 1 in round 7"):
        flight.wait(timeout=0.05)
    tags.append(mail.end("of", 1, 1))
    flight.wait(timeout=30)
    tensors, words = {tags[0], tags[1], tags[2], tags[3]}, {tags[4], tags[5]}
    assert tensors.isdisjoint(words)
    assert not mail.ends


def test_an_acknowledgement_does_not_wait_for_other_messages(gloo: gossip.World, monkeypatch: Patch) -> None:
    """Nor does hearing one: who has answered is not missed."""
    mail, channel, bytes_ = Gloo(monkeypatch), of_three(gloo), HALF.nbytes
    both = {1: [HALF, HALF], 2: [HALF, HALF]}
    flight = channel.post(both, both, "round 7")
    for _ in range(2):
        mail.end("of", 2, bytes_)
        mail.end("to", 2, bytes_)
    mail.end("of", 2, 1)
    mail.end("to", 2, 1)
    with pytest.raises(gossip.PeerTimeout, match="rank 0 heard nothing from rank 1 in round 7"):
        flight.wait(timeout=1)
    for _ in range(2):
        mail.end("to", 1, bytes_)
        mail.end("of", 1, bytes_)
    mail.end("to", 1, 1)
    with pytest.raises(gossip.PeerTimeout, match="rank 0 could not hand its message to rank 1 in round 7"):
        flight.wait(timeout=1)
    mail.end("of", 1, 1)
    flight.wait(timeout=30)
    assert not mail.ends


@pytest.mark.parametrize(("less", "together"), [(0, True), (1, False)])
def test_short_messages_and_messages_of_a_common_wait_are_not_acknowledged(
    less: int, together: bool, gloo: gossip.World, monkeypatch: Patch
) -> None:
    mail, tensors = Gloo(monkeypatch), [HALF, HALF[less:]]
    flight = of_three(gloo).post({1: tensors}, {2: tensors}, "round 7", together=together)
    for tensor in tensors:
        mail.end("of", 2, tensor.nbytes)
        mail.end("to", 1, tensor.nbytes)
    flight.wait(timeout=30)
    assert not mail.ends


def test_a_receiver_does_not_miss_a_sender_that_has_ended(gloo: gossip.World, monkeypatch: Patch) -> None:
    """That may be gone before the word is said."""
    mail = Gloo(monkeypatch)
    flight = of_three(gloo).post({}, {2: [HALF, HALF]}, "round 7")
    monkeypatch.setattr(dist, "isend", gone)
    for _ in range(2):
        mail.end("of", 2, HALF.nbytes)
    flight.wait(timeout=30)


def test_the_peer_whose_message_broke_off_is_named(gloo: gossip.World, monkeypatch: Patch) -> None:
    """And not one whose message is still on its way; the threads go on."""
    mail, channel, bytes_ = Gloo(monkeypatch), of_three(gloo), HALF.nbytes
    both = {1: [HALF, HALF], 2: [HALF, HALF]}
    flight = channel.post(both, both, "round 7")
    for _ in range(2):
        mail.end("of", 1, bytes_)
    mail.end("to", 1, 1)
    mail.end("to", 1, bytes_, broken=True)
    with pytest.raises(gossip.PeerLost, match=r"round 7: it could not hand its message to rank 1 .*Connection closed"):
        flight.wait(timeout=30)
    for way in ("of", "to"):
        for _ in range(2):
            mail.end(way, 2, bytes_)
    mail.end("to", 2, 1)
    mail.end("of", 2, 1)
    with pytest.raises(gossip.PeerLost, match="could not hand its message to rank 1 "):
        flight.wait(timeout=30)
    after = channel.post({2: [HALF]}, {1: [HALF]}, "round 8")
    mail.end("of", 1, bytes_)
    mail.end("to", 2, bytes_)
    after.wait(timeout=30)


def test_acknowledgements_match_their_messages_in_any_order(gloo: gossip.World, monkeypatch: Patch) -> None:
    mail, channel = Gloo(monkeypatch), of_three(gloo)
    channel.post({}, {2: [HALF, HALF]}, "round 7")
    channel.post({1: [HALF, HALF]}, {2: [HALF, HALF]}, "round 8")
    early = [each for each in mail.ends if each[0] == ("of", 2, HALF.nbytes)][2:]
    for each in early:
        mail.ends.remove(each)
        each[2].set()
    second = mail.end("to", 2, 1)
    for _ in range(2):
        mail.end("of", 2, HALF.nbytes)
    assert mail.end("to", 2, 1) == second - 1, "numbered as the messages were posted"
    for *_, ended in mail.ends:  # nothing is left for the end of the world to wait for
        ended.set()


@pytest.mark.parametrize("late", [1, 2])
def test_a_short_message_that_is_late_is_not_blamed_on_another_peer(
    late: int, gloo: gossip.World, monkeypatch: Patch
) -> None:
    """Whichever of the two is posted first, and also where the other one has not taken its message."""
    mail, channel, short = Gloo(monkeypatch), of_three(gloo), torch.zeros(3)
    flight = channel.post({1: [short], 2: [short]}, {1: [short], 2: [short]}, "round 7", together=True)
    mail.end("of", 3 - late, short.nbytes)
    until(lambda: flight.missing() == ([late], [3 - late]))
    with pytest.raises(gossip.PeerTimeout, match=f"nothing from rank {late} and could not .* to rank {3 - late} in"):
        flight.wait(timeout=0.05)
    mail.end("to", 3 - late, short.nbytes)
    until(lambda: flight.missing() == ([late], []))
    mail.end("of", late, short.nbytes)
    until(lambda: flight.missing() == ([], [late]))
    mail.end("to", late, short.nbytes)
    flight.wait(timeout=30)


def test_few_threads_wait_for_many_channels(gloo: gossip.World, monkeypatch: Patch) -> None:
    """As many as messages are waited for at once; without work they end."""
    monkeypatch.setattr(waiter, "LINGER", 0.01)
    mail, short, before = Gloo(monkeypatch), torch.zeros(3), set(threading.enumerate())
    for number in range(100):
        flight = of_three(gloo).post({1: [short]}, {2: [short]}, f"round {number}")
        mail.end("of", 2, short.nbytes)
        mail.end("to", 1, short.nbytes)
        flight.wait(timeout=30)
        assert len(set(threading.enumerate()) - before) <= 3
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
        assert not thread.is_alive()
    flight = of_three(gloo).post({1: [short]}, {2: [short]}, "what comes after a pause")
    mail.end("of", 2, short.nbytes)
    mail.end("to", 1, short.nbytes)
    flight.wait(timeout=30)


def until(holds: Callable[[], bool]) -> None:
    """Return when it does: another thread is about to see to it."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(1e-3)


def test_a_post_during_the_stop_starts_no_thread(gloo: gossip.World, monkeypatch: Patch) -> None:
    mail, channel = Gloo(monkeypatch), of_three(gloo)
    channel.post({}, {2: [HALF]}, "round 7").done()
    mail.end("of", 2, HALF.nbytes)
    gloo.base.backend.waiters.stop()
    before = threading.active_count()
    assert not channel.post({}, {1: [HALF]}, "round 8").done()
    assert threading.active_count() == before


LATE = """
import sys
from pathlib import Path

import torch

import gossip
import topologies


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


world = gossip.init("gloo", timeout=30)
pids = [int(Path("/proc/self").readlink().name)]
pids = [int(each) for each in world.all_gather(str(pids[0]).encode())]
parameter = torch.zeros(100, requires_grad=True)
averager = gossip.PushSum(world, topologies.exponential(4))
optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), averager)
parameter.grad = torch.zeros(100)
with torch.no_grad():
    parameter.fill_(world.rank)
for step in range(3):
    while step == 2 and world.rank == 0 and not all(map(ended, pids[2:])):
        pass
    optimizer.step()
optimizer.settle()
sys.stdout.write(f"rank {world.rank} ends with {parameter[0].item():g}\\n")  # in one piece, beside the others'
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="whether another process has ended is read in /proc")
def test_gloo_ends_well_when_others_have_gone_already(tmp_path: Path) -> None:
    """They sent the last round into the room that rank 0 had made for it; no harm comes of room for a next one."""
    script = tmp_path / "late.py"
    script.write_text(LATE)
    outcome = spawn.run_torchrun(4, [str(script)])
    assert outcome.code == 0, outcome.output
    assert sorted(line for line in outcome.output.splitlines() if "ends with" in line) == [
        f"rank {rank} ends with 1.5" for rank in range(4)
    ]


# -- who moves messages of MPI along -----------------------------------------------------------------------------------


class Underway:
    """In the place of a flight: lands when it is asked for the third time."""

    def __init__(self) -> None:
        self.landed: float | None = None
        self.asked = 0
        self.ended = threading.Event()

    def interval(self, waited: float) -> float:
        return pace(waited)

    def done(self) -> bool:
        self.asked += 1
        if self.asked == 3:
            self.landed = time.perf_counter()
            self.ended.set()
        return self.landed is not None


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Without any MPI."""
    engine = object.__new__(Engine)
    engine.lock, engine._work = threading.Lock(), threading.Event()
    engine._in_flight, engine._waiting, engine._stopped, engine._thread = set(), 0, False, None
    engine.routes, engine.over = None, lambda flight: True
    yield engine
    engine._stopped = True
    engine._work.set()
    engine._thread.join()


def test_the_progress_thread_moves_flights_that_nobody_waits_for(engine: Engine) -> None:
    flight = Underway()
    engine.drive(flight)
    assert flight.ended.wait(10)


def test_the_progress_thread_rests_during_a_wait_and_moves_the_rest_after_it(engine: Engine) -> None:
    left, landed = Underway(), Underway()
    with engine.waiting():
        with engine.waiting():
            engine.drive(left)
            engine.drive(landed)
        assert not engine._work.is_set(), "the thread was woken though somebody still waits"
        landed.landed = time.perf_counter()
        assert left.asked == 0
    assert left.ended.wait(10)
    assert landed.asked == 0


def test_an_awaited_flight_does_not_wake_the_progress_thread(engine: Engine) -> None:
    flight = Underway()
    engine.drive(flight, awaited=True)
    assert not engine._work.is_set()
    with engine.waiting():
        flight.landed = time.perf_counter()
    assert not engine._work.is_set(), "the thread was woken for what had landed"
