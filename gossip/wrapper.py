"""An optimizer around an optimizer that passes for the inner one, as schedulers, scalers and training loops see it."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any, NoReturn

import torch

from .errors import UsageError
from .untraced import untraced


class Wrapper(torch.optim.Optimizer):
    """`param_groups`, `state` and `defaults` are those of `optimizer`, live, also after it has loaded a checkpoint.

    A subclass gives `step` and `state_dict`. Step hooks registered here run around the wrapper's step, those of the
    wrapped optimizer around its own; hooks of state_dict and load_state_dict are the wrapped optimizer's. torch.compile
    traces none of its public methods.
    """

    # torch.amp.GradScaler then calls `step` always, instead of leaving it out on the rank whose gradients overflowed.
    _step_supports_amp_scaling = True

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UsageError(
                f"{type(self).__name__} wraps a torch.optim.Optimizer, and this is a {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        # Not Optimizer.__init__, which would make parameter groups of its own: this makes the hooks alone.
        super().__setstate__({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("_") and name not in ("step", "persist"):
                setattr(cls, name, untraced(method))

    def _patch_step_function(self) -> None:
        """Hooks around `step`, as torch puts them; some of ours communicate, so that they are not traced either."""
        super()._patch_step_function()
        kind = type(self)
        if not hasattr(kind.step, "untraced"):
            kind.step = untraced(kind.step)  # type: ignore[assignment, method-assign]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.param_groups

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's."""
        return self.optimizer.defaults

    @untraced
    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the wrapped optimizer does it."""
        self.optimizer.zero_grad(set_to_none)

    def register_state_dict_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Registers with the wrapped optimizer."""
        return self.optimizer.register_state_dict_pre_hook(*args, **kwargs)

    def register_state_dict_post_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Registers with the wrapped optimizer."""
        return self.optimizer.register_state_dict_post_hook(*args, **kwargs)

    def register_load_state_dict_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Registers with the wrapped optimizer."""
        return self.optimizer.register_load_state_dict_pre_hook(*args, **kwargs)

    def register_load_state_dict_post_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Registers with the wrapped optimizer."""
        return self.optimizer.register_load_state_dict_post_hook(*args, **kwargs)

    def __repr__(self) -> str:
        """The class around the wrapped optimizer's."""
        return f"{type(self).__name__}({self.optimizer!r})"

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
