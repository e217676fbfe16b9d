"""An optimizer around an optimizer that passes for the inner one, as schedulers, scalers and training loops see it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, TypeVar

import torch

from ..checks import shown
from ..errors import UsageError
from ..untraced import untraced

Result = TypeVar("Result")


def passed_on(name: str, inside: str = "optimizer") -> Any:
    """The attribute `name` of the object in attribute `inside`."""
    return property(
        lambda self: getattr(getattr(self, inside), name),
        lambda self, value: setattr(getattr(self, inside), name, value),
        lambda self: delattr(getattr(self, inside), name),
        f"`{inside}.{name}`.",
    )


class Wrapper(torch.optim.Optimizer):
    """`param_groups`, `state` and `defaults` are those of `optimizer`, live, also after it has loaded a checkpoint.

    A subclass gives `step`, `state_dict` and `consensus`, a `gossip.consensus.calls.Consensus`. Step hooks registered
    here run around the wrapper's step, those of the wrapped optimizer around its own; hooks of state_dict and
    load_state_dict are the wrapped optimizer's. torch.compile traces none of its public methods.
    """

    consensus: Any

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(f"{type(self).__name__} wraps a torch.optim.Optimizer, and this is {shown(optimizer)}")
        self.optimizer = optimizer
        # Neither Optimizer.__init__, which would make parameter groups of its own, nor __setstate__, which would write
        # into the wrapped optimizer's defaults: hooks of the step are all that is missing.
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self._patch_step_function()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("_") and name not in ("step", "persist"):
                setattr(cls, name, untraced(method))

    def _patch_step_function(self) -> None:
        """Hooks of this optimizer around its step; torch's global ones run around the wrapped optimizer's, and once."""
        kind = type(self)
        if not hasattr(kind.step, "untraced"):
            kind.step = untraced(_hooked(kind.step))  # type: ignore[assignment, method-assign]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether `step` is called also where gradients overflowed, and unscales those that nobody has.

        A GradScaler hears yes, so that a rank that skips its update makes the step of the schedule which its peers wait
        for. Frameworks hear no: to them yes means that gradients cannot be unscaled, and clipped, before the step.
        """
        return isinstance(sys._getframe(1).f_locals.get("self"), torch.amp.GradScaler)

    param_groups: list[dict[str, Any]] = passed_on("param_groups")
    state: defaultdict[torch.Tensor, Any] = passed_on("state")
    defaults: dict[str, Any] = passed_on("defaults")
    register_state_dict_pre_hook = passed_on("register_state_dict_pre_hook")
    register_state_dict_post_hook = passed_on("register_state_dict_post_hook")
    register_load_state_dict_pre_hook = passed_on("register_load_state_dict_pre_hook")
    register_load_state_dict_post_hook = passed_on("register_load_state_dict_post_hook")

    def __getattr__(self, name: str) -> Any:
        """`train` and `eval`, where the wrapped optimizer has them, as schedule-free ones do: both write parameters."""
        if name not in ("train", "eval") or "optimizer" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        switch = getattr(self.optimizer, name)
        return lambda *args, **options: self.rewritten(lambda: switch(*args, **options), name)

    @untraced
    def rewritten(self, write: Callable[[], Result], mode: str) -> Result:
        """Do `write`, which changes parameters between two steps: to those of `mode`, "train" or "eval"."""
        return write()

    @untraced
    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer does it."""
        self.optimizer.zero_grad(set_to_none)

    # -- the mean over ranks -------------------------------------------------------------------------------------------

    def mean(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Inside, the parameters and buffers of `model` are the mean of all ranks, to evaluate or to save.

            z̄ = Σ w z / Σ w

        Messages in flight count, and stay there. Floating-point buffers are means, other buffers rank 0's, and every
        rank holds the same bits. Every rank enters after the same step, which costs an exact average; a rank leaves by
        itself. Its own values come back then, bit for bit, whatever was written inside, and the run goes on as if
        nobody had asked. With landing="any" messages on their way are left out: call `settle()` before.

        Args:
            model: whose trainable parameters are all this optimizer's.

        Raises:
            UsageError: a parameter of `model` that this optimizer does not train; `step()` and the like inside.
            Disagreement: ranks call it after different steps, or with different buffers.

        >>> import gossip, torch
        >>> model = torch.nn.Linear(4, 2)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> optimizer = gossip.GossipOptimizer(sgd, gossip.ExactAverage(gossip.init()))
        >>> with optimizer.mean(model):
        ...     loss = model(torch.ones(4)).sum().item()
        """
        lent: AbstractContextManager[None] = self.consensus.lend("optimizer.mean(...)", model)
        return lent

    def mean_state_dict(self, model: torch.nn.Module) -> dict[str, Any]:
        """The model to publish, on every rank: its state_dict inside `mean`, in memory of its own.

        Names, dtypes and devices are those of `model.state_dict()`. The tensors are contiguous and share no memory, so
        that torch.save and safetensors write them as they are. Every rank calls it after the same step.
        """
        state: dict[str, Any] = self.consensus.state_dict("optimizer.mean_state_dict(...)", model)
        return state

    def average_(self) -> None:
        """Make the mean over ranks every rank's own values, from which the run goes on; every rank calls it.

        Everything in flight lands, and weights are 1 afterwards. The floating-point buffers of `module` are averaged
        too, whatever `module_buffers` says. Anchors and slow momenta stay.
        """
        self.consensus.take("optimizer.average_()")

    def consensus_distance(self) -> float:
        """How far ranks are from their mean, the same number on every rank; every rank calls it after the same step.

            Ξ = √(Σ_i ‖z_i − z̄‖² / n)

        One call costs an exact average of the parameters.

        Source: Kong, Lin, Koloskova, Jaggi, Stich, "Consensus control for decentralized deep learning", ICML 2021,
        arXiv 2102.04828.
        """
        return float(self.consensus.distance("optimizer.consensus_distance()"))

    def portable_state_dict(self) -> dict[str, Any]:
        """A state that any rank of any number of ranks goes on from; every rank calls it after the same step.

        Masters, the wrapped optimizer's moments, anchors and slow momenta are means over ranks. Counters and rates are
        rank 0's, weights are 1, and nothing is in flight. One call costs an exact average of all these. The parameters
        come from `mean_state_dict`. `load_state_dict` takes the result on every rank.

        >>> import gossip, torch
        >>> model = torch.nn.Linear(4, 2)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> optimizer = gossip.GossipOptimizer(sgd, gossip.ExactAverage(gossip.init()))
        >>> saved = {"model": optimizer.mean_state_dict(model), "optimizer": optimizer.portable_state_dict()}
        >>> model.load_state_dict(saved["model"])
        <All keys matched successfully>
        >>> optimizer.load_state_dict(saved["optimizer"])
        """
        state: dict[str, Any] = self.consensus.portable("optimizer.portable_state_dict()", self.state_dict)
        return state

    def __repr__(self) -> str:
        """In one line, around the wrapped optimizer."""
        return f"{type(self).__name__}({brief(self.optimizer)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        """Refused: two optimizers cannot share one mailbox."""
        raise UsageError(
            f"a {type(self).__name__} cannot be copied: the copy would answer for this rank to the same peers. "
            "copy.deepcopy the model, and make a new optimizer for the copy; state_dict() carries the state over"
        )

    def __reduce__(self) -> NoReturn:
        """Refused, as copying is."""
        raise UsageError(
            f"a {type(self).__name__} cannot be pickled: it speaks for a running process. Save its state_dict()"
        )


def _hooked(step: Callable[..., Result]) -> Callable[..., Result]:
    """`step` between the hooks of its optimizer, as torch calls them; its global hooks are left out."""

    @functools.wraps(step)
    def run(*args: Any, **options: Any) -> Result:
        optimizer = args[0]
        with torch.autograd.profiler.record_function(f"Optimizer.step#{type(optimizer).__name__}.step"):
            for hook in list(optimizer._optimizer_step_pre_hooks.values()):
                changed = hook(optimizer, args, options)
                if changed is None:
                    continue
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise RuntimeError(f"a step pre-hook returns None or (new_args, new_kwargs), and not {changed!r}")
                args, options = changed
            result = step(*args, **options)
            for hook in list(optimizer._optimizer_step_post_hooks.values()):
                hook(optimizer, args, options)
            return result

    return run


def brief(optimizer: torch.optim.Optimizer) -> str:
    """An optimizer in half a line."""
    if isinstance(optimizer, Wrapper):
        return repr(optimizer)
    groups = optimizer.param_groups
    rates = dict.fromkeys(f"{float(group['lr']):g}" for group in groups if "lr" in group)
    count = sum(len(group["params"]) for group in groups)
    return f"{type(optimizer).__name__} of {count} parameters" + (f" at lr {', '.join(rates)}" if rates else "")
