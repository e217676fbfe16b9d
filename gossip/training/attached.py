"""The averagers of one optimizer, in the order in which they act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..averagers.base import Averager
from ..averagers.composition import Composite
from ..errors import UsageError
from ..observe.stats import WeightReport
from ..observe.timeline import Timeline
from ..passes.forward import ForwardPass
from ..recovery.deaths import Recovery, check_recoverable
from ..state.buckets.writes import Writes
from ..world import World, check_world
from .arguments import check_joined, check_worlds
from .notices import EqualGradients
from .parameters import Parameters
from .state_dicts import check_format, check_options, check_runs, of_optimizer
from .update import Update

Call = Callable[[int], None]


FIRST = 8
"""Steps in which the comparison of first gradients may end; later it ends when ranks settle."""


class Phases(NamedTuple):
    """The calls of one step, in order: of each averager the methods that it defines, of a composition its members'."""

    begin: list[Call]
    land: list[Call]
    # (rewrites, average): everything lands before the second call if the first one, if any, says so.
    average: list[tuple[Callable[[int], bool] | None, Call]]
    post: list[Call]
    in_flight: list[Callable[[], bool]]

    def add(self, averager: Averager) -> None:
        """Let `averager` act behind the others."""
        for calls, name in ((self.begin, "begin"), (self.land, "land"), (self.post, "post")):
            calls.extend(getattr(each, name) for each in _parts(averager, name))
        for each in _parts(averager, "average"):
            rewrites = each.rewrites if type(each).rewrites is not Averager.rewrites else None
            self.average.append((rewrites, each.average))
        self.in_flight.extend(each.in_flight for each in _parts(averager, "in_flight"))


def _parts(averager: Averager, name: str) -> Iterator[Averager]:
    """The averagers that define the method `name`: members in the place of a composition that passes it on to them."""
    method = getattr(averager, name)
    function = getattr(method, "__func__", method)
    if function is getattr(Composite, name):
        for member in averager.members:
            yield from _parts(member, name)
    elif function is not getattr(Averager, name):
        yield averager


def _check_in_time(averagers: Sequence[Averager]) -> None:
    """Check that no averager reads values while a round of the same step is not merged yet."""
    names = ("average", "post")
    acting = [part for averager in averagers for name in names for part in _parts(averager, name)]
    unmerged = next((part for part in acting if part.unmerged), None)
    for part in acting:
        if unmerged not in (None, part) and type(part).rewrites is Averager.rewrites:
            raise UsageError(
                f"{unmerged!r} is merged in the next forward pass, and {part!r} acts on values in every step: take "
                "landing='due' for the first one"
            )


def _check_complete(averager: Averager) -> None:
    for member in averager.members:
        _check_complete(member)
    kind = type(averager)
    if hasattr(averager, "due"):
        raise UsageError(f"{kind.__name__} defines due(step), which nothing calls: its name is is_due(step)")
    if kind.post is not Averager.post:
        lacking = [name for name in ("settle", "in_flight") if getattr(kind, name) is getattr(Averager, name)]
        if lacking:
            raise UsageError(
                f"{kind.__name__} defines post(), whose messages travel on, and no {' and no '.join(lacking)}(): "
                "define both, so that optimizer.settle() lands them"
            )


