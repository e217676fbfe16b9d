"""When flights are polled: often when they are about to land, and rarely before."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gossip.transports import flight
from gossip.transports.mpi import flight as mpi_flight
from gossip.transports.mpi import messages
from gossip.transports.mpi.backend import MpiBackend
from gossip.transports.mpi.engine import Engine
from gossip.transports.mpi.flight import Habits, MpiFlight


class Clock:
    """In the place of `time`, at a time of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(flight, "time", clock)
    monkeypatch.setattr(mpi_flight, "time", clock)
    return clock


def flying(clock: Clock, **attributes: Any) -> Any:
    """A flight over MPI that was posted now, without any MPI."""
    channel: Any = SimpleNamespace(number=0, ranks=[0, 1], me=0)
    made: Any = MpiFlight(Fake(), Habits(), channel, {1: []}, {1: []}, "round 7")
    made._kind = KIND
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Broken(RuntimeError):
    """An error of MPI."""


class Fake:
    """An engine without any MPI: keeps what it is handed, in order."""

    places = range(9)
    mpi = SimpleNamespace(Exception=Broken)

    def __init__(self, device: object = None, near: frozenset[int] = frozenset()) -> None:
        self.lock = threading.Lock()
        self.near = near
        self.routes = None if device is None else SimpleNamespace(of=lambda tensor: device)
        self.handed: list[Any] = []

    def post(self, message: Any) -> None:
        message.posted = True
        self.handed.append(message)

    def forget(self, flight: object) -> None:
        """It has landed."""

    def died(self, error: Exception) -> bool:
        return isinstance(error, Broken)


KIND = (0, True, 0, 0)
"""Of a flight of no bytes."""


class Request:
    """Ends at `at`, or breaks."""

    def __init__(self, clock: Clock, at: float) -> None:
        self.clock, self.at, self.tests = clock, at, 0

    def Test(self) -> bool:
        self.tests += 1
        if self.at < 0:
            raise Broken("it is dead")
        return self.clock.now >= self.at


class Message:
    """A peer's message, handed over."""

    staged, posted = False, True

    def __init__(self, peer: int, request: Request) -> None:
        self.rank, self.requests = peer, [request]


def questions(clock: Clock, under_way: Any) -> list[float]:
    """When it is asked for, until it has landed, and by whom it is waited for all the time."""
    began, asked = clock.now, []
    while True:
        asked.append(clock.now)
        under_way._poll()
        if under_way.landed is not None:
            return asked
        clock.now += under_way.interval(clock.now - began)


def test_polls_become_rarer_when_nothing_is_known_of_the_kind(clock: Clock) -> None:
    under_way = flying(clock, _coming=[deque([Request(clock, 100.08)])])
    asked = questions(clock, under_way)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[0] == pytest.approx(flight.SHORTEST)
    assert gaps == sorted(gaps)
    assert max(gaps) == pytest.approx(flight.LONGEST)


def test_a_batch_that_takes_as_long_as_before_is_polled_when_it_lands(clock: Clock) -> None:
    """A second one of the kind, 0.3 ms later than the first: the last questions are close together, and all are few."""
    habits = Habits()
    habits.note(KIND, 0.08)
    under_way = flying(clock, _coming=[deque([Request(clock, 100.0803)])])
    under_way._habits = habits
    under_way.collect()
    asked = questions(clock, under_way)
    assert asked[-1] - 100.0803 < 5e-5
    assert len(asked) < 100
    assert habits.least(KIND) == 0.08
    assert all(later - earlier > 9e-4 for earlier, later in itertools.pairwise(asked) if later < 100.079)


@pytest.mark.parametrize("late", [0.3, 0.3002, 0.3004, 0.3006, 0.3008])
def test_the_pieces_predict_the_landing(late: float, clock: Clock) -> None:
    """Of a peer that began late, where experience says nothing, and whose last piece is a small one."""
    began = 100 + late
    ends = [began, *(began + 0.005 * (number + 1) for number in range(16)), began + 0.0838]
    under_way = flying(clock, _coming=[deque(Request(clock, at) for at in ends)])
    under_way._habits.note(KIND, 0.08)
    under_way.collect()
    assert questions(clock, under_way)[-1] - ends[-1] < 2e-4


