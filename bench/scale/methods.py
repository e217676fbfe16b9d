"""The methods as what they are made of: gossip after each update, and an exact average of all ranks now and then.

Gradients or parameters, it is the same time; and slow momentum without its average costs no communication at all, so
methods that differ in nothing else are one in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OWN = "own"
"""The collective of `collectives.COLLECTIVES` that this runtime's exact sum is."""


@dataclass(frozen=True)
class Method:
    """Gossip in every step if `overlap` is a number, the average `average` in every `every`-th step if it has a name.

    overlap 0: the round ends inside the step (SGP). 1: it travels during the next update's compute and lands before
    that update (OSGP). average: a name in `collectives.COLLECTIVES`; it stands after the update, before the post of
    an overlapped round.
    """

    title: str = field(compare=False)
    overlap: int | None = None
    average: str | None = None
    every: int = 1

    @property
    def blocking(self) -> bool:
        """Nothing is under way between two steps."""
        return self.overlap != 1

    @property
    def window(self) -> int:
        """Updates over which its time is the same again."""
        return self.every if self.average else 1


def methods(period: int, local_period: int | None = None, average: str = OWN) -> dict[str, Method]:
    """All methods by name; `period` is τ of SlowMo, `local_period` that of Local SGD where it is another one.

    average: how this runtime's own exact sum goes, of gradients ("ar") or of parameters. The other all-reduces, ar-ring
    and so on, are to compare it with.

    >>> methods(48)["osgp-noaverage"] == methods(48)["osgp"]
    True
    """
    local = period if local_period is None else local_period
    return {
        "none": Method("no communication"),
        "ar": Method("AR-SGD", average=average),
        "ar-ring": Method("AR ring", average="ring"),
        "ar-tree": Method("AR tree", average="tree"),
        "ar-binomial": Method("AR binomial", average="binomial"),
        "ar-hierarchical": Method("AR hierarchical", average="hierarchical"),
        "exact": Method("exact average", average=average),
        "local": Method("Local SGD", average=average, every=local),
        "sgp": Method("SGP", overlap=0),
        "osgp": Method("OSGP", overlap=1),
        "local-slowmo": Method("Local-SlowMo", average=average, every=local),
        "sgp-slowmo": Method("SGP-SlowMo", overlap=0, average=average, every=period),
        "osgp-slowmo": Method("OSGP-SlowMo", overlap=1, average=average, every=period),
        "sgp-noaverage": Method("SGP-SlowMo-noaverage", overlap=0),
        "osgp-noaverage": Method("OSGP-SlowMo-noaverage", overlap=1),
    }
