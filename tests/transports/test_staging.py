"""A device's tensors over MPI: chunks through pinned buffers or its own memory, and nobody waits for the device."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import spawn
import torch
from workers import staged, twin

import gossip
from gossip import testing
from gossip.transports import Communicator, Flight
from gossip.transports.collective.steps import Relay
from gossip.transports.mpi.backend import MpiBackend
from gossip.transports.mpi.gpu import cuda, staging
from gossip.transports.mpi.gpu import routes as gpu_aware
from gossip.transports.mpi.messages import Line, Message

Patch = pytest.MonkeyPatch

OUT, IN = Line(False, 1, 0), Line(True, 1, 0)
CHUNK = 100


class Request:
    """Has ended once both of its ends are there and it was asked for some times."""

    def __init__(self, wire: LocalWire, memory: Any) -> None:
        self.wire, self.memory = wire, memory
        self.done = False

    def Test(self) -> bool:
        self.wire.carry()
        return self.done


class LocalWire:
    """MPI between a line out and a line in of one process; copies late, when a message is about to end."""

    def __init__(self, said: list[str]) -> None:
        self.going: deque[Request] = deque()
        self.coming: deque[Request] = deque()
        self.said = said
        self.comm: Any = self
        self.byte: Any = None
        self._patience = 3
        self._number = 0

    def Isend(self, memory: list[Any], place: int, tag: int) -> Any:
        assert (place, tag) == OUT[1:]
        self.going.append(Request(self, memory[0]))
        return self.going[-1]

    def Irecv(self, memory: list[Any], place: int, tag: int) -> Any:
        assert (place, tag) == IN[1:]
        self.coming.append(Request(self, memory[0]))
        return self.coming[-1]

    def carry(self) -> None:
        """One question."""
        if self.going and self.coming:
            self._patience -= 1
            if not self._patience:
                source, target = self.going.popleft(), self.coming.popleft()
                bytes_of(target.memory)[:] = bytes_of(source.memory)
                source.done = target.done = True
                self._patience = 3
                self.said.append(f"message {self._number} ended")
                self._number += 1


def bytes_of(memory: Any) -> np.ndarray:
    """The bytes that MPI would read or write: an array, or what stands at the address of a device's memory."""
    if isinstance(memory, np.ndarray):
        return memory
    said = memory.__cuda_array_interface__
    assert said["typestr"] == "|u1"
    return np.ctypeslib.as_array((ctypes.c_uint8 * said["shape"][0]).from_address(said["data"][0]))


