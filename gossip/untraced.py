"""Functions that communicate run outside of torch.compile's graphs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def untraced(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """`function`, with a graph break where compiled code calls it; traced, it would hand fake tensors to transports."""
    closed = torch._disable_dynamo(function)

    @functools.wraps(function)
    def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        if "torch._dynamo" not in sys.modules:  # nothing is traced, and loading it takes seconds
            return function(*args, **options)
        return closed(*args, **options)

    run.untraced = True  # type: ignore[attr-defined]
    return run
