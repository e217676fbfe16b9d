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


def integers(values: Iterable[int], what: str) -> tuple[int, ...]:
    """`values` as ints of any sign; raises `TopologyError` that begins with `what` for all else."""
    try:
        return tuple(operator.index(value) for value in values)
    except TypeError:
        raise TopologyError(f"{what} must be a sequence of integers, as in [1, 2], not {values!r}") from None
