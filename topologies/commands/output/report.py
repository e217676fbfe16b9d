"""The result of a command, as text and as one JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Report(NamedTuple):
    """The result of a command."""

    lines: list[str]
    """For a person, on stdout."""
    document: dict[str, Any]
    """For a program, on stdout in place of the lines if `--json` is given."""
    code: int = 0
    """The exit code."""
    complaint: str = ""
    """An error message for stderr."""


def json_text(document: Mapping[str, Any]) -> str:
    """One JSON document; numbers that are not finite become null.

    >>> print(json_text({"gap": float("nan")}))
    {
      "gap": null
    }
    """
    # In ASCII, so that the output is legible in any encoding of the terminal.
    return json.dumps(_plain(document), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
