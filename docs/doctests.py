"""A griffe extension for the pages of the API: doctests become blocks of code, names with one text get a row each."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?! *$).*)*")
"""A prompt and all lines up to the next empty one."""

SHARED = re.compile(r"(?m)^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +\S.*)*)")
"""A line such as `momentum, lr: as in SlowMo`, and the lines that continue it."""


class Doctests(griffe.Extension):
    """Fences every doctest that stands outside of a section of examples, and parts names that share a text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = SHARED.sub(parted, DOCTEST.sub(fenced, obj.docstring.value))


def fenced(found: re.Match[str]) -> str:
    """The doctest in a fence of its own."""
    return f"{found['indent']}```python\n{found[0]}\n{found['indent']}```"


def parted(found: re.Match[str]) -> str:
    """A line for each of the names.

    >>> print(parted(SHARED.search("    rank, size: its number")))
        rank: its number
        size: its number
    """
    return "\n".join(f"{found['indent']}{name}: {found['text']}" for name in found["names"].split(", "))
