"""A graph and its options in one short text, as command lines and `topologies.load` take it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from topologies.errors import SpecError


def parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a SPEC. A comma starts an option if `name=` follows it; any other comma belongs to a value.

    >>> parsed("base_graph,peers=2"), parsed("circulant,hops=1,2,5")
    (('base_graph', {'peers': 2}), ('circulant', {'hops': (1, 2, 5)}))
    """
    name, *options = re.split(r",(?=[A-Za-z_]\w*=)", spec)
    return name, parse_options(options)


def written(name: str, options: Mapping[str, Any]) -> str:
    """The SPEC of a name and its options.

    >>> written("circulant", {"hops": (1, 2, 5), "one_by_one": True})
    'circulant,hops=1,2,5,one_by_one=True'
    """
    return ",".join([name, *(f"{option}={_value(value)}" for option, value in options.items())])


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """The keyword options of texts such as "peers=2"; a value that is not Python notation is a plain string.

    >>> parse_options(["peers=2", "directed=True", "kind=small"])
    {'peers': 2, 'directed': True, 'kind': 'small'}
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise SpecError(f"the option {text!r} is not of the form name=value, as in peers=2")
        read = _read(value)
        if options.setdefault(name, read) != read:
            raise SpecError(f"the option {name} is given twice, as {options[name]!r} and as {read!r}: leave one out")
    return options


def combined(spec: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and options of a SPEC, merged with further options; options that contradict raise `SpecError`."""
    name, all_options = parsed(spec)
    for option, value in options.items():
        # An option may be an array.
        if option in all_options and not np.array_equal(all_options[option], value):
            raise SpecError(
                f"{spec} says {option}={all_options[option]!r}, and {option}={value!r} stands beside it: leave one out"
            )
        all_options[option] = value
    return name, all_options


def _read(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the errors that it documents
        return value


def _value(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(repr, value)) + ("," if len(value) == 1 else "")
    return str(value)
