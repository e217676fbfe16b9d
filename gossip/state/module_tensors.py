"""Tensors of a module beside the parameters of its optimizer: buffers, and parameters that nobody trains."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..errors import GossipError, UsageError, levels_to_the_user

LAZY = (UninitializedParameter, UninitializedBuffer)


def frozen(module: torch.nn.Module | None, own: Collection[int]) -> dict[str, torch.Tensor]:
    """Parameters of `module` that nobody trains, by name, without those of the optimizer, whose ids are `own`."""
    return {
        name: parameter
        for name, parameter in (() if module is None else module.named_parameters())
        if type(parameter) is torch.nn.Parameter  # none that is packed or cut up
        and not (parameter.requires_grad or id(parameter) in own)
        and _has_values(parameter)
    }


def buffers(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    """Buffers of `module` that have values, by name."""
    named = () if module is None else module.named_buffers()
    return {name: buffer for name, buffer in named if _has_values(buffer)}


def lacking(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Floating-point buffers of `module` that have no values yet, by name."""
    return {name: buffer for name, buffer in _floating(module).items() if not _has_values(buffer)}


def _floating(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in module.named_buffers() if buffer.dtype.is_floating_point}


def check_dense(named: Mapping[str, torch.Tensor], instead: str) -> None:
    """Check that every tensor is plain memory, which a transport can read and write; else `instead` says the cure."""
    for name, tensor in named.items():
        if kind := _strange(tensor):
            raise UsageError(
                f"{'parameter' if isinstance(tensor, torch.nn.Parameter) else 'buffer'} '{name}' of module is {kind}, "
                f"and only dense tensors travel: {instead}"
            )


def compact(tensor: torch.Tensor) -> torch.Tensor:
    """The elements of an expanded tensor, each once: a view, so that writing it writes the tensor.

    >>> compact(torch.ones(2).expand(3, 2)).shape
    torch.Size([1, 2])
    """
    for dimension, stride in enumerate(tensor.stride()):
        if stride == 0:
            tensor = tensor.narrow(dimension, 0, min(1, tensor.shape[dimension]))
    return tensor


def widest(tensor: torch.Tensor) -> torch.Tensor:
    """A flat copy in float64, whose sum over ranks holds the largest of float32, and gives equal values back."""
    return tensor.detach().to(torch.float64, copy=True).reshape(-1)


def check_material(parameters: Iterable[torch.Tensor], names: Mapping[int, str]) -> None:
    """Check that every parameter has values. Ranks compare devices first, since all of them have to say the same."""
    for parameter in parameters:
        if parameter.is_meta:
            raise UsageError(
                f"parameter {names[id(parameter)]} is on the meta device, where it has no values: call "
                "model.to_empty(device=...), initialise or load the model, and make both optimizers afterwards"
            )


def _has_values(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or isinstance(tensor, LAZY))


def _strange(tensor: torch.Tensor) -> str:
    """Why `tensor` is not plain memory; "" where it is."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout})" if "sparse" in str(tensor.layout) else f"laid out as {tensor.layout}"
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(tensor).__name__}"
    if torch._debug_has_internal_overlap(compact(tensor)) == 1:  # 1 is torch's "yes"
        return "a view whose elements overlap"
    return ""


class Companions:
    """Floating-point buffers of `module` that an exact average takes along, whichever tensors stand there.

    Ranks have agreed on what there was when this was made: what joins later stays each rank's own.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> companions = Companions(norm)
    >>> norm.running_mean = torch.ones(2)
    >>> companions.tensors()
    [tensor([1., 1.]), tensor([1., 1.])]
    """

    def __init__(self, module: torch.nn.Module | None = None) -> None:
        self._module = module
        self._kinds = {name: _kind(buffer) for name, buffer in self._now().items()}
        self._late: set[str] = set()

    def describe(self) -> str:
        """Their names and kinds, for ranks to compare; "" where there are none."""
        return "".join(f", buffer '{name}' averaged: {kind}" for name, kind in self._kinds.items())

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def tensors(self) -> list[torch.Tensor]:
        """The buffers, as they stand now; ranks could not sum one of another shape or dtype."""
        now = self._now()
        for name, kind in self._kinds.items():
            if name not in now or _kind(now[name]) != kind:
                found = f"is a {_kind(now[name])}" if name in now else "is gone"
                raise GossipError(
                    f"buffer '{name}' was a {kind} when GossipOptimizer was made and now {found}: change buffers "
                    "before the optimizer is made, or take module_buffers='local', which leaves them to each rank"
                )
        if late := now.keys() - self._kinds - self._late:
            self._late |= late
            warnings.warn(
                f"buffer '{min(late)}' joined the module after GossipOptimizer was made, and is not averaged: make the "
                "optimizer afterwards",
                stacklevel=levels_to_the_user(),
            )
        return [now[name] for name in self._kinds]

    def _now(self) -> dict[str, torch.Tensor]:
        return {} if self._module is None else _floating(self._module)


def _kind(buffer: torch.Tensor) -> str:
    return f"{buffer.dtype} of shape {tuple(buffer.shape)}"
