"""The slow momentum β and the slow learning rate α."""

from ..methods import Method
from ..runs import Run
from ..study import Arm, Claim, Study
from .grids import USUAL

TASK = "textures"
BASES = {"Local": "local", "SGP": "sgp"}
POINTS = ((0.0, 1.0), (0.2, 1.0), (0.4, 1.0), (0.6, 1.0), (0.8, 1.0), (0.4, 0.5), (0.4, 1.5))
"""β and α."""


def _arm(title: str, β: float, α: float) -> Arm:
    method = Method(BASES[title], "slowmo", momentum=β, rate=α)
    line = f"{title}-SlowMo α={α:g}"
    return Arm(f"{line} β={β:g}", (Run(TASK, method, USUAL[TASK]),), line, β)


STUDY = Study(
    name="beta",
    title="β and α of SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "A slow momentum β = 0.4 gives a lower training loss than none, and a better score than 0.8; α = 1 is better "
        "than 0.5 and 1.5."
    ),
    arms=tuple(_arm(title, β, α) for title in BASES for β, α in POINTS),
    claims=tuple(
        Claim(f"{base}-SlowMo α=1 β=0.4", f"{base}-SlowMo {other}", measure)
        for base in BASES
        for other, measure in (
            ("α=1 β=0", "loss"),
            ("α=1 β=0.8", "score"),
            ("α=0.5 β=0.4", "loss"),
            ("α=1.5 β=0.4", "loss"),
        )
    ),
)
AXIS = "β"
