"""What the options of families must be."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np

from topologies.errors import TopologyError


def natural(value: int, what: str) -> int:
    """`value` as an int of at least 0, as seeds are; raises `TopologyError` that begins with `what` for all else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise TopologyError(f"{what} must be an integer of at least 0, not {value!r}")
    return number


def probability(value: object, what: str) -> float:
    """`value` as a float from 0 to 1; raises `TopologyError` that begins with `what` for all else."""
    if isinstance(value, (int, float, np.floating)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise TopologyError(f"{what} must be a number from 0 to 1, not {value!r}")


def flag(value: bool, what: str) -> bool:
    """`value` as a bool; raises `TopologyError` that begins with `what` for all else, also texts such as "no"."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TopologyError(f"{what} must be True or False, not {value!r}")


def integers(values: Iterable[int] | str, what: str) -> tuple[int, ...]:
    """`values` as ints of any sign; raises `TopologyError` that begins with `what` for all else."""
    try:
        return tuple(operator.index(value) for value in values)  # type: ignore[arg-type]  # a text has no index
    except TypeError:
        written = ", on a command line 1,2" if isinstance(values, str) else ""
        raise TopologyError(f"{what} must be a sequence of integers, as in [1, 2]{written}, not {values!r}") from None
