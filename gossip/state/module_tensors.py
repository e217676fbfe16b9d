"""Tensors of a module beside the parameters of its optimizer: buffers, and parameters that nobody trains."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..errors import UsageError

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
    return {
        name: buffer
        for name, buffer in module.named_buffers()
        if buffer.dtype.is_floating_point and not _has_values(buffer)
    }


def check_dense(named: Mapping[str, torch.Tensor], instead: str) -> None:
    """Return where every tensor is plain memory, which a transport can read and write.

    Raises:
        UsageError: naming the first that is not, and what to do: `instead`.
    """
    for name, tensor in named.items():
        if kind := _kind(tensor):
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


def check_shaped(name: str, parameter: torch.Tensor) -> None:
    """Return where `parameter` has a shape.

    Raises:
        UsageError: it has none yet, and how it gets one.
    """
    if isinstance(parameter, LAZY):
        raise UsageError(
            f"parameter {name} belongs to a lazy module and has no shape yet: run one batch through the model before "
            "GossipOptimizer is made"
        )


def check_material(parameters: Iterable[torch.Tensor], names: Mapping[int, str]) -> None:
    """Return where every parameter has values. Ranks compare devices first, since all of them have to say the same.

    Raises:
        UsageError: naming the first that has none yet, and how it gets some.
    """
    for parameter in parameters:
        if parameter.is_meta:
            raise UsageError(
                f"parameter {names[id(parameter)]} is on the meta device, where it has no values: call "
                "model.to_empty(device=...), initialise or load the model, and make both optimizers afterwards"
            )


def _has_values(tensor: torch.Tensor) -> bool:
    return not (tensor.is_meta or isinstance(tensor, LAZY))


def _kind(tensor: torch.Tensor) -> str:
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