class Told(twin.TwinMemory):
    """Says when its copies begin and end."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said, self._counts = said, {"out": 0, "in": 0}

    def copy_out(self, span: torch.Tensor, buffer: cuda.Buffer, after: cuda.Event) -> None:
        self._tell("out", lambda: super(Told, self).copy_out(span, buffer, after), self._out)

    def copy_in(self, buffer: cuda.Buffer, span: torch.Tensor, after: cuda.Event) -> None:
        self._tell("in", lambda: super(Told, self).copy_in(buffer, span, after), self._in)

    def _tell(self, way: str, start: Callable[[], None], stream: deque[twin.Step]) -> None:
        number = self._counts[way]
        self._counts[way] += 1
        start()
        act = stream[-1].act
        stream[-1].act = lambda: (act(), self.said.append(f"copy {way} {number} ended"))
        self.said.append(f"copy {way} {number} began")


class Ends(NamedTuple):
    """Both ends of a message in one process."""

    said: list[str]
    source: Told
    target: Told
    wire: LocalWire

    @classmethod
    def new(cls) -> Ends:
        """With nothing under way."""
        said: list[str] = []
        return cls(said, Told(said), Told(said), LocalWire(said))

    def exchange(self, tensor: torch.Tensor, room: torch.Tensor) -> None:
        """Send `tensor` into `room`, and look at the buffers of each question."""
        send = gpu_aware.Route(self.source, direct=False).message(0, OUT, tensor, self.source.mark())
        receive = gpu_aware.Route(self.target, direct=False).message(0, IN, room, self.target.mark())
        for _ in range(10_000):
            posted = [post(message, self.wire) for message in (receive, send)]
            assert self.source.used <= 2
            assert self.target.used <= 2
            assert isinstance(send, staging.Staged)
            assert isinstance(receive, staging.Staged)
            ended = [send.move(), receive.move()]
            if all(posted) and all(ended):
                send.give_back()
                receive.give_back()
                return
        raise AssertionError("it never ended")


def post(message: Message, wire: LocalWire) -> bool:
    """As the engine does."""
    message.posted = message.posted or message.post(wire)
    return message.posted


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: Patch) -> None:
    monkeypatch.setattr(staging, "CHUNK", CHUNK)


@pytest.mark.parametrize("nbytes", [0, 1, 99, 100, 101, 200, 201, 1037])
def test_a_tensor_arrives_whole_through_two_buffers(nbytes: int) -> None:
    """No more of them at either end; all are given back, and the next message makes no new ones."""
    ends = Ends.new()
    tensor, room = torch.randint(0, 256, (nbytes,), dtype=torch.uint8), torch.zeros(nbytes, dtype=torch.uint8)
    ends.exchange(tensor, room)
    assert torch.equal(room, tensor)
    made = (ends.source.made, ends.target.made)
    assert made == (min(2, -(-nbytes // CHUNK)),) * 2
    again = torch.zeros_like(room)
    ends.exchange(tensor.flip(0), again)
    assert torch.equal(again, tensor.flip(0))
    assert made == (ends.source.made, ends.target.made)
    assert (ends.source.used, ends.target.used) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.bool, torch.int8])
def test_any_dtype_travels(dtype: torch.dtype) -> None:
    tensor = torch.arange(300).remainder(7).to(dtype)
    room = torch.zeros_like(tensor)
    Ends.new().exchange(tensor, room)
    assert torch.equal(room, tensor)


def test_copies_and_wire_overlap() -> None:
    """The copy of a chunk out of the device begins before the message of the chunk before it has ended.

    A chunk is copied into the device while the wire brings the next one.
    """
    ends = Ends.new()
    ends.exchange(torch.ones(10 * CHUNK, dtype=torch.uint8), torch.zeros(10 * CHUNK, dtype=torch.uint8))
    when = {event: number for number, event in enumerate(ends.said)}
    for chunk in range(9):
        assert when[f"copy out {chunk + 1} began"] < when[f"message {chunk} ended"]
        assert when[f"message {chunk} ended"] < when[f"copy in {chunk} began"]
    overlapped = [n for n in range(9) if when[f"message {n + 1} ended"] < when[f"copy in {n} ended"]]
    assert overlapped, "the wire stood still during every copy to the device"


def test_a_receive_waits_for_earlier_work_of_the_device() -> None:
    """A merge that was given to the device before the post may still be reading the room."""
    said: list[str] = []
    memory, wire = Told(said), LocalWire(said)
    room, mark = torch.zeros(250, dtype=torch.uint8), memory.mark()
    mark.left = 10**9
    receive = staging.StagedReceive(0, IN, room, memory, mark)
    for start in range(0, 250, CHUNK):
        wire.Isend([np.full(min(CHUNK, 250 - start), 7, dtype=np.uint8)], OUT.place, OUT.tag)
    for _ in range(100):
        post(receive, wire)
        assert not receive.move()
    assert not room.any(), "written while an earlier merge reads it"
    mark.left = 1
    for _ in range(100):
        post(receive, wire)
        receive.move()
    assert bool((room == 7).all())


def test_a_direct_message_is_posted_after_earlier_work_of_the_device() -> None:
    """And then out of, and into, the very memory."""
    said: list[str] = []
    memory, wire = Told(said), LocalWire(said)
    route, mark = gpu_aware.Route(memory, direct=True), memory.mark()
    tensor, room = torch.arange(250).to(torch.bfloat16), torch.zeros(250, dtype=torch.bfloat16)
    send, receive = route.message(0, OUT, tensor, mark), route.message(0, IN, room, mark)
    mark.left = 50
    tensor.mul_(2)  # what the device was doing at the time
    while not mark.passed:
        assert not wire.going
        assert not wire.coming
        post(send, wire)
        post(receive, wire)
    assert post(send, wire)
    assert post(receive, wire)
    while not all(request.Test() for request in (*send.requests, *receive.requests)):
        pass
    assert torch.equal(room, tensor)
    assert memory.made == 0


def test_a_failed_message_keeps_its_buffers_until_nothing_touches_them() -> None:
    """MPI and the device."""
    memory, wire = Told([]), LocalWire([])
    send = staging.StagedSend(0, OUT, torch.ones(500, dtype=torch.uint8), memory, memory.mark())
    while not send.requests:
        send.post(wire)
    send.failure = RuntimeError("the peer has died")
    with pytest.raises(RuntimeError, match="has died"):
        send.post(wire)
    assert memory.used == 2
    asked = 0
    while not send.let_go():
        asked += 1
    assert asked, "the device was still copying"
    send.give_back()
    assert memory.used == 0


def test_mpirun(tmp_path: Path) -> None:
    """Rings of big messages both ways, two batches under way, envelopes between: in order, and without a deadlock."""
    for saved in spawn.mpirun(4, "workers.staged", tmp_path, "twin"):
        assert list(saved["told"]) == ["host", "staged", "direct"]
        # Two buffers for each message that has more than a chunk, else one: to and from two peers, in two batches.
        most = sum(min(2, -(-size // staged.CHUNK)) for size in staged.SIZES if size > 32) * 2 * 2 * 2
        assert saved["most"] <= most
        assert len(set(saved["made"])) == 1, "buffers were made in later rounds"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and this machine has none")
def test_mpirun_on_a_device(tmp_path: Path) -> None:
    """The same with a GPU's memory, and the whole contract; torch raises where the host would wait for the device."""
    for saved in spawn.mpirun(2, "workers.staged", tmp_path, "device"):
        assert saved["told"][1] in ("staged", "direct")
    outcome = spawn.run_mpirun(2, ["-m", "workers.contract", "mpi/device"])
    assert outcome.code == 0, outcome.output[-4000:]


