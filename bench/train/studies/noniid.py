"""Shards of skewed labels: of each class, ranks get shares that are drawn from a Dirichlet distribution."""

from ...shared.methods import Method
from ..study import Arm, Claim, Study
from .grids import NESTEROV, candidates

TASK = "textures"
SKEWS = (0.2,)
METHODS = {
    "AR": Method("ar"),
    "Local": Method("local"),
    "SGP": Method("sgp"),
    "Local-SlowMo": Method("local", "slowmo", buffers=NESTEROV),
    "SGP-SlowMo": Method("sgp", "slowmo", buffers=NESTEROV),
    "SGP-noaverage": Method("sgp", "noaverage", buffers=NESTEROV),
}

STUDY = Study(
    name="noniid",
    title="Shards of skewed labels, 8 workers, τ = 12",
    hypothesis=(
        "Where labels are skewed Local SGD is worse than SGP, and SlowMo with its average helps both; without its "
        "average it helps SGP less."
    ),
    arms=tuple(
        Arm(f"α={skew:g} {name}", candidates(TASK, method, skew=skew))
        for skew in SKEWS
        for name, method in METHODS.items()
    ),
    claims=tuple(
        Claim(f"α={skew:g} {better}", f"α={skew:g} {than}")
        for skew in SKEWS
        for better, than in (
            ("SGP", "Local"), ("Local-SlowMo", "Local"), ("SGP-SlowMo", "SGP"), ("SGP-SlowMo", "SGP-noaverage"),
        )
    ),
)  # fmt: skip
