"""Checks of arguments; those of options return the value in its usual type."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import numpy as np

from topologies.errors import TopologyError


def positive(value: int, what: str) -> int:
    """`value` as an int of at least 1; any other value raises a `TopologyError` that begins with `what`."""
    return _integer(value, what, least=1)


def natural(value: int, what: str) -> int:
    """`value` as an int of at least 0; any other value raises a `TopologyError` that begins with `what`."""
    return _integer(value, what, least=0)


def _integer(value: int, what: str, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise TopologyError(f"{what} must be an integer of at least {least}, not {value!r}")
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


def check_rank(rank: int, size: int) -> None:
    """Check that `rank` is one of 0 … n - 1; raises `TopologyError`."""
    if not 0 <= rank < size:
        raise TopologyError(
            f"rank {rank} asked for its turn in a topology of {size} ranks, 0 to {size - 1}: "
            "make the topology with the size of the world"
        )
