"""A griffe extension: the doctests of docstrings become blocks of code on the API's pages."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?! *$).*)*")
"""A prompt and all lines up to the next empty one."""


class Doctests(griffe.Extension):
    """Fences every doctest that stands outside of a section of examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(fenced, obj.docstring.value)


def fenced(found: re.Match[str]) -> str:
    """The doctest in a fence of its own.

    >>> print(fenced(DOCTEST.search(">>> 1 + 1" + chr(10) + "2")))
    ```python
    >>> 1 + 1
    2
    ```
    """
    return f"{found['indent']}```python\n{found[0]}\n{found['indent']}```"
