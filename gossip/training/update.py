"""The update of a step: the closure's evaluation, the average of gradients, and the wrapped optimizer's own step.

A closure is evaluated before the step begins, so that messages in flight travel meanwhile, or inside the update. An
optimizer that calls its closure once in a step, before it has changed anything, computes the same either way. Other
optimizers move their parameters first (SAM) or compare evaluations (LBFGS), and get each evaluation where they ask for
it. An optimizer's own steps show which of the two it is.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import levels_to_the_user
from ..state.mass import Mass
from ..world import World
from .gradients import GradientAverage, Said
from .parameters import Parameters
from .state_dicts import PROBE, asking

Loss = Any


def _ignored(optimizer: Any) -> None:
    pass


class Update:
    """z <- z + Δ/w, with Δ the change that `optimizer` makes; before that, gradients are averaged over `world`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: Parameters, mass: Mass, world: World | None
    ) -> None:
        self.world = world
        # The optimizer calls its closure once in a step, and changes nothing before; None while it has not shown that.
        self.early: bool | None = None
        self._optimizer, self._parameters, self._mass = optimizer, parameters, mass
        self._is_inside, self._has_warned = False, False
        if hasattr(optimizer, "_optimizer_step_post_hooks"):  # it has called Optimizer.__init__
            alive = weakref.WeakMethod(self._warn_of_direct_step)  # a wrapped optimizer may outlive its wrapper
            hook = optimizer.register_step_post_hook(lambda stepped, *_: (alive() or _ignored)(stepped))
            weakref.finalize(self, hook.remove).atexit = False
        self._gradients = None if world is None else GradientAverage(world, mass)

    def describe(self) -> str:
        """The average of gradients, for ranks and checkpoints to compare."""
        return f"gradients {f'over {self.world.size} ranks' if self.world else 'of each rank'}"

    def state_dict(self) -> dict[str, Any]:
        """The class of the wrapped optimizer, where it evaluates closures, and the average of gradients."""
        return {"optimizer": type(self._optimizer).__name__, "early": self.early, "gradients": self.describe()}

    def evaluate(self, closure: Callable[[], Loss]) -> Evaluation:
        """`closure` in the step that begins, evaluated already where the wrapped optimizer computes the same so."""
        closure, parameters = self._parameters.rounded.before(closure), list(self._parameters)

        def compute() -> Loss:
            with self._mass.stats.span("compute"):
                return closure()

        early = self.early
        if early is None and self._gradients is not None:
            # Other ranks may have no closure in this step, and average once. SAM begins with gradients, onto which this
            # evaluation would be accumulated.
            early = all(parameter.grad is None for parameter in parameters)
        average = None if self._gradients is None else lambda: self._average(Said(False, again=True))
        evaluation = Evaluation(compute, parameters, () if self.early is not None else self._mass.values, average)
        if early:
            evaluation.early()
        return evaluation

    def run(
        self, evaluation: Evaluation | None, scale: torch.Tensor | None, found_inf: torch.Tensor | None
    ) -> Loss | None:
        """Average gradients and update, unless a GradScaler found an overflow; returns the closure's loss."""
        skip = found_inf is not None and bool(found_inf)
        # A GradScaler passes `scale` until gradients are unscaled.
        if scale is not None and not skip:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(scale.to(parameter.grad.device))
        if self._gradients is not None:
            early = evaluation is not None and evaluation.is_early
            skip = self._average(Said(skip, early=early, inside=evaluation is not None and not early))
        if skip:
            return None
        self._is_inside = True
        try:
            with self._mass.stats.span("update"), self._mass.update():
                if evaluation is None:
                    return self._optimizer.step()
                return self._evaluated(evaluation)
        finally:
            self._is_inside = False

    def _warn_of_direct_step(self, optimizer: Any) -> None:
        """The wrapped optimizer has made a step: warn, once, if that was no part of a step of its wrapper."""
        if self._is_inside or self._has_warned or asking() == PROBE:
            return
        self._has_warned = True
        warnings.warn(
            f"{type(optimizer).__name__}.step() was called, and not step() of the GossipOptimizer around it: this rank "
            "has trained alone, and nothing was averaged. Call step() of the outermost wrapper, also by a GradScaler",
            stacklevel=levels_to_the_user(),
        )

    def _average(self, said: Said) -> bool:
        """Average the gradients; whether any rank skips its update."""
        assert self._gradients is not None
        with self._mass.stats.span("gradients"):
            said = self._gradients.average_(self._mass.buckets, said)
        if said.early and self.early is None:  # some rank has; then so do those that had no closure in this step
            self.early = True
        return said.skips > 0

    def _evaluated(self, evaluation: Evaluation) -> Loss:
        """One step of the optimizer. If it has asked otherwise in any step, it may do so again."""
        homes = [] if self.early else [parameter.data for parameter in evaluation.parameters]
        loss = evaluation.update(self._optimizer)
        for parameter, home in zip(evaluation.parameters, homes, strict=False):
            if parameter.data_ptr() != home.data_ptr() and parameter.shape == home.shape:
                # SAM often comes back by `p.data = old`: the values are wanted where they are averaged.
                home.copy_(parameter.data)
                parameter.data = home
        if evaluation.asked:
            self.early = self.early is not False and evaluation.asked == 1 and evaluation.untouched
        return loss


class Evaluation:
    """The closure of one step, for the wrapped optimizer to call; `average` follows evaluations inside the update."""

    def __init__(
        self,
        closure: Callable[[], Loss],
        parameters: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        average: Callable[[], object] | None,
    ) -> None:
        self._closure, self._average = closure, average
        self.parameters, self._values = parameters, values  # compared: autograd counts no writes through `.data`
        self._losses: list[Loss] = []
        self.asked = 0  # how often the optimizer has called it
        self.untouched = True  # parameters and gradients were at the first call as the update had found them

    @property
    def is_early(self) -> bool:
        """Whether it is evaluated already."""
        return bool(self._losses)

    def early(self) -> None:
        """Evaluate it now: that is the loss of a first call which finds everything untouched."""
        with torch.enable_grad():
            self._losses = [self._closure()]

    def update(self, optimizer: torch.optim.Optimizer) -> Loss:
        """One step of `optimizer`, which begins after its step pre-hooks: these may clip gradients."""
        self._copies = [values.clone() for values in self._values]
        self._begin()
        if not hasattr(optimizer, "_optimizer_step_pre_hooks"):  # it has not called Optimizer.__init__
            return optimizer.step(self)
        last = optimizer.register_step_pre_hook(self._begin)
        try:
            return optimizer.step(self)
        finally:
            last.remove()

    def _begin(self, *_: object) -> None:
        self._gradients = [each.grad for each in self.parameters]  # held, so that no other takes the place of one
        self._versions = self._seen()

    @torch._disable_dynamo
    def __call__(self) -> Loss:
        self.asked += 1
        if self.asked == 1:
            self.untouched = (
                all(each.grad is gradient for each, gradient in zip(self.parameters, self._gradients, strict=True))
                and self._versions == self._seen()
                and all(map(torch.equal, self._values, self._copies))
            )
            self._copies = []
            if self.untouched and self._losses:
                return self._losses.pop()
        with torch.enable_grad():
            loss = self._closure()
        if self._average is not None:
            self._average()
        return loss

    def _seen(self) -> list[int]:
        """Where parameters are, and the versions of them and of their gradients, which count writes."""
        both = [*self.parameters, *(each.grad for each in self.parameters)]
        return [each.data_ptr() for each in self.parameters] + [each._version for each in both if each is not None]
