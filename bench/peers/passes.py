"""A forward and backward pass that sleeps and fills gradients, for peers that hook into the backward pass."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

FORWARD = 1 / 3
"""Share of a pass that its forward takes: the backward of a layer is two products where the forward is one."""


class Passes(nn.Module):
    """A chain of layers, one for each parameter, whose passes take `seconds` and leave the gradients that stood there.

    The last layer's gradient is there first, as in a network. Nothing is copied: a gradient is the same memory in every
    pass, so that filling it costs next to nothing beside what is measured.

    Attributes:
        computed: when the backward pass had nothing left to sleep.
    """

    def __init__(self, module: nn.Module, seconds: float = 0.0) -> None:
        super().__init__()
        self.module = module
        self.computed = 0.0
        self._slopes = []
        for parameter in module.parameters():
            assert parameter.grad is not None, "the task fills its gradients"
            self._slopes.append(parameter.grad)
            parameter.grad = None
        self._forward = seconds * FORWARD
        self._backward = (seconds - self._forward) / len(self._slopes)

    def forward(self) -> torch.Tensor:
        """A loss to call backward() on."""
        _sleep(self._forward)
        reached = torch.zeros((), requires_grad=True)
        for parameter, slope in zip(self.module.parameters(), self._slopes, strict=True):
            reached = _layer(reached, parameter, slope, self)
        return reached

    def slept(self) -> None:
        """The backward pass of one layer."""
        _sleep(self._backward)
        self.computed = time.perf_counter()


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reached: torch.Tensor, parameter: nn.Parameter, slope: torch.Tensor, of: Passes) -> Any:
        ctx.slope, ctx.of = slope, of
        return reached.clone()

    @staticmethod
    def backward(ctx: Any, *above: Any) -> Any:
        ctx.of.slept()
        # Another tensor on the same memory: autograd takes it as it is, where it would copy the slope itself.
        return above[0], ctx.slope.detach(), None, None


_layer: Callable[..., torch.Tensor] = _Layer.apply


def _sleep(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
