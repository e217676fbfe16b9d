"""Late and lost messages, deaths, settling and checkpoints, in any order: nothing is lost or made.

A state machine drives ranks that are threads: all of them do what it says next, and it looks at what they hold.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import gossip
import topologies
from gossip import testing
from gossip.transports import Killed, Network

Array = npt.NDArray[np.float64]
Answer = TypeVar("Answer")

LONGEST = 30.0
"""Seconds after which a rank that has not answered hangs."""


class Rank(NamedTuple):
    """The objects that a rank has."""

    world: gossip.World
    optimizer: gossip.GossipOptimizer
    parameter: torch.Tensor

    def held(self) -> tuple[float, Array]:
        return self.optimizer.weight, self.parameter.detach().numpy().copy()

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.optimizer.step()

    def saved(self) -> tuple[Any, Array]:
        return self.optimizer.state_dict(), self.held()[1]

    def load(self, saved: tuple[Any, Array]) -> None:
        self.optimizer.load_state_dict(saved[0])
        with torch.no_grad():
            self.parameter.copy_(torch.from_numpy(saved[1]))


class Crew:
    """Ranks that wait for orders and answer them. `died`: those that did not."""

    def __init__(self, size: int, start: Callable[[gossip.World], Rank], network: Network) -> None:
        self.alive = list(range(size))
        self._orders: list[queue.Queue[Callable[[Rank], Any] | None]] = [queue.Queue() for _ in range(size)]
        self._answers: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._start = start
        self._failed: list[BaseException] = []

        def ranks() -> None:
            try:
                testing.run(size, self._serve, network=network, timeout=LONGEST / 2)
            except BaseException as error:
                self._failed.append(error)

        self._thread = threading.Thread(target=ranks)
        self._thread.start()

    def _serve(self, world: gossip.World) -> None:
        rank = self._start(world)
        while (order := self._orders[world.rank].get()) is not None:
            try:
                self._answers.put((world.rank, order(rank)))
            except BaseException as error:
                self._answers.put((world.rank, error))
                raise

    def do(self, order: Callable[[Rank], Answer], who: Iterable[int] | None = None) -> dict[int, Answer]:
        """The answer of each rank in question; a rank that the order kills is no longer alive."""
        asked = self.alive if who is None else sorted(who)
        for rank in asked:
            self._orders[rank].put(order)
        answers = dict(self._answers.get(timeout=LONGEST) for _ in asked)
        for rank, answer in sorted(answers.items()):
            if isinstance(answer, Killed):
                self.alive.remove(rank)
                del answers[rank]
            elif isinstance(answer, BaseException):
                raise answer
        return answers

    def end(self) -> None:
        for orders in self._orders:
            orders.put(None)
        self._thread.join(LONGEST)
        assert not self._thread.is_alive(), "a rank hangs"
        if self._failed:
            raise self._failed[0]


class Faults(RuleBasedStateMachine):
    """Gossip without updates, so that what all hold together is known."""

    @initialize(
        size=st.integers(1, 5),
        how=st.sampled_from([("due", 0), ("due", 1), ("due", 2), ("early", 3), ("any", 0)]),
        average=st.booleans(),
        seed=st.integers(0, 2**16),
    )
    def begin(self, size: int, how: tuple[str, int], average: bool, seed: int) -> None:
        self.landing, overlap = how
        self.seed, self.slowest, self.losing = seed, 0.0, 0.0
        self.dying: dict[int, int] = {}  # rank -> messages that it still sends
        self.start = np.random.default_rng((seed, size)).standard_normal((size, 3))
        self.total: Array | None = self.start.sum(axis=0)  # Σ w z; None from a death until everything has landed
        self.kept: tuple[list[int], Array, dict[int, tuple[Any, Array]]] | None = None

        def start(world: gossip.World) -> Rank:
            parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
            averager: gossip.Averager = gossip.PushSum(world, topologies.exponential(size), overlap, self.landing)
            if average and self.landing == "due":
                averager = gossip.Chain(averager, gossip.Every(4, gossip.ExactAverage(world)))
            on_failure = "shrink" if self.landing == "due" else "raise"
            optimizer = gossip.GossipOptimizer(torch.optim.SGD([parameter], lr=0.1), averager, on_failure=on_failure)
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(self.start[world.rank]))
            return Rank(world, optimizer, parameter)

        sent: Counter[int] = Counter()

        def drawn(*what: int) -> float:
            return random.Random(f"{seed} {what}").random()

        def delay(source: int, target: int, number: int) -> float:
            sent[source] += 1
            if source in self.dying:
                self.dying[source] -= 1
                if self.dying[source] < 0:
                    raise Killed
            return self.slowest * drawn(0, source, target, number)

        def lose(source: int, target: int, number: int) -> bool:
            return drawn(1, source, target, number) < self.losing

        def repeat(source: int, target: int, number: int) -> bool:
            return drawn(2, source, target, number) < self.losing

        lossy = {"lose": lose, "repeat": repeat} if self.landing == "any" else {}
        self.crew = Crew(size, start, Network(delay=delay, patience=2e-3, **lossy))
        self.crew.do(lambda rank: None)

    @rule(number=st.integers(1, 4))
    def step(self, number: int) -> None:
        self.crew.do(lambda rank: rank.steps(number))

    @precondition(lambda self: self.landing == "any")
    @rule(seed=st.integers(0, 99))
    def step_unevenly(self, seed: int) -> None:
        paces = {rank: random.Random(f"{seed} {rank}").randrange(4) for rank in self.crew.alive}
        self.crew.do(lambda rank: rank.steps(paces[rank.world.rank]))

    @rule(slowest=st.sampled_from([0.0, 5e-4, 3e-3]))
    def delay(self, slowest: float) -> None:
        self.slowest = slowest

    @precondition(lambda self: self.landing == "any")
    @rule(share=st.sampled_from([0.1, 0.3]))
    def lose(self, share: float) -> None:
        self.losing = share

    # Draws must not depend on the results of the threads, so a rule that cannot apply does nothing.

    @precondition(lambda self: self.landing == "due")
    @rule(
        who=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=2), number=st.integers(1, 3)
    )
    def kill(self, who: list[tuple[int, int]], number: int) -> None:
        """One or two of them, each at one of its next messages, as long as one is left.

        Then they settle: whoever has no more steps to make is not there to be met by one who notices late.
        """
        victims = {self.crew.alive[rank % len(self.crew.alive)]: left for rank, left in who}
        self.dying = dict(list(victims.items())[: len(self.crew.alive) - 1])
        before = list(self.crew.alive)
        self.crew.do(lambda rank: (rank.steps(number), rank.optimizer.settle()))
        self.dying = {}
        if self.crew.alive != before:
            self.total = None

    @rule()
    def settle(self) -> None:
        self.losing = 0.0  # whoever has settled answers no more
        self.crew.do(lambda rank: rank.optimizer.settle())
        held = self.crew.do(Rank.held)
        assert abs(sum(weight for weight, _ in held.values()) - len(self.crew.alive)) < 1e-9
        total = sum(weight * values for weight, values in held.values())
        if self.total is not None:
            np.testing.assert_allclose(total, self.total, atol=1e-9)
        self.total = total

    @rule()
    def checkpoint(self) -> None:
        """With the messages in flight, where these can be known."""
        if self.landing == "any" or self.total is None:
            self.settle()
        assert self.total is not None
        self.kept = list(self.crew.alive), self.total, self.crew.do(Rank.saved)

    @rule()
    def resume(self) -> None:
        if self.kept is None or self.kept[0] != self.crew.alive:
            return
        self.losing = 0.0
        _, self.total, saved = self.kept
        self.crew.do(lambda rank: rank.load(saved[rank.world.rank]))

    @invariant()
    def nobody_is_outside_the_hull(self) -> None:
        if hasattr(self, "crew"):
            for weight, values in self.crew.do(Rank.held).values():
                assert weight > 0
                assert (values >= self.start.min(axis=0) - 1e-9).all()
                assert (values <= self.start.max(axis=0) + 1e-9).all()

    def teardown(self) -> None:
        if not hasattr(self, "crew"):
            return
        try:
            self.slowest = 0.0
            for _ in range(10):
                for _ in range(30):
                    self.crew.do(lambda rank: rank.steps(1))
                self.settle()
                values = np.stack([values for _, values in self.crew.do(Rank.held).values()])
                if np.ptp(values, axis=0).max() < 1e-6:
                    break
            assert self.total is not None
            for each in values:
                np.testing.assert_allclose(each, self.total / len(self.crew.alive), atol=1e-6)
        finally:
            self.crew.end()


TestFaults = Faults.TestCase
TestFaults.settings = settings(max_examples=15, stateful_step_count=15)
