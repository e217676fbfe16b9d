"""When to ask for what is under way: often when it is about to land, and rarely before."""

from __future__ import annotations

import itertools
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from gossip.transports import flight, mpi_flight, pacing
from gossip.transports.mpi_flight import MpiFlight


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
    made: Any = object.__new__(MpiFlight)
    made.posted = made.moved = made.expected = made._asked = clock.now
    made.landed, made._first, made._came = None, None, 0
    made._receives, made._sends, made._held, made._aboard, made._staged = [], [], [], [], []
    made._coming, made._going, made._well, made._failure, made._kind = deque(), deque(), set(), None, (0, 0, 0)
    made._prompt = True
    made.transport = SimpleNamespace(
        engine=SimpleNamespace(
            parties=False, habits=pacing.Habits(), forget=lambda _: None, mpi=SimpleNamespace(Exception=Broken)
        )
    )
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Broken(RuntimeError):
    """What MPI raises."""


class Request:
    """Ends at `at`, or breaks."""

    def __init__(self, clock: Clock, at: float) -> None:
        self.clock, self.at, self.tests = clock, at, 0

    def Test(self) -> bool:
        self.tests += 1
        if self.at < 0:
            raise Broken("it is dead")
        return self.clock.now >= self.at


class Parcel:
    """A peer's message, handed over."""

    staged, posted = False, True

    def __init__(self, peer: int, request: Request) -> None:
        self.peer, self.requests = peer, [request]


def questions(clock: Clock, under_way: Any) -> list[float]:
    """When it is asked for, until it has landed, and by whom it is waited for all the time."""
    began, asked = clock.now, []
    while True:
        asked.append(clock.now)
        under_way._ask()
        if under_way.landed is not None:
            return asked
        clock.now += under_way.interval(clock.now - began)


def test_without_any_experience_questions_become_rarer(clock: Clock) -> None:
    under_way = flying(clock, _coming=deque([Request(clock, 100.08)]))
    asked = questions(clock, under_way)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[0] == pytest.approx(pacing.SHORTEST)
    assert gaps == sorted(gaps)
    assert max(gaps) == pytest.approx(pacing.LONGEST)


def test_what_takes_as_long_as_before_is_met_when_it_lands(clock: Clock) -> None:
    """A second one of the kind, 0.3 ms later than the first: the last questions are close together, and all are few."""
    habits = pacing.Habits()
    habits.note((0, 0, 0), 0.08)
    under_way = flying(clock, _coming=deque([Request(clock, 100.0803)]))
    under_way.transport.engine.habits = habits
    under_way._collect()
    asked = questions(clock, under_way)
    assert asked[-1] - 100.0803 < 5e-5
    assert len(asked) < 100
    assert habits.least((0, 0, 0)) == 0.08
    assert all(later - earlier > 9e-4 for earlier, later in itertools.pairwise(asked) if later < 100.079)


def test_pieces_foretell_the_end(clock: Clock) -> None:
    """Of a peer that began 0.3 s late, where experience says nothing, and whose last piece is a small one."""
    ends = [100.3, *(100.3 + 0.005 * (number + 1) for number in range(16)), 100.3838]
    under_way = flying(clock, _coming=deque(Request(clock, at) for at in ends))
    under_way.transport.engine.habits.note((0, 0, 0), 0.08)
    under_way._collect()
    assert questions(clock, under_way)[-1] - ends[-1] < 2e-4


def test_quick_messages_are_asked_for_often(clock: Clock) -> None:
    """A fast link stands still while nobody asks: the questions may not set the pace by which they are set."""
    under_way = flying(clock, _coming=deque([Request(clock, 100.001)]))
    under_way.transport.engine.habits.note((0, 0, 0), 1e-3)
    under_way._collect()
    assert len([asked for asked in questions(clock, under_way) if asked < 100.001]) >= 5


def test_what_cannot_be_foretold_is_asked_for_soon(clock: Clock) -> None:
    """Where MPI has questions of its own to the receiver, they want to be answered."""
    under_way = flying(clock, _coming=deque([Request(clock, 100.08)]), _prompt=False)
    under_way.transport.engine.habits.note((0, 0, 0), 0.08)
    under_way._collect()
    assert under_way.interval(0.0) == pytest.approx(pacing.SHORTEST)


def test_one_that_has_not_ended_is_enough_to_ask_for(clock: Clock) -> None:
    requests = [Request(clock, at) for at in (0.0, 200.0, 0.0)]
    under_way = flying(clock, _coming=deque(requests))
    under_way._ask()
    assert [request.tests for request in requests] == [1, 1, 0]
    clock.now = 200.0
    under_way._ask()
    assert under_way.landed == 200.0


def test_where_ranks_may_die_all_are_asked_for(clock: Clock) -> None:
    """The first peer is late, the third has died: that is noticed, and what the second sent counts as come."""
    requests = [Request(clock, at) for at in (200.0, 0.0, -1.0, 0.0)]
    parcels = [Parcel(peer, request) for peer, request in enumerate(requests)]
    under_way = flying(clock, _coming=deque(requests), _receives=parcels, receives=dict.fromkeys(range(4)))
    under_way.transport.engine.parties = 1
    under_way.transport.engine.died = lambda error: True
    under_way._ask()
    assert isinstance(under_way._failure, Broken)
    assert under_way.arrived() == {1}
    assert [request.tests for request in requests] == [1, 1, 1, 0]


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    habits = pacing.Habits()
    for size in range(3 * pacing.KINDS):
        habits.note((0, size, size), 1.0)
    assert len(habits._took) == pacing.KINDS
    assert habits.least((0, 0, 0)) == 0.0
    kind = (0, 3 * pacing.KINDS - 1, 3 * pacing.KINDS - 1)
    habits.note(kind, 0.5)
    assert habits.least(kind) == 0.5
    for _ in range(pacing.REMEMBERED):
        habits.note(kind, 2.0)
    assert habits.least(kind) == 2.0, "what has changed for good is not waited for as it was"
