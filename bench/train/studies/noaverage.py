"""Slow momentum without its exact average."""

from ..study import Study, claims
from .grids import arms, named

TASKS = ("textures", "phrases")
METHODS = named("SGP SGP-SlowMo SGP-noaverage OSGP OSGP-SlowMo OSGP-noaverage")
CLAIMS = "SGP-noaverage > SGP, SGP-SlowMo > SGP-noaverage, OSGP-noaverage > OSGP, OSGP-SlowMo > OSGP-noaverage"

STUDY = Study(
    name="noaverage",
    title="SlowMo without its average, 8 workers, τ = 12",
    hypothesis=(
        "Without the exact average, which gossip makes nearly needless, slow momentum still gives SGP and OSGP a "
        "better score than they have by themselves; the average adds little to that."
    ),
    arms=tuple(arm for task in TASKS for arm in arms(task, METHODS)),
    claims=tuple(claim for task in TASKS for claim in claims(CLAIMS, on=task)),
)
