"""Checks of arguments; each returns the value in its usual type."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np

from topologies.errors import TopologyError


def natural(value: int, what: str) -> int:
    """`value` as an int of at least 0; any other value raises a `TopologyError` that begins with `what`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise TopologyError(f"{what} must be an integer of at least 0, not {value!r}")
    return number


def probability(value: object, what: str) -> float:
    """`value` as a float from 0 to 1; any other value raises a `TopologyError` that begins with `what`."""
    if isinstance(value, (int, float, np.floating)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise TopologyError(f"{what} must be a number from 0 to 1, not {value!r}")


def flag(value: bool, what: str) -> bool:
    """`value` as a bool; any other value, also the text "no", raises a `TopologyError` that begins with `what`."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TopologyError(f"{what} must be True or False, not {value!r}")


def integers(values: Iterable[int] | str, what: str) -> tuple[int, ...]:
    """`values` as ints of any sign; any other value raises a `TopologyError` that begins with `what`."""
    try:
        return tuple(operator.index(value) for value in values)  # type: ignore[arg-type]  # a text has no index
    except TypeError:
        written = ", on a command line 1,2" if isinstance(values, str) else ""
        raise TopologyError(f"{what} must be a sequence of integers, as in [1, 2]{written}, not {values!r}") from None
