"""The slow momentum β and the slow learning rate α, where all go as far in the long run: lr · α / (1 − β) is equal."""

from ...shared.methods import Method
from ..runs import Run
from ..study import Arm, Study, claims
from .grids import NESTEROV

BASES = ("Local", "SGP")
POINTS = ((0.0, 1.0), (0.2, 1.0), (0.4, 1.0), (0.6, 1.0), (0.8, 1.0), (0.4, 0.5), (0.4, 1.5))
"""β and α."""
RATE = 0.08
"""lr · α / (1 − β)."""


def _arm(base: str, β: float, α: float) -> Arm:
    method = Method(base.lower(), "slowmo", momentum=β, rate=α, buffers=NESTEROV)
    line = f"{base}-SlowMo α={α:g}"
    return Arm(f"{line} β={β:g}", (Run("textures", method, round(RATE * (1 - β) / α, 4)),), line, β)


STUDY = Study(
    name="beta",
    title=f"β and α of SlowMo, 8 workers, τ = 12, lr · α / (1 − β) = {RATE:g}",
    hypothesis=(
        "With steps as long in the long run, a slow momentum β = 0.4 gives a lower training loss than none, and a "
        "better score than 0.8; α = 1 gives a lower loss than 0.5 and 1.5."
    ),
    arms=tuple(_arm(base, β, α) for base in BASES for β, α in POINTS),
    claims=tuple(
        claim
        for base in BASES
        for other, measure in (("1 β=0", "loss"), ("1 β=0.8", "score"), ("0.5 β=0.4", "loss"), ("1.5 β=0.4", "loss"))
        for claim in claims(f"{base}-SlowMo α=1 β=0.4 > {base}-SlowMo α={other}", measure)
    ),
)
AXIS = "β"