def test_an_optimizer_tells_how_its_parameters_travel() -> None:
    """Nothing where nobody shares them."""

    def run(world: gossip.World) -> list[str]:
        averagers = (gossip.ExactAverage(world), gossip.NoAverage())
        sgds = [torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=0.1) for _ in averagers]
        return [gossip.GossipOptimizer(sgd, way).stats.route for sgd, way in zip(sgds, averagers, strict=True)]

    assert testing.run(2, run) == [["host", ""]] * 2


def test_the_steps_of_a_sum_run_on_its_stream() -> None:
    """Whichever thread takes them."""

    def run(world: gossip.World) -> None:
        inside: list[bool] = []

        def steps(channel: Communicator) -> Iterator[Flight]:
            for _ in range(2):
                inside.append(stream.entered)
                yield channel.post({}, {}, "a step")
            inside.append(stream.entered)

        stream = Stream()
        relay = Relay(world.channel(), steps(world.channel()), "a sum")
        relay.around = stream
        relay.wait()
        assert inside == [True] * 3
        assert not stream.entered

    testing.run(1, run)


@pytest.mark.parametrize("breaks", [False, True])
def test_the_waiter_of_a_sum_continues_after_its_stream(breaks: bool) -> None:
    """Also where it has broken off: what was done on that stream still has its memory."""

    def run(world: gossip.World) -> None:
        joined: list[int] = []

        def steps(channel: Communicator) -> Iterator[Flight]:
            yield channel.post({}, {}, "a step")
            assert not joined
            if breaks:
                raise RuntimeError("the device is gone")

        relay = Relay(world.channel(), steps(world.channel()), "a sum")
        relay.join = lambda: joined.append(1)
        if breaks:
            with pytest.raises(gossip.PeerLost, match="a sum broke off: the device is gone"):
                relay.wait()
        else:
            relay.wait()
        assert joined == [1]

    testing.run(1, run)


def test_a_sum_over_mpi_has_a_stream_beside_the_caller_s(monkeypatch: Patch) -> None:
    """After what the caller has given to its own by now, and not after what follows."""
    said: list[str] = []

    class Named:
        def __init__(self, device: object, priority: int = 0, name: str = "beside") -> None:
            self.name = name

        def wait_stream(self, other: Named) -> None:
            said.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def told(thing: object) -> Iterator[None]:
        name = thing.name if isinstance(thing, Named) else str(thing)
        said.append(f"on {name}")
        yield
        said.append(f"off {name}")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "Stream", Named)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Named(device, name="the caller's"))
    monkeypatch.setattr(torch.cuda, "device", told)
    monkeypatch.setattr(torch.cuda, "stream", told)
    cuda.aside.cache_clear()

    def run(world: gossip.World) -> None:
        relay = Relay(world.channel(), iter([world.channel().post({}, {}, "a step")]), "a sum")
        backend = SimpleNamespace(engine=SimpleNamespace(drive=lambda flight: said.append("driven")))
        MpiBackend.drive(backend, relay)  # type: ignore[arg-type]
        relay.wait()

    testing.run(1, run)
    cuda.aside.cache_clear()
    step = ["on cuda:1", "on beside", "off beside", "off cuda:1"]
    assert said == ["beside waits for the caller's", "driven", *step, *step, "the caller's waits for beside"]


def test_the_progress_thread_belongs_to_the_device() -> None:
    """For what MPI itself asks of the device."""
    code = """
import threading, torch
from workers import twin
import gossip
names, adopted = [], threading.Event()
def adopt(memory):
    names.append(threading.current_thread().name)
    adopted.set()
twin.TwinMemory.adopt = adopt
with gossip.init("mpi", timeout=30) as world:
    twin.direct(world)
    for _ in range(3):
        room = torch.zeros(1000)
        channel = world.channel()
        channel.post({0: [torch.ones(1000)]}, {0: [room]}, "a round").wait()
        assert room.sum() == 1000
        flight = channel.post({}, {0: [room]}, "a later round")
        assert adopted.wait(20)
        channel.post({0: [torch.ones(1000)]}, {}, "its other end").wait()
        flight.wait()
assert names == ["gossip-mpi-progress"], names
"""
    outcome = spawn.run_mpirun(1, ["-c", code])
    assert outcome.code == 0, outcome.output


