"""The step: land what is due, update, rewrite, post."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from .averagers.base import Averager
from .errors import GossipError
from .observe.stats import Stats
from .observe.timeline import VARIABLE, Timeline
from .observe.weight_report import WeightReport, addends
from .recovery.deaths import Death, Survivor
from .state.buckets.writes import Writes
from .state.companions import Companions
from .state.mass import Mass
from .training.carried import carried, is_probe, restored
from .training.checks.arguments import check_closure, check_group, check_keys, check_state, check_switches
from .training.checks.refusals import (
    check_joined,
    refuse_captured,
    refuse_more,
    refuse_options,
    refuse_other_runs,
    refuse_stranger,
    refuse_worlds,
)
from .training.closures import Closures, Evaluation, Loss
from .training.compared import check_bare, check_options
from .training.drift import Drift
from .training.gradients import GradientAverage, Said, unscaled_
from .training.parameters import Parameters
from .training.wrapper import Wrapper, brief
from .world import World, check_world

Begin = Callable[[], None]
"""Acts before anything in a step changes a value."""

Rewrite = Callable[[], None]
"""Changes whole values in a step; called after the update, when nothing that reads them is in flight."""

KEPT = ("steps", "places", "runs", "weight", "whole", "balanced", "equal", "averager")
"""What no state can do without."""

Result = TypeVar("Result")


class GossipOptimizer(Wrapper):
    """Any torch optimizer, with `averager` between its updates.

        land        merge the flights that are due
        gradients   g <- mean over the world `gradients`, if asked
        update      z <- z + Δ/w, Δ the wrapped optimizer's change
        average     all that ends inside the step: SGP's round, exact averages
        rewrite     SlowMo's outer step, where there is one
        post        what travels on while the next step computes: OSGP's round

    Every call of `step()` on every rank is one step of the schedule, also without gradients and also when a GradScaler
    skips the update, so a rank that ran out of batches goes on calling it. The parameters move into flat buckets when
    this is made: move the model to its device and dtype before. They hold the de-biased values z at all times, and may
    be on their way to a peer between two steps: call `settle()` on every rank before writing them by hand. Otherwise
    the next call raises. It sees every write in place, and on CPUs most of those through `.data`.

    A closure is evaluated before the flights land, so that they travel meanwhile, if the wrapped optimizer asks for it
    once in a step and changes nothing before. Its first step shows that. Otherwise (SAM, LBFGS) each evaluation takes
    place inside the update, and with `gradients` ends with an average of them.

    Args:
        optimizer: any torch optimizer of dense floating-point parameters.
        averager: what happens between updates. It belongs to this optimizer from now on.
        gradients: a World over which gradients are averaged before each update.
        module: the model, for parameter names in errors and for its buffers.
        module_buffers: "local" leaves BatchNorm's statistics and other buffers to each rank; "average" averages the
            floating-point ones whenever an exact average happens.
        initial: "broadcast" takes the parameters of rank 0 (and those of `module` that are not trained, and its
            buffers); "check" compares parameters. Both speak in the worlds of `averager` and `gradients`; without any,
            each rank begins with its own.
        on_failure: what happens when a rank's process dies. "raise" ends the job with an error; with "shrink" the ranks
            that are left go on without it, over `topologies.without` it, from construction on. That needs
            `mpirun --with-ft ulfm` and averagers over the whole world. The step in which it was noticed goes on where
            it stood; `deaths` and the log tell of it, and `world.survivors` is who is left.
        check_finite: look at parameters and averaged gradients before they are sent, and raise a GossipError that names
            the rank and the parameter where one is not finite; a pass over them, and over NCCL a wait for the device.
        checksum: every message of gossip carries a CRC-32 of its values, compared before they are merged; not over
            NCCL. All ranks alike.
        masters: parameters in bfloat16 or float16 get float32 masters, which the wrapped optimizer updates (its
            `param_groups` hold them), and which are averaged, sent and saved; the parameters are the masters, rounded,
            whenever `step()` or another call of ours returns. Gradients are float32 and shared, so that clipping,
            scaling and `zero_grad` may act on either. With nothing in flight a master takes over what is written into
            its parameter: always before the first step and after `settle()`, and else if it is written in place.
        trace: a folder into which each rank writes its timeline, rank-0.json and so on, for Perfetto; without it the
            variable GOSSIP_TRACE, and without that nothing is written. `python -m gossip.trace` joins the ranks. An
            optimizer that averages with nobody has no rank to write for.

    Raises:
        UsageError: arguments that cannot work.
        Disagreement: ranks hold different models, options or topologies; raised alike by all, nothing is changed.
        PeerTimeout: a rank did not come.

    >>> import gossip, topologies, torch
    >>> world = gossip.init()
    >>> model = torch.nn.Linear(4, 2)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> optimizer = gossip.GossipOptimizer(sgd, gossip.PushSum(world, topologies.exponential(world.size), overlap=1))
    >>> model(torch.ones(4)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        averager: Averager,
        *,
        gradients: World | None = None,
        module: torch.nn.Module | None = None,
        module_buffers: str = "local",
        initial: str = "broadcast",
        on_failure: str = "raise",
        check_finite: bool = False,
        checksum: bool = False,
        masters: bool = False,
        trace: str | os.PathLike[str] | None = None,
    ) -> None:
        refuse_options(optimizer, averager, gradients, module, module_buffers, initial, on_failure)
        self._closures = Closures()
        check_switches(check_finite=check_finite, checksum=checksum, masters=masters, trace=trace)
        super().__init__(optimizer)
        refuse_stranger(optimizer, module)
        self.averager = averager
        self.on_failure = on_failure
        self.steps = 0
        self._mode = "train"
        self.beginnings: list[Begin] = []
        self.rewrites: list[Rewrite] = []
        self.stats = Stats()
        self.mass = Mass(self.stats)
        self.mass.checks_finite, self.mass.checksums = check_finite, checksum
        self.mass.drift = Drift(lambda: optimizer.param_groups)
        self.parameters = Parameters(optimizer, module, self.mass, initial, masters)
        self._options = {"module_buffers": module_buffers}
        # The first, so that SlowMo's anchor comes after it; no bound method, which would hold this optimizer.
        self.register_step_pre_hook(type(self)._take)
        self.writes = Writes(self.mass.buckets, self.parameters.rounded)
        self._averagers: list[Averager] = []
        self._survivor: Survivor | None = None
        self._trace = os.environ.get(VARIABLE) if trace is None else trace
        self._gradients = GradientAverage(gradients, self.mass) if gradients is not None else None
        companions = Companions(module if module_buffers == "average" else None)
        options = (
            f"optimizer {type(optimizer).__name__} with {module_buffers=}, {initial=}, {on_failure=}, "
            f"{self._averaged_gradients}"
            + (", checksum=True" if checksum else "")
            + (", masters=True" if masters else "")
            + companions.describe()
        )
        self.attach(averager, 1, options, [gradients] if gradients is not None else [])
        self.mass.companions = companions

    def attach(
        self,
        averager: Averager,
        every: int,
        options: str,
        worlds: Sequence[World] = (),
        call: str = "gossip.GossipOptimizer(...)",
    ) -> None:
        """Let `averager` act on the values, once the ranks of its worlds and of `worlds` agree on it and `options`.

        `call`: the public call that does so, for errors.
        """
        self.settle()
        worlds = [*averager.worlds, *worlds]
        together = None if self._gradients is None else self._gradients.world
        refuse_worlds(averager, worlds, together, self.on_failure, self.mass.checksums)
        if worlds:
            self.stats.board = worlds[0].base.board
        if self._trace and worlds:
            home = worlds[0]
            self.stats.timeline = Timeline.of(self._trace, home.base.me, home.hosts[home.rank], self.mass)
        with self.stats.board.calling(call):
            self._meet(averager, every, options, worlds)

    def _meet(self, averager: Averager, every: int, options: str, worlds: Sequence[World]) -> None:
        newcomers = self.parameters.meet(worlds, [options, f"averager {averager.describe()}"])
        averager.bind(self.mass, every)
        self._averagers.append(averager)
        self.parameters.share(newcomers, worlds)
        if routes := {world.base.route(values) for world in worlds for values in self.mass.values}:
            self.stats.route = " and ".join(sorted(routes))
        self.parameters.rounded.write_()
        if self.on_failure == "shrink" and worlds and self._survivor is None:
            self._survivor = Survivor(self.mass, self._averagers, worlds[0].channel())
        newcomers.barrier()  # by now every rank would go on if one died
        if self.stats.timeline is not None and newcomers.places():
            self.stats.timeline.align()

    # -- the step ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:  # type: ignore[override]
        """One step of the schedule, on every rank; returns what `closure` returned.

        Forward and backward passes may be compiled, and captured in CUDA graphs, and so may the wrapped optimizer's
        own step be compiled where there are no masters; this call may not be captured.

        Raises:
            GossipError: a parameter has left its bucket, joined the wrapped optimizer behind our back, or was written
                while something was in flight.
            PeerTimeout: a peer did not answer before the world's deadline.
            PeerLost: a connection broke, or a peer is in another round.
        """
        refuse_captured()
        check_closure(closure)
        self.parameters.check()
        if closure is None and is_probe(self.optimizer):  # it changes no value, and is no step of the schedule
            self.persist(self.mass.quiet)
            return self.optimizer.step()
        for begin in self.beginnings:
            begin()
        if not self.steps:
            check_joined(self.parameters.worlds)
            if closure is None:
                self.parameters.warn_untrained()
        with self.stats.step(self.steps):
            result = self._step(self.steps, closure)
            if self.parameters.rounded:
                with self.stats.span("masters"):
                    self.parameters.rounded.write_()
            if (in_flight := self.mass.in_flight()) or self.parameters.rounded:
                self.writes.note(in_flight)
            return result

    def _take(self, *_: object) -> None:
        """Refuse writes by hand while something is in flight, and take others over into masters."""
        if self.writes.check(self.stats.board.rank, self.steps) and self.parameters.rounded:
            self.persist(self.mass.quiet)
            self.parameters.rounded.take_()

    def _step(self, step: int, closure: Callable[[], Loss] | None) -> Loss | None:
        span = self.stats.span
        evaluation = None if closure is None else self._evaluation(closure)
        if evaluation is not None and evaluation.is_early:
            self._take()  # what the closure may have written
        with span("land"):
            self.persist(lambda: self.averager.land(step))
        self.writes.forget()
        skip = unscaled_(self.parameters, getattr(self, "grad_scale", None), getattr(self, "found_inf", None))
        early = evaluation is not None and evaluation.is_early
        skip = self._average_gradients(Said(skip, early=early, inside=evaluation is not None and not early))
        result = None
        if not skip:
            self.persist(self.mass.quiet)
            with span("update"), self.mass.update():
                result = (
                    self.optimizer.step() if evaluation is None else self._closures.update(evaluation, self.optimizer)
                )
        with span("average"):
            self.persist(lambda: self.averager.average(step))
        for rewrite in self.rewrites:
            rewrite()
        self.persist(lambda: self.averager.post(step))
        self._note_weight()
        self.steps += 1
        return result

    def _average_gradients(self, said: Said) -> bool:
        """Where that was asked for; whether any rank skips its update."""
        gradients = self._gradients
        if gradients is not None:
            with self.stats.span("gradients"):
                said = self.persist(lambda: gradients.average_(self.mass.buckets, said))
            self._closures.hear(said.early > 0)
        return said.skips > 0

    def _evaluation(self, closure: Callable[[], Loss]) -> Evaluation:
        closure = self.parameters.rounded.before(closure)

        def compute() -> Loss:
            with self.stats.span("compute"):
                return closure()

        average = None if self._gradients is None else lambda: self._average_gradients(Said(False, again=True))
        return self._closures.begin(compute, self.parameters, self.mass.values, average)

    def persist(self, act: Callable[[], Result]) -> Result:
        """Do `act`; with on_failure="shrink" again, without them, when ranks have died meanwhile."""
        return act() if self._survivor is None else self._survivor.carrier.go_on(act)

    @property
    def _averaged_gradients(self) -> str:
        return f"gradients {f'over {self._gradients.world.size} ranks' if self._gradients else 'of each rank'}"

    @property
    def deaths(self) -> list[Death]:
        """Ranks that died while the others went on."""
        return [] if self._survivor is None else self._survivor.deaths

    def _note_weight(self) -> None:
        if not self.mass.weight.is_cuda:  # reading it there would stop the host
            self.stats.weigh(self.weight)

    # -- what it holds -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        """In one line: what is updated, how it is averaged, and how often that was done."""
        over = "" if self._gradients is None else f", gradients over {self._gradients.world.size} ranks"
        return f"GossipOptimizer({brief(self.optimizer)}, {self.averager!r}{over}, {self.steps} steps made)"

    @property
    def weight(self) -> float:
        """The push-sum weight that this rank holds; what is in flight is not in it."""
        return float(self.mass.weight)

    def weight_report(self, world: World | None = None) -> WeightReport:
        """The weight of all ranks, held and in flight. Every rank calls it at the same step; it costs one small sum.

        Args:
            world: the ranks that gossip and average with one another; None takes the largest world of the averagers or,
                if they have none, that of `gradients`.

        >>> import gossip
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> GossipOptimizer(sgd, gossip.NoAverage()).weight_report().lost
        0.0
        """
        if world is not None:
            check_world(world, "weight_report sums over a World, and this is {}")
        worlds = [world for averager in self._averagers for world in averager.worlds]
        if not worlds and self._gradients is not None:
            worlds = [self._gradients.world]
        home = world or max(worlds, key=lambda world: world.size, default=None)

        def total() -> torch.Tensor:
            sums = addends(self.mass.weight, self.mass.aloft_weight)
            if home is not None:
                self.stats.wait(home.base.sum([sums]))
            return sums

        with self.stats.board.calling("optimizer.weight_report()"):
            sums = total() if home is None else home.base.together(total)
        return WeightReport.of(1 if home is None else home.base.size, sums)

    @torch.no_grad()
    def settle(self) -> None:
        """Land everything in flight. Every rank calls it: before evaluation, before the end, before close().

        With on_failure="shrink" nobody leaves it before all have landed everything: whoever noticed a death afterwards
        would find nobody to meet.
        """
        if self.mass.in_flight():  # what lands has to reach the model
            self.parameters.check()
            if self._mode == "eval":
                raise GossipError(
                    "settle() was called while the optimizer is in eval mode, and what lands belongs to the values "
                    "that train: call settle() before optimizer.eval(), or optimizer.train() before settle()"
                )
        self._take()
        with self.stats.board.calling("optimizer.settle()"), self.stats.span("settle"):
            if self._survivor is None:
                self.mass.settle()
            else:
                self._survivor.carrier.together(self.mass.settle)
        self.writes.forget()
        self.parameters.rounded.write_()
        self._note_weight()
        if self.stats.timeline is not None:
            self.stats.timeline.write()

    def rewritten(self, write: Callable[[], Result], mode: str) -> Result:
        """Do `write`, which changes the wrapped optimizer's parameters, while nothing reads them."""
        self._take()
        self.persist(self.mass.quiet)
        result = write()
        self.parameters.rounded.write_()
        self.writes.again()
        self._mode = mode
        return result

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in more parameters. Every rank does so at the same step; what is in flight lands first.

        Raises:
            UsageError: a parameter that cannot live in a bucket; the group is left out again.
            Disagreement: ranks add different groups.
        """
        check_group(param_group)
        with self.stats.board.calling("optimizer.add_param_group(...)"):
            self.settle()
            self.parameters.grow(param_group)
            self.parameters.rounded.write_()
            for averager in self._averagers:
                averager.rebind()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's two keys and "gossip". Waits for what is on its way and alters nothing.

        Asked for by `torch.distributed.checkpoint`, which drops other keys, its first parameter group carries "gossip".
        """
        self._take()
        own = self.optimizer.state_dict()
        ours = {
            "keys": sorted(own),
            "steps": self.steps,
            "places": self.parameters.council.places(),
            "runs": self.averager.describe(),
            "gradients": self._averaged_gradients,
            "options": dict(self._options),
            "early": self._closures.early,
            "optimizer": type(self.optimizer).__name__,
            **self.mass.state_dict(),
            "averager": self.persist(self.averager.state_dict),
            "masters": self.parameters.rounded.masters(),
            "lost": sorted(self._survivor.carrier.lost) if self._survivor is not None else [],
        }
        return carried({**own, "gossip": ours})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any], options: str = "check") -> None:
        """Go on from this rank's `state_dict()`, or with a warning begin anew from a wrapped optimizer's own.

        Parameters come from the model's state_dict, loaded in place before or after this. Compared are the averager,
        the class of the wrapped optimizer (whose own options come back), `gradients`, `masters` and `module_buffers`.
        Free are `initial`, `on_failure`, `check_finite`, `checksum`, `trace` and the names that `module` gives.

        Args:
            state_dict: this rank's.
            options: "check" refuses other options than `module_buffers` was saved with, "own" goes on with those here.

        Raises:
            UsageError: the state of another rank, of another number of ranks, of another averager, optimizer or
                options, or with that of an optimizer around this one.
        """
        check_state(state_dict, "gossip", KEPT)
        state_dict = restored(state_dict)
        check_state(state_dict, "gossip", KEPT)
        check_keys(state_dict, self.optimizer)
        saved = state_dict.get("gossip")
        if saved is None:
            check_bare(state_dict, type(self.optimizer).__name__)
        else:
            self.parameters.refuse_foreign(saved)
            refuse_other_runs(saved, self.averager, self.optimizer, self._averaged_gradients)
            refuse_more(state_dict, saved)
            check_options(type(self).__name__, saved.get("options", {}), self._options, options)
        self.writes.forget()  # what is in flight is dropped
        self._take()
        self.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "gossip"})
        self.persist(self.averager.forget)
        self.mass.forget()
        self.steps = 0
        self.parameters.rounded.restore_({} if saved is None else saved.get("masters", {}))
        if saved is None:
            return
        self.averager.load_state_dict(saved["averager"])
        self.steps = saved["steps"]
        self._closures.early = saved.get("early")
        self.mass.load_state_dict(saved)
