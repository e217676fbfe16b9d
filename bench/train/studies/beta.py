"""The slow momentum β and the slow learning rate α, where all go as far in the long run: lr · α / (1 − β) is equal."""

from ...shared.methods import Method
from ..runs import Run
from ..study import Arm, Claim, Study
from .grids import NESTEROV

TASK = "textures"
BASES = {"Local": "local", "SGP": "sgp"}
POINTS = ((0.0, 1.0), (0.2, 1.0), (0.4, 1.0), (0.6, 1.0), (0.8, 1.0), (0.4, 0.5), (0.4, 1.5))
"""β and α."""
RATE = 0.08
"""lr · α / (1 − β)."""


def _arm(title: str, β: float, α: float) -> Arm:
    method = Method(BASES[title], "slowmo", momentum=β, rate=α, buffers=NESTEROV)
    line = f"{title}-SlowMo α={α:g}"
    return Arm(f"{line} β={β:g}", (Run(TASK, method, round(RATE * (1 - β) / α, 4)),), line, β)


STUDY = Study(
    name="beta",
    title=f"β and α of SlowMo, 8 workers, τ = 12, lr · α / (1 − β) = {RATE:g}",
    hypothesis=(
        "With steps as long in the long run, a slow momentum β = 0.4 gives a lower training loss than none, and a "
        "better score than 0.8; α = 1 gives a lower loss than 0.5 and 1.5."
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
