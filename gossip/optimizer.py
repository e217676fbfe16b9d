"""The step: land the flights that are due, update, average, post."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from .averagers.base import Averager
from .checks import check_flag
from .consensus.calls import Consensus
from .consensus.portable import adopted
from .observe.stats import Stats, WeightReport
from .recovery.deaths import Death
from .state.buckets.writes import Writes
from .state.drift import Drift
from .state.mass import Mass
from .state.module_tensors import Companions
from .training import arguments, state_dicts
from .training.attached import Attached
from .training.parameters import Parameters
from .training.update import Loss
from .training.wrapper import Wrapper, brief
from .world import World


class GossipOptimizer(Wrapper):
    """Any torch optimizer, with `averager` between its updates.

        land        merge the flights that are due
        gradients   g <- mean over the world `gradients`, if asked
        update      z <- z + Δ/w, Δ the wrapped optimizer's change
        average     all that ends inside the step: SGP's round, exact averages, SlowMo's outer step
        post        messages that travel on while the next step computes: OSGP's round

    Every call of `step()` on every rank is one step of the schedule, also without gradients and when a GradScaler skips
    the update. The parameters move into flat buckets when the optimizer is made: move the model to its device and dtype
    before. They hold the de-biased values z at all times. Between two steps they may be on their way to a peer: call
    `settle()` on every rank before writing them by hand, or the next call raises.

    Args:
        optimizer: any torch optimizer of dense floating-point parameters.
        averager: acts between updates. It belongs to this optimizer from now on.
        gradients: a World over which gradients are averaged before each update.
        module: the model, for parameter names in errors and for its buffers.
        module_buffers: "local" leaves BatchNorm's statistics and other buffers to each rank; "average" averages the
            floating-point ones whenever an exact average happens.
        initial: "broadcast" takes the parameters of rank 0, and the untrained ones and buffers of `module`; "check"
            compares parameters. Both in the worlds of `averager` and `gradients`.
        on_failure: "raise" ends the job with an error when a rank's process dies. With "shrink" the survivors go on
            over `topologies.without` it, in the step in which they noticed. That needs `mpirun --with-ft ulfm` and
            averagers over the whole world. `deaths` and the log tell of it; `world.survivors` is the new world.
        check_finite: check parameters and averaged gradients before they are sent, in a pass over them; a GossipError
            names the rank and the parameter that is not finite. Over NCCL the host waits for the device.
        checksum: every message of gossip carries a CRC-32 of its values, compared before the merge; not over NCCL.
        master_weights: parameters in bfloat16 or float16 get float32 masters, which the wrapped optimizer updates (its
            `param_groups` hold them), and which are averaged, sent and saved. The parameters are the masters, rounded,
            when `step()` or another call of ours returns. Gradients are float32 and shared: clipping, scaling and
            `zero_grad` may act on either. A master takes over a write to its parameter, with nothing in flight.
        trace_folder: each rank writes its timeline into this folder, rank-0.json and so on, for Perfetto; without it
            into that of the variable GOSSIP_TRACE, if set. `python -m gossip.trace` joins the ranks.

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
        master_weights: bool = False,
        trace_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        arguments.check_arguments(optimizer, averager, gradients, module, module_buffers, initial, on_failure)
        for name, flag in (("check_finite", check_finite), ("checksum", checksum), ("master_weights", master_weights)):
            check_flag(name, flag)
        folder = arguments.folder_of(trace_folder)
        super().__init__(optimizer)
        self.averager = averager
        self.on_failure = on_failure
        self.steps, self._mode = 0, "train"
        self.stats = Stats()
        self.mass = Mass(self.stats, check_finite, checksum)
        self.mass.drift = Drift(lambda: optimizer.param_groups)
        self.parameters = Parameters(optimizer, module, self.mass, initial, master_weights)
        self.writes = Writes(self.mass.buckets, self.parameters.rounded)
        self._attached = Attached(optimizer, self.parameters, gradients, folder, on_failure == "shrink", self.writes)
        self.averagers = self._attached.each
        self._options = {"module_buffers": module_buffers}
        companions = Companions(module if module_buffers == "average" else None)
        options = (
            f"optimizer {type(optimizer).__name__} with {module_buffers=}, {initial=}, {on_failure=}, {checksum=}, "
            f"{master_weights=}, {self._attached.update.describe()}{companions.describe()}"
        )
        self._attached.attach(averager, 1, options, [gradients] if gradients else [], "gossip.GossipOptimizer(...)")
        self.mass.companions = companions

    def attach(self, averager: Averager, every: int, options: str, call: str = "gossip.GossipOptimizer(...)") -> None:
        """Let `averager` act in each `every`-th step, behind the others, once ranks agree; see `Attached.attach`."""
        self.settle()
        self._attached.attach(averager, every, options, (), call)

    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:  # type: ignore[override]
        """One step of the schedule, on every rank; returns the loss that `closure` returned.

        Forward and backward passes may be compiled and captured in CUDA graphs, and the wrapped optimizer's own step
        compiled if there are no master weights. This call may not be captured.

        Raises:
            GossipError: a parameter left its bucket, joined the wrapped optimizer, or was written while in flight.
            PeerTimeout: a peer did not answer before the world's deadline.
            PeerLost: a connection broke, or a peer is in another round.
        """
        step, phases, span = self.steps, self._attached.phases, self.stats.span
        if torch.cuda.is_initialized():
            arguments.check_not_captured()
        if closure is not None:
            arguments.check_closure(closure)
        if not self.parameters.places.are_kept():
            self.parameters.check(self._in_flight())
        self._take_writes()
        if closure is None and not self.optimizer.state and state_dicts.is_probe(self.optimizer):
            self._attached.quiesce()  # the step changes no value, and is no step of the schedule
            return self.optimizer.step()
        for begin in phases.begin:
            begin(step)
        with self.stats.step(step):
            evaluation = None if closure is None else self._attached.update.evaluate(closure)
            if evaluation is not None and evaluation.is_early:
                self._take_writes()  # of the closure
            if self._attached.looks:
                self._attached.look(closure is not None)
            with span("land"):
                for land in phases.land:
                    land(step)
            self.writes.forget()
            # torch.amp.GradScaler sets these two attributes around a step.
            result = self._attached.update.run(evaluation, *map(vars(self).get, ("grad_scale", "found_inf")))
            with span("average"):
                for rewrites, average in phases.average:
                    if rewrites is not None and rewrites(step):
                        self._attached.settle()
                    average(step)
            for post in phases.post:
                post(step)
            self.stats.weigh(self.mass.weight, self.mass.rounds_in_flight)
            self.steps += 1
            rounded = self.parameters.rounded
            if rounded.twins:
                with span("masters"):
                    rounded.write_()
            if (in_flight := self._in_flight()) or rounded.twins:
                self.writes.note(in_flight)
            return result

    def _take_writes(self) -> None:
        """Refuse parameters written by hand while something is in flight, and take others over into masters."""
        if self.parameters.lent:
            self.parameters.check_returned()
        if self.writes.check(self.stats.board.rank, self.steps) and self.parameters.rounded.twins:
            self._attached.quiesce()
            self.parameters.rounded.take_()

    def _in_flight(self) -> bool:
        """Whether a message in flight reads the values, or will be merged with them."""
        return any(in_flight() for in_flight in self._attached.phases.in_flight)

    def __repr__(self) -> str:
        """In one line: the wrapped optimizer, the averager, and the steps made."""
        over = f", {self._attached.update.describe()}" if self._attached.update.world else ""
        return f"GossipOptimizer({brief(self.optimizer)}, {self.averager!r}{over}, {self.steps} steps made)"

    @property
    def consensus(self) -> Consensus:
        """The calls about all ranks, which `Wrapper` makes."""
        return Consensus(self.parameters, self.averagers, self._ready, self.settle, self.writes.again)

    @property
    def weight(self) -> float:
        """The push-sum weight that this rank holds; weight in flight is not in it."""
        return float(self.mass.weight)

    @property
    def deaths(self) -> list[Death]:
        """Ranks that died while the others went on."""
        return [] if self._attached.recovery is None else self._attached.recovery.deaths

    def weight_report(self, world: World | None = None) -> WeightReport:
        """The weight of all ranks, held and in flight. Every rank calls it at the same step; it costs one small sum.

        Args:
            world: the ranks that gossip and average; None takes the largest world of the averagers, or `gradients`.
        """
        return self._attached.weight_report(world)

    @torch.no_grad()
    def settle(self) -> None:
        """Land everything in flight. Every rank calls it: before weights are written by hand, and at the end."""
        self._ready("optimizer.settle()")
        with self.stats.board.calling("optimizer.settle()"), self.stats.span("settle"):
            self._attached.settle_together()
        self.writes.forget()
        self.parameters.rounded.write_()
        self.stats.weigh(self.mass.weight, self.mass.rounds_in_flight)
        self.stats.write()

    def _ready(self, call: str) -> int:
        """Check that values may land or be compared between ranks; the number of steps made."""
        if (in_flight := self._in_flight()) or call != "optimizer.settle()":  # else nothing lands or is compared
            self.parameters.check(in_flight)
        arguments.check_mode(self._mode if in_flight else "", call)
        self._take_writes()
        if call != "optimizer.settle()":
            self._attached.complete()
        return self.steps

    def rewritten(self, write: Callable[[], Any], mode: str) -> Any:
        """Do `write`, which changes the wrapped optimizer's parameters, while no flight reads them."""
        if mode == self._mode == "eval":
            return write()  # which finds nothing to change, also inside `mean`
        self._take_writes()
        self._attached.quiesce()
        result = write()
        self.parameters.rounded.write_()
        self.writes.again()
        self._mode = mode
        return result

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take in more parameters. Every rank does so at the same step; everything in flight lands first.

        Raises:
            UsageError: a parameter that cannot live in a bucket; the group is left out again.
            Disagreement: ranks add different groups.
        """
        arguments.check_group(param_group)
        with self.stats.board.calling("optimizer.add_param_group(...)"):
            self.settle()
            self.parameters.grow(param_group)
            self.parameters.rounded.write_()
            self._attached.rebind()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's two keys and "gossip". Waits for messages on their way, and alters nothing.

        In one for `torch.distributed.checkpoint`, which drops other keys, the first parameter group carries "gossip".
        """
        self._take_writes()
        self._attached.complete()
        own = self.optimizer.state_dict()
        counted = {"keys": sorted(own), "steps": self.steps, "options": dict(self._options)}
        ours = {**counted, **self._attached.state_dict()}
        return state_dicts.carried({**own, "gossip": ours})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any], options: str = "check") -> None:
        """Go on from this rank's `state_dict()`, or with a warning begin anew from a wrapped optimizer's own.

        Parameters come from the model's state_dict, loaded in place before or after this. The averager, the class of
        the wrapped optimizer, `gradients`, `master_weights` and `module_buffers` have to be those of the saving run.

        Args:
            state_dict: this rank's.
            options: "check" refuses a state that was saved with another `module_buffers`, "own" goes on with its own.

        Raises:
            UsageError: the state of another rank, number of ranks, averager, optimizer, or of a wrapper around this.
        """
        state_dict = state_dicts.unpacked(state_dict, "gossip", state_dicts.KEPT)
        state_dict = adopted(state_dict, "gossip", self._attached.state_dict)
        self._attached.check_own(state_dict, options, self._options)
        self.writes.forget()
        self._attached.forget()
        self._take_writes()
        self.steps = self._attached.load_state_dict(state_dict)