@pytest.mark.parametrize("late", [5e-3, 1e-3, 3e-4])
def test_a_kind_that_was_late_once_becomes_quick_again(late: float, clock: Clock) -> None:
    """As each hop of a barrier, among ranks that go in step: none has come before it is asked for."""
    habits = Habits()
    habits.note(KIND, late)
    for _ in range(3 * mpi_flight.REMEMBERED):
        under_way = flying(clock, _coming=[deque([Request(clock, clock.now + 1e-4)])])
        under_way._habits = habits
        under_way.collect()
        took = questions(clock, under_way)[-1] - under_way.posted
    assert took < 1.5e-4


def test_a_slow_poll_does_not_keep_later_polls_slow(clock: Clock) -> None:
    """A piece of a quick message moves when it is asked for: it is not slower for having been slow before."""
    pieces, slow = 64, 0.005

    class Stream:
        """Of a buffer that holds four pieces, and is emptied and filled again by a question."""

        def __init__(self) -> None:
            self.left, self.seen = pieces, clock.now

        def Test(self) -> bool:
            room = min(4, int((clock.now - self.seen) / 1e-5))
            self.left, self.seen = self.left - room, clock.now if room else self.seen
            return self.left <= 0

    habits = Habits()
    habits.note(KIND, slow)
    for _ in range(3 * mpi_flight.REMEMBERED):
        under_way = flying(clock, _coming=[deque([Stream(), *(Request(clock, 0.0) for _ in range(pieces - 1))])])
        under_way._habits = habits
        under_way.collect()
        began = clock.now
        questions(clock, under_way)
    assert clock.now - began < slow


def test_a_held_message_predicts_nothing(clock: Clock) -> None:
    """Its word may come at any time; and what only comes, or only goes, teaches nothing."""
    for given in ({"held": [Message(1, Request(clock, 0.0))]}, {"_learns": False}):
        under_way = flying(clock, _coming=[deque([Request(clock, 100.0)])], **given)
        for parcel in under_way.held:
            parcel.posted = False
        under_way._habits.note(KIND, 0.08)
        under_way.collect()
        assert under_way.interval(0.0) == pytest.approx(flight.SHORTEST)
        if not under_way._learns:
            under_way._poll()
            assert under_way.landed == 100.0
            assert under_way._habits.least(KIND) == 0.08


@pytest.mark.parametrize("waited", [0.0, 0.001])
def test_a_new_wait_polls_soon_when_polls_drive_progress(waited: float, clock: Clock) -> None:
    """Long after the post, where MPI has questions of its own to the receiver, which want to be answered."""
    under_way = flying(clock, _coming=[deque([Request(clock, 100.08)])], prompt=False)
    under_way._habits.note(KIND, 0.08)
    under_way.collect()
    clock.now += 0.05
    assert under_way.interval(waited) == pytest.approx(max(flight.SHORTEST, waited / 10))


def test_a_poll_tests_one_piece_of_each_message(clock: Clock) -> None:
    late, prompt = ([Request(clock, at) for at in ends] for ends in ((200.0, 0.0), (0.0, 200.0, 0.0)))
    under_way = flying(clock, _coming=[deque(late), deque(prompt)])
    under_way._poll()
    assert [request.tests for request in (*late, *prompt)] == [1, 0, 1, 1, 0]
    clock.now = 200.0
    under_way._poll()
    assert under_way.landed == 200.0


def test_a_dead_peer_is_noticed_behind_one_that_is_late(clock: Clock) -> None:
    """And the message of another one has arrived, but not those that were not tested yet."""
    requests = [Request(clock, at) for at in (200.0, 0.0, -1.0, 0.0, 0.0)]
    incoming = [Message(peer, request) for peer, request in enumerate(requests)]
    under_way = flying(
        clock,
        _coming=[deque(message.requests) for message in incoming[:-1]],
        held=incoming[-1:],
        collect=lambda: None,
        incoming=incoming,
        receives=dict.fromkeys(range(5)),
        ranks=range(5),
    )
    under_way._poll()
    assert isinstance(under_way.failure, Broken)
    assert under_way.arrived() == {1}
    assert [request.tests for request in requests] == [1, 1, 1, 0, 0]


class Direct:
    """The route of a device whose memory MPI reads."""

    memory = SimpleNamespace(mark=lambda: None)

    def message(self, rank: int, line: messages.Line, tensor: torch.Tensor, mark: None) -> messages.Plain:
        return messages.PlainSend(rank, line, [tensor])


