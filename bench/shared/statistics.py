"""Medians over windows of updates, and paired tests of whether two arms differ."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Summary(NamedTuple):
    """Median, tenth and ninetieth percentile, and mean, in the unit of the values."""

    median: float
    p10: float
    p90: float
    mean: float


def summary(values: Sequence[float], window: int = 1) -> Summary:
    """Of the means over windows of `window` values, without a last one that is not full.

    The median over single steps would not see the communication of a method that communicates in every τ-th alone.
    """
    whole = len(values) - len(values) % window
    assert whole > 0, "at least one window"
    means = np.asarray(values[:whole], dtype=np.float64).reshape(-1, window).mean(axis=1)
    p10, median, p90 = np.percentile(means, [10, 50, 90]).tolist()
    return Summary(median, p10, p90, float(means.mean()))


def window(period: int, method: Any) -> int:
    """Updates of a method or peer whose mean is one value: one, where all are alike and begin at a barrier.

    Otherwise τ of them are like the next τ: without a barrier the wait of one may spare the next one its own.
    """
    return period if method.periodic or not method.blocking else 1


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
    """Student's paired t-test; where no pair differs, p is 1."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread == 0:  # t has no value
        return Comparison(mean, mean, mean, 0.0, 1.0 if mean == 0 else 0.0, 0.0)
    from scipy import stats  # which takes a second, and every command's --help would wait for it

    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(CONFIDENCE)
    return Comparison(mean, float(low), float(high), float(test.statistic), float(test.pvalue), mean / spread)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjustment (Scand. J. Statist. 1979), in the given order: the k-th smallest of m times m−k+1, rising."""
    order = np.argsort(p, kind="stable")
    rising = np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1))
    adjusted: list[float] = np.minimum(rising, 1.0)[np.argsort(order)].tolist()
    return adjusted
