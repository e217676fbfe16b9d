"""The averagers of one optimizer, in the order in which they act."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..averagers.base import Averager
from ..observe.timeline import Timeline
from ..observe.weight_report import WeightReport, addends
from ..recovery.deaths import Recovery
from ..world import World, check_world
from .arguments import check_worlds
from .parameters import Parameters
from .state_dicts import check_bare, check_keys, check_no_more, check_runs
from .update import Update


class Phases(NamedTuple):
    """The calls of one step, in order: of each averager the methods that its class defines."""

    begin: list[Callable[[int], None]]
    land: list[Callable[[int], None]]
    rewrites: list[Callable[[int], bool]]
    average: list[Callable[[int], None]]
    post: list[Callable[[int], None]]
    in_flight: list[Callable[[], bool]]

    def add(self, averager: Averager) -> None:
        """Let `averager` act behind the others."""
        for name, calls in self._asdict().items():
            if getattr(type(averager), name) is not getattr(Averager, name):
                calls.append(getattr(averager, name))


class Attached:
    """Averagers that act on one mass: the first is the optimizer's own, others join behind it.

    Args:
        optimizer: the wrapped optimizer.
        parameters: its parameters, which live in the buckets of a mass.
        gradients: the ranks that average their gradients, or None.
        trace: the folder of timelines, or nothing.
        recovers: whether averagers go on without ranks that died.

    Attributes:
        each: the averagers.
        phases: the calls of a step.
        update: the wrapped optimizer's own part of a step.
        recovery: lets averagers go on without ranks that died, or None.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Parameters,
        gradients: World | None,
        trace: str | None,
        recovers: bool,
    ) -> None:
        self.each: list[Averager] = []
        self.phases = Phases([], [], [], [], [], [])
        self._optimizer, self._parameters, self._mass = optimizer, parameters, parameters.mass
        self._gradients, self._trace = gradients, trace
        self.update = Update(optimizer, parameters, self._mass, gradients)
        self.recovery = Recovery(self._mass) if recovers else None

    def attach(self, averager: Averager, every: int, options: str, worlds: Sequence[World], call: str) -> None:
        """Let `averager` act in each `every`-th step, once the ranks of its worlds and of `worlds` agree on it.

        Args:
            averager: not bound yet.
            every: steps from one action to the next.
            options: one line, the same on every rank.
            worlds: more worlds that take part.
            call: the public call that attaches it, for errors.
        """
        mass, parameters, stats = self._mass, self._parameters, self._mass.stats
        worlds = [*averager.worlds, *worlds]
        check_worlds(averager, worlds, self._gradients, self.recovery is not None, mass.integrity.checksum)
        if self.recovery is not None:
            self.recovery.prepare(averager, worlds)
        if worlds:
            stats.board = worlds[0].base.board
        if self._trace and worlds:
            home = worlds[0]
            stats.timeline = Timeline.of(self._trace, home.base.me, home.hosts[home.rank], mass)
        with stats.board.calling(call):
            newcomers = parameters.meet(worlds, [options, f"averager {averager.describe()}"])
            averager.bind(mass, every)
            self.each.append(averager)
            self.phases.add(averager)
            parameters.share(newcomers, worlds)
            if routes := {world.base.route(values) for world in worlds for values in mass.values}:
                stats.route = " and ".join(sorted(routes))
            parameters.rounded.write_()
            if self.recovery is not None and worlds:
                self.recovery.enrol(worlds[0])
            newcomers.barrier()  # by now every rank would go on if one died
            if stats.timeline is not None and newcomers.places():
                stats.timeline.align()

    def weight_report(self, world: World | None) -> WeightReport:
        """The weight of the ranks of `world`; of the largest world here, if it is None.

        >>> import gossip
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> gossip.GossipOptimizer(sgd, gossip.NoAverage()).weight_report().lost
        0.0
        """
        if world is not None:
            check_world(world, "weight_report sums over a World, and this is {}")
        worlds = [world for averager in self.each for world in averager.worlds]
        home = world or max(worlds, key=lambda world: world.size, default=self._gradients)
        mass = self._mass

        def total() -> torch.Tensor:
            sums = addends(mass.weight, mass.weight_in_flight)
            if home is not None:
                mass.stats.wait(home.base.sum([sums]))
            return sums

        with mass.stats.board.calling("optimizer.weight_report()"):
            sums = total() if home is None else home.base.together(total)
        return WeightReport.of(1 if home is None else home.base.size, sums)

    def quiesce(self) -> None:
        """Wait until no flight reads the values."""
        for averager in self.each:
            averager.quiesce()

    def settle(self) -> None:
        """Land everything in flight. Every rank calls it."""
        for averager in self.each:
            averager.settle()
        self.quiesce()

    def rebind(self) -> None:
        """Follow the mass to other buckets, nothing being in flight."""
        for averager in self.each:
            averager.rebind()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of the first averager, the mass and the parameters. Waits for messages on their way."""
        return {
            "runs": self.each[0].describe(),
            **self.update.state_dict(),
            **self._parameters.state_dict(),
            **self._mass.state_dict(),
            "averager": self.each[0].state_dict(),
            "lost": [] if self.recovery is None else self.recovery.lost,
        }

    def check_own(self, state: Mapping[str, Any], saved: Mapping[str, Any] | None) -> None:
        """Check that a state, with its section `saved`, belongs to these ranks, averager, optimizer and parameters.

        Raises:
            UsageError: naming what differs, or what the state holds besides.
        """
        check_keys(state, self._optimizer)
        if saved is None:
            check_bare(state, type(self._optimizer).__name__)
            return
        self._parameters.check_own(saved)
        check_runs(saved, self.each[0], self.update.state_dict())
        check_no_more(state, saved)

    def load_state_dict(self, saved: Mapping[str, Any] | None) -> None:
        """Drop messages in flight, and go on from `saved`, or begin anew."""
        self.each[0].forget()
        self._mass.forget()
        self._parameters.rounded.restore_({} if saved is None else saved.get("masters", {}))
        if saved is not None:
            self.each[0].load_state_dict(saved["averager"])
            self._mass.load_state_dict(saved)
            self.update.closures.early = saved.get("early")