class Attached:
    """Averagers that act on one mass: the first is the optimizer's own, others join behind it."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Parameters,
        gradients: World | None,
        trace: str | None,
        recovers: bool,
        writes: Writes,
    ) -> None:
        self.each: list[Averager] = []
        self.phases = Phases([], [], [], [], [])
        self._optimizer, self._parameters, self._mass = optimizer, parameters, parameters.mass
        self._gradients, self._trace, self._writes = gradients, trace, writes
        self.update = Update(optimizer, parameters, self._mass, gradients)
        self.recovery = Recovery(self._mass) if recovers else None
        self._equal: EqualGradients | None = None
        self.looks = FIRST  # steps of this object in which mistakes are still looked for

    def attach(self, averager: Averager, every: int, options: str, worlds: Sequence[World], call: str) -> None:
        """Let `averager` act in each `every`-th step, once the ranks of its worlds and of `worlds` agree on it."""
        mass, parameters, stats = self._mass, self._parameters, self._mass.stats
        worlds = [*averager.worlds, *worlds]
        check_worlds(averager, worlds, self._gradients, self.recovery is not None, mass.checksum)
        _check_complete(averager)
        _check_in_time([*self.each, averager])
        if self.recovery is not None:
            check_recoverable(averager, worlds)
        if worlds:
            stats.board = worlds[0].base.board
        if self._trace and worlds:
            home = worlds[0]
            stats.timeline = Timeline.of(self._trace, home.base.me, home.hosts[home.rank], mass)
        with stats.board.calling(call):
            newcomers = parameters.meet(worlds, [options, f"averager {averager.describe()}"])
            if self.recovery is not None:
                self.recovery.prepare(averager)
            averager.watch(ForwardPass(parameters.module, parameters, mass, parameters.rounded, self._writes))
            averager.bind(mass, every)
            self.each.append(averager)
            self.phases.add(averager)
            parameters.share(newcomers, worlds)
            if routes := {world.base.route(values) for world in worlds for values in mass.values}:
                stats.route = " and ".join(sorted(routes))
            parameters.rounded.write_()
            if worlds and self.recovery is None and self._equal is None and averager.lockstep:
                self._equal = EqualGradients(parameters, worlds[0])
            if self.recovery is not None and worlds:
                self.recovery.enrol(worlds[0])
            newcomers.barrier()  # by now every rank would go on if one died
            if stats.timeline is not None and newcomers.places():
                stats.timeline.align()

    def look(self, has_closure: bool) -> None:
        """In each of the first steps, with gradients there: see whether the run does what its script says."""
        if self.looks == FIRST:
            check_joined(self._parameters.worlds)
            if not has_closure:
                self._parameters.warn_untrained()
        self.looks -= 1
        if self._equal is not None:
            self._equal.look()

    def weight_report(self, world: World | None) -> WeightReport:
        """The weight of the ranks of `world`; of the largest world here, if it is None."""
        if world is not None:
            check_world(world, "weight_report sums over a World, and this is {}")
        worlds = [world for averager in self.each for world in averager.worlds]
        home = world or max(worlds, key=lambda world: world.size, default=self._gradients)
        mass = self._mass

        def total() -> torch.Tensor:
            w = mass.weight.reshape(1)
            given = torch.as_tensor(mass.weight_in_flight, dtype=w.dtype, device=w.device).reshape(1)
            sums = torch.cat([w, given, w * w])
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

    def complete(self) -> None:
        """Merge the rounds of steps that have ended, where that was left for later."""
        for averager in self.each:
            if averager.unmerged:
                averager.quiesce()

    def settle_together(self) -> None:
        """Land everything in flight, between two steps. Every rank calls it."""
        if self.recovery is None:
            self.settle()
        else:
            self.recovery.together(self.settle)

    def settle(self) -> None:
        """Land everything in flight."""
        for averager in self.each:
            averager.settle()
        if self._equal is not None:
            self._equal.settle()
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
            "places": self._parameters.council.places(),
            "masters": self._parameters.rounded.masters(),
            **self._mass.state_dict(),
            "averager": self.each[0].state_dict(),
            "lost": [] if self.recovery is None else self.recovery.lost,
        }

    def check_own(self, state: Mapping[str, Any], options: str, own: Mapping[str, Any]) -> None:
        """Check that a state belongs to these ranks, averager, optimizer and parameters, and to `own` options."""
        saved = state.get("gossip")
        check_format(state, saved, self._optimizer)
        if saved is not None:
            self._parameters.rounded.check_own(saved.get("masters", {}))
            self._parameters.council.check_own(saved["places"])
            check_runs(state, saved, self.each[0], self.update.state_dict())
            check_options("GossipOptimizer", saved.get("options", {}), own, options)

    def forget(self) -> None:
        """Drop messages in flight."""
        self.each[0].forget()
        self._mass.forget()

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Go on from `state`, or begin anew; the number of steps made. `forget` comes first."""
        saved = state.get("gossip")
        self._optimizer.load_state_dict(of_optimizer(state))
        self._parameters.rounded.restore_({} if saved is None else saved.get("masters", {}))
        if saved is None:
            return 0
        self.each[0].load_state_dict(saved["averager"])
        self._mass.load_state_dict(saved)
        self.update.early = saved.get("early")
        return int(saved["steps"])
