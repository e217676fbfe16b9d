"""Methods that are called by an object which their own object keeps alive.

A wrapper holds its optimizer, and an averager its mass. If these held the wrapper and the averager too, they would form
a reference cycle: a deleted model would stay in memory, on a GPU as well, until the garbage collector runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from ..errors import GossipError


class Hook:
    """Calls `method` without keeping its object alive.

    Raises:
        GossipError: the object is gone, so the step would silently become another one.

    >>> class Counter:
    ...     steps = 0
    ...     def note(self) -> None:
    ...         self.steps += 1
    >>> counter = Counter()
    >>> note = Hook(counter.note)
    >>> note()
    >>> counter.steps
    1
    """

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = weakref.WeakMethod(method)
        self._owner = type(method.__self__).__name__  # type: ignore[attr-defined]

    def __call__(self, *args: object) -> Any:
        method = self._method()
        if method is None:
            raise GossipError(
                f"the {self._owner} of this optimizer has been deleted, and the optimizer would go on without it: keep "
                f"the {self._owner} and call its step(), or make a new optimizer"
            )
        return method(*args)
