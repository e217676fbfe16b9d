"""What is said of many measured values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """Median, tenth and ninetieth percentile, and mean, in the unit of the values."""

    median: float
    p10: float
    p90: float
    mean: float


def summary(values: Sequence[float], window: int = 1) -> Summary:
    """Of the means over windows of `window` values; a last window that is not full is left out.

    An algorithm that communicates every τ-th step is judged with window τ: the median over single steps would not see
    its communication at all.

    >>> summary([1.0, 1.0, 4.0, 1.0, 1.0, 4.0], window=3).median
    2.0
    """
    whole = len(values) - len(values) % window
    assert whole > 0, "at least one window"
    means = np.asarray(values[:whole], dtype=np.float64).reshape(-1, window).mean(axis=1)
    p10, median, p90 = np.percentile(means, [10, 50, 90])
    return Summary(float(median), float(p10), float(p90), float(means.mean()))


def window(period: int, *, periodic: bool, blocking: bool) -> int:
    """Updates whose mean is one value: of one, where each is like the other and begins at a barrier.

    Where something happens in every τ-th update only, τ of them are like the next τ. Without a barrier, what one update
    waits for the next one need not, so that only many of them together tell.

    >>> window(12, periodic=False, blocking=True), window(12, periodic=False, blocking=False)
    (1, 12)
    """
    return period if periodic or not blocking else 1


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Means over the last `width` values, of fewer at the beginning.

    >>> smooth([2.0, 4.0, 6.0], 2)
    [2.0, 3.0, 5.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return [float(mean) for mean in (sums[ends] - sums[starts]) / (ends - starts)]
