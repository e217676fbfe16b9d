"""Shards of skewed labels: of each class, ranks get shares that are drawn from a Dirichlet distribution."""

from ..study import Arm, Study, claims
from .grids import NESTEROV, candidates, named

SKEW = 0.2
METHODS = {**named("AR Local SGP"), **named("Local-SlowMo SGP-SlowMo SGP-noaverage", buffers=NESTEROV)}

STUDY = Study(
    name="noniid",
    title="Shards of skewed labels, 8 workers, τ = 12",
    hypothesis=(
        "Where labels are skewed Local SGD is worse than SGP, and SlowMo with its average helps both; without its "
        "average it helps SGP less."
    ),
    arms=tuple(
        Arm(f"α={SKEW:g} {name}", candidates("textures", method, skew=SKEW)) for name, method in METHODS.items()
    ),
    claims=claims("SGP > Local, Local-SlowMo > Local, SGP-SlowMo > SGP, SGP-SlowMo > SGP-noaverage", on=f"α={SKEW:g}"),
)
