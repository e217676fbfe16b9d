"""The learning rates of an outer iteration, for each parameter group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Rates:
    """γ_t is the mean of a group's rates over the outer iteration; the last step's would explode where it is near 0.

    A group that has no rate counts as one of a constant rate: r = 1.

    Attributes:
        now: of each group, in the steps of this outer iteration.
        last: γ_{t−1} of each group: the last that was not 0.
    """

    def __init__(self) -> None:
        self.now: list[list[float]] = []
        self.last: list[float | None] = []

    def note(self, groups: Iterable[Mapping[str, Any]]) -> None:
        """One step begins."""
        for number, group in enumerate(groups):
            if number == len(self.now):
                self.now.append([])
                self.last.append(None)
            rate = group.get("lr")
            self.now[number].append(1.0 if rate is None else float(rate))

    def means(self) -> list[float]:
        """Of each group over this iteration; 0 of one that has been taken out."""
        return [math.fsum(rates) / len(rates) if rates else 0.0 for rates in self.now]

    def end(self, rescale: bool, means: Sequence[float] | None = None) -> list[float | None]:
        """The iteration ends: r = γ_t/γ_{t−1} of each group, 1 the first time, and None where nothing was learned.

        rescale: False has r = 1 always.
        means: γ_t, where it is not this rank's own.
        """
        ratios: list[float | None] = []
        for group, rate in enumerate(self.means() if means is None else means):
            last = self.last[group]
            if rescale and rate == 0:
                ratios.append(None)
            else:
                ratios.append(rate / last if rescale and last is not None else 1.0)
            self.last[group] = rate or last
            self.now[group].clear()
        return ratios
