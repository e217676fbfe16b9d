"""Float32 masters of 16-bit parameters: in bfloat16 an update of less than 1/512 of a weight is lost.

    m <- update(m, g)      for the optimizer, gossip and checkpoints, in float32
    p <- round(m)          for forward and backward, in the model's own dtype

A master has no gradient beside that of its parameter: backward accumulates it in float32, and clipping, unscaling,
averaging and zeroing act on the one tensor, whichever of the two they were given.

torch chooses one kernel for many tensors by itself only if all of them are plain parameters. On a GPU, make the wrapped
optimizer with foreach=True or fused=True.

Source: Micikevicius et al., "Mixed precision training", ICLR 2018, arXiv 1710.03740, section 3.1.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import torch

from ...errors import UsageError

NARROW = (torch.bfloat16, torch.float16)


class Master(torch.nn.Parameter):
    """The float32 parameter that stands for the 16-bit parameter `model`, with the same gradient."""

    model: torch.nn.Parameter

    def __new__(cls, model: torch.nn.Parameter) -> Master:
        return super().__new__(cls, model.detach().float(), model.requires_grad)

    def __init__(self, model: torch.nn.Parameter) -> None:
        self.model = model
        gradient, model.grad = model.grad, None  # its dtype is set while there is none
        model.grad_dtype = torch.float32
        if gradient is not None:
            model.grad = gradient.float()

    def __deepcopy__(self, memo: dict[int, object]) -> torch.nn.Parameter:
        """A plain parameter of the same values: the copy stands for no model."""
        memo[id(self)] = copied = torch.nn.Parameter(self.detach().clone(), self.requires_grad)
        return copied

    @property
    def grad(self) -> torch.Tensor | None:
        """The model's."""
        return self.model.grad

    @grad.setter
    def grad(self, gradient: torch.Tensor | None) -> None:
        self.model.grad = gradient


def origin(parameter: torch.Tensor) -> torch.Tensor:
    """The model's parameter behind `parameter`: itself, or what a master stands for."""
    return parameter.model if isinstance(parameter, Master) else parameter


def refuse_masters(
    optimizer: torch.optim.Optimizer,
    groups: Iterable[Mapping[str, Any]],
    names: Mapping[int, str],
    module: torch.nn.Module | None,
    narrow: Container[torch.dtype],
) -> None:
    """Look at every parameter of `groups` in one of the dtypes `narrow`, before masters take places in `optimizer`."""
    known = {id(origin(parameter)) for parameter in _each(optimizer.param_groups) if isinstance(parameter, Master)}
    for parameter in _each(groups):
        if parameter.dtype not in narrow:
            continue
        if id(parameter) in known:
            raise UsageError(
                f"parameter {names[id(parameter)]} is in another group of this {type(optimizer).__name__} already, by "
                "its master: name each parameter once"
            )
        if not hasattr(parameter, "grad_dtype"):
            raise UsageError(
                f"master_weights=True needs float32 gradients of {parameter.dtype} parameters, which torch has from "
                f"2.10 on, and this is {torch.__version__}: install a newer one, or train a float32 model under "
                "torch.autocast"
            )
        if isinstance(module, torch.nn.parallel.DistributedDataParallel):
            raise UsageError(
                f"master_weights=True gives {parameter.dtype} parameter {names[id(parameter)]} a float32 gradient, "
                "which DistributedDataParallel does not take: train the module inside, with gradients=world.node"
            )
        if optimizer.state.get(parameter):
            raise UsageError(
                f"{type(optimizer).__name__} has state of parameter {names[id(parameter)]} in {parameter.dtype} "
                "already, which its float32 master cannot take over: make GossipOptimizer before the first step and "
                "load the state into it; Adagrad, which makes state at once, needs a float32 model"
            )


def masters_(
    groups: Iterable[Mapping[str, Any]], names: MutableMapping[int, str], narrow: Container[torch.dtype] = NARROW
) -> None:
    """Put a master in the place of every parameter of `groups` in one of the dtypes `narrow`, under the same name.

    >>> layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> masters_(sgd.param_groups, {id(parameter): "a name" for parameter in layer.parameters()})
    >>> layer(torch.ones(3, dtype=torch.bfloat16)).sum().backward()
    >>> sgd.param_groups[0]["params"][0].grad is layer.weight.grad, layer.weight.grad.dtype
    (True, torch.float32)
    """
    for group in groups:
        for place, parameter in enumerate(group["params"]):
            if parameter.dtype in narrow:
                group["params"][place] = master = Master(parameter)
                names[id(master)] = names[id(parameter)]


def _each(groups: Iterable[Mapping[str, Any]]) -> Iterator[torch.nn.Parameter]:
    return (parameter for group in groups for parameter in group["params"])
