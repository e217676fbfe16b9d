"""Foreign code and files, called so that an error names its source."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from topologies.errors import SpecError, TopologyError


@contextmanager
def error_prefix(source: str) -> Iterator[None]:
    """Prefix every `TopologyError` inside with the source of the graph."""
    try:
        yield
    except TopologyError as error:
        kind = SpecError if isinstance(error, SpecError) else TopologyError
        raise kind(f"{source}: {error}") from error


def call(function: Callable[..., Any], first: Any, options: Mapping[str, Any]) -> Any:
    """`function(first, **options)`; arguments that do not fit raise a `SpecError` with the signature."""
    complaint = misfit(function, first, options)
    if complaint:
        raise SpecError(complaint)
    return function(first, **options)


def misfit(function: Callable[..., Any], first: Any, options: Mapping[str, Any]) -> str:
    """The reason why `function` cannot be called with these arguments; an empty text if it can.

    >>> def star(size, centre=0): ...
    >>> misfit(star, 8, {"middle": 1})
    "star(size, centre=0) is called with 8, middle=1: got an unexpected keyword argument 'middle'"
    >>> misfit(star, 8, {"center": 1}).rpartition("; ")[2]
    'did you mean centre?'
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""  # some functions written in C have no signature
    try:
        signature.bind(first, **options)
    except TypeError as error:
        plain = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
        shown = signature.replace(parameters=plain, return_annotation=signature.empty)
        given = ", ".join([repr(first), *(f"{name}={value!r}" for name, value in options.items())])
        meant = [
            f"; did you mean {close[0]}?"
            for name in options
            if name not in signature.parameters
            and (close := difflib.get_close_matches(name, list(signature.parameters), n=1))
        ]
        return f"{getattr(function, '__name__', function)}{shown} is called with {given}: {error}{''.join(meant[:1])}"
    return ""