@pytest.mark.parametrize("inward", [True, False])
@pytest.mark.parametrize(("count", "at_once"), [(messages.FEW, True), (messages.FEW + 1, False)])
def test_a_post_hands_over_few_pieces(count: int, at_once: bool, inward: bool, clock: Clock) -> None:
    """Though the word that there is room has come already; and that word leaves with the first of them."""
    handed: list[tuple[bool, Any]] = []

    class Comm:
        def Isend(self, memory: list[Any], place: int, tag: int) -> Any:
            handed.append((False, memory[0]))
            return Request(clock, 0.0)

        def Irecv(self, memory: list[Any], place: int, tag: int) -> Any:
            handed.append((True, memory[0]))
            return Request(clock, 0.0)

    engine: Any = object.__new__(Engine)
    engine.queues, engine.byte, engine.comm = defaultdict(deque), None, Comm()
    line = messages.Line(inward, 1, 0)
    plain = messages.PlainReceive if inward else messages.PlainSend
    message = plain(1, line, range(count), asking=True)
    engine.post(message)
    assert message.posted == at_once
    words = [(way, piece) for way, piece in handed if piece is messages.NOTHING]
    assert [way for way, _ in words] == [not inward]
    pieces = [piece for _, piece in handed if piece is not messages.NOTHING]
    assert pieces == list(range(count if at_once else messages.FEW if inward else 0))
    if not at_once:
        engine.dispatch(line)
    assert message.posted
    assert [piece for way, piece in handed if way == inward and piece is not messages.NOTHING] == list(range(count))
    assert len(message.requests) == count
    assert len(handed) == count + 1
    assert not engine.queues


@pytest.mark.parametrize("inward", [True, False])
def test_the_post_of_a_second_message_does_not_poll_the_first(inward: bool) -> None:
    class First:
        line = messages.Line(inward, 1, 0)
        asked = 0

        def post(self, wire: object) -> bool:
            self.asked += 1
            return False

    engine: Any = object.__new__(Engine)
    engine.queues, first = defaultdict(deque), First()
    engine.post(first)
    engine.post(First())
    assert first.asked == 1


SMALL, LARGE = torch.zeros(100), torch.zeros(40 * messages.EAGER // 4)


@pytest.mark.parametrize(
    ("tensors", "engine", "asking", "prompt"),
    [
        ([SMALL], {}, False, True),
        ([SMALL, LARGE], {}, True, True),
        ([SMALL, LARGE], {}, False, False),
        ([SMALL, LARGE], {"near": {0, 1}}, True, False),
        ([SMALL], {"device": Direct()}, False, False),
    ],
)
def test_a_flight_knows_whether_mpi_sends_it_without_a_question(
    tensors: list[torch.Tensor], engine: dict[str, Any], asking: bool, prompt: bool, clock: Clock
) -> None:
    """Of pieces that leave eagerly; not of rests of larger ones, shared memory and devices."""
    backend: Any = object.__new__(MpiBackend)
    backend.engine = Fake(**engine)
    made = flying(clock, sends={1: tensors}, receives={1: tensors})
    backend._make_messages(made, asking)
    assert made.prompt == prompt
    inward = [message.line.inward for message in made.held]
    assert inward == sorted(inward, reverse=asking), "receives first where they ask, and sends where they do not"


def test_few_kinds_are_remembered() -> None:
    habits = Habits()
    for size in range(3 * mpi_flight.KINDS):
        habits.note((0, True, size, size), 1.0)
    assert len(habits._took) == mpi_flight.KINDS
    assert habits.least(KIND) == 0.0
    kind = (0, True, 3 * mpi_flight.KINDS - 1, 3 * mpi_flight.KINDS - 1)
    habits.note(kind, 0.5)
    assert habits.least(kind) == 0.5
    habits.note(KIND, 1.0)  # in the place of the one that was noted longest ago
    assert habits.least((0, True, 2 * mpi_flight.KINDS, 2 * mpi_flight.KINDS)) == 0.0
    assert habits.least(kind) == 0.5
    for _ in range(mpi_flight.REMEMBERED):
        habits.note(kind, 2.0)
    assert habits.least(kind) == 2.0, "what has changed for good is not waited for as it was"