class Stream(AbstractContextManager[object]):
    """Says whether a thread is on it."""

    entered = False

    def __call__(self) -> Stream:
        return self

    def __enter__(self) -> None:
        self.entered = True

    def __exit__(self, *_: object) -> None:
        self.entered = False


# -- what the library says ---------------------------------------------------------------------------------------------


class Library:
    """A library that ctypes would load: functions by name."""

    def __init__(self, **functions: Callable[..., int]) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name not in self._functions:
            raise AttributeError(name)
        return self._functions[name]

    def __getitem__(self, name: str) -> Callable[..., int]:
        return self._functions[name]


class Comm:
    """A communicator that says what memory it takes."""

    rank = 0

    def __init__(self, kinds: str | None = None) -> None:
        self._kinds = kinds

    def Get_info(self) -> Any:
        """MPI's."""
        return SimpleNamespace(Get=lambda key: self._kinds if key == "mpi_memory_alloc_kinds" else None, Free=int)


def mpich(*kinds: int) -> Callable[[Any, Any], int]:
    """MPICH's question, yes for `kinds`."""

    def query(kind: Any, flag: Any) -> int:
        flag._obj.value = kind.value in kinds
        return 0

    return query


OPEN_MPI = {"MPIX_Query_cuda_support": lambda: 1, "MPIX_Query_rocm_support": lambda: 0}


@pytest.mark.parametrize(
    ("functions", "kinds", "cuda", "rocm"),
    [
        ({}, None, False, False),
        (OPEN_MPI, None, True, False),
        ({name: lambda: 0 for name in OPEN_MPI}, None, False, False),
        ({"MPIX_GPU_query_support": mpich(2)}, None, False, True),
        ({"MPIX_GPU_query_support": mpich()}, "system,mpi", False, False),
        ({}, "system, mpi, cuda", True, False),
        ({}, "mpi,cuda:host,rocm:device:fine", False, True),
    ],
)
def test_the_library_is_asked(
    functions: dict[str, Any], kinds: str | None, cuda: bool, rocm: bool, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(gpu_aware.ctypes, "CDLL", lambda path: Library(**functions))
    mpi = ModuleType("MPI")
    mpi.__file__ = "MPI.so"
    comm: Any = Comm(kinds)
    assert gpu_aware.supported(mpi, comm, "cuda") is cuda
    assert gpu_aware.supported(mpi, comm, "rocm") is rocm


@pytest.mark.parametrize(("value", "name"), [("0", "staged"), ("1", "direct"), (None, "staged")])
def test_the_way_is_logged_once(
    value: str | None, name: str, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    """For each device; the variable is believed where it is set."""
    monkeypatch.setattr(gpu_aware, "Memory", lambda device: twin.TwinMemory())
    monkeypatch.setattr(gpu_aware, "supported", lambda mpi, comm, kind: False)
    monkeypatch.delenv(gpu_aware.VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(gpu_aware.VARIABLE, value)
    comm: Any = Comm()
    routes = gpu_aware.Routes(ModuleType("MPI"), comm)
    tensor: Any = SimpleNamespace(device=torch.device("cuda", 0))
    with caplog.at_level(logging.INFO, logger="gossip"):
        found = [routes.of(tensor), routes.of(tensor)]
    assert found[0] is found[1] is not None
    assert found[0].name == name
    [record] = caplog.records
    assert ("directly" if name == "direct" else "staged") in record.getMessage()
    assert ("the library says" if value is None else gpu_aware.VARIABLE) in record.getMessage()
    assert routes.of(torch.zeros(1)) is None
    with pytest.raises(gossip.UsageError, match=r"rank 0 has a tensor on meta, .*move the model"):
        routes.of(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("value", ["yes", "2", "true"])
def test_another_value_is_refused(value: str, monkeypatch: Patch) -> None:
    monkeypatch.setenv(gpu_aware.VARIABLE, value)
    with pytest.raises(gossip.UsageError, match=f"GOSSIP_GPU_AWARE_MPI is '{value}': set it to 1 where"):
        gpu_aware.said()


def test_ranks_refuse_parameters_on_other_kinds_of_devices() -> None:
    def run(world: gossip.World) -> str:
        parameter = torch.zeros(3, device="meta" if world.rank == 1 else "cpu", requires_grad=True)
        with pytest.raises(gossip.Disagreement) as refused:
            gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), gossip.ExactAverage(world))
        return str(refused.value)

    for sentence in testing.run(2, run):
        assert "on a cpu device, group 0, where rank 1 has" in sentence
        assert "on a meta device, group 0" in sentence
