"""The paper's first table once more, on small images with BatchNorm."""

from ..study import Study
from .table1 import STUDY as TABLE1
from .table1 import comparisons, trained_on

STUDY = Study(
    name="digits",
    title="Base methods and SlowMo on digits, 8 workers, τ = 12",
    hypothesis=TABLE1.hypothesis,
    arms=trained_on("digits"),
    claims=comparisons("digits"),
)
