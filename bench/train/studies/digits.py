"""The paper's first table once more, on small images with BatchNorm."""

from ..study import Study, claims
from .grids import arms
from .table1 import CLAIMS, METHODS
from .table1 import STUDY as TABLE1

STUDY = Study(
    name="digits",
    title="Base methods and SlowMo on digits, 8 workers, τ = 12",
    hypothesis=TABLE1.hypothesis,
    arms=arms("digits", METHODS),
    claims=claims(CLAIMS, "score", "loss", on="digits"),
)
