"""Whether two arms differ: paired t-tests, corrected for how many are asked."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """Of a − b over pairs: the mean difference, its 95 % interval, t and p of the two-sided paired test, and Cohen's
    d_z, the mean difference over its standard deviation."""

    difference: float
    low: float
    high: float
    t: float
    p: float
    effect: float


def paired(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Student's paired t-test; where no pair differs, p is 1.

    >>> paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0]).difference
    2.0
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread == 0:  # all pairs differ alike: t has no value, and only no difference at all has a plain meaning
        p = 1.0 if mean == 0 else 0.0
        return Comparison(mean, mean, mean, 0.0, p, 0.0)
    from scipy import stats  # which takes a second, and every command's --help would wait for it

    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(CONFIDENCE)
    return Comparison(
        mean, float(interval.low), float(interval.high), float(test.statistic), float(test.pvalue), mean / spread
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: the k-th smallest of m times m − k + 1, never falling.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for place, number in enumerate(sorted(range(len(p)), key=lambda number: p[number])):
        highest = max(highest, min(1.0, (len(p) - place) * p[number]))
        adjusted[number] = highest
    return adjusted
