"""Slow momentum without its exact average."""

from ...shared.methods import Method
from ..study import Claim, Study
from .grids import arm

TASKS = ("textures", "phrases")
METHODS = {
    "SGP": Method("sgp"),
    "SGP-SlowMo": Method("sgp", "slowmo"),
    "SGP-noaverage": Method("sgp", "noaverage"),
    "OSGP": Method("osgp"),
    "OSGP-SlowMo": Method("osgp", "slowmo"),
    "OSGP-noaverage": Method("osgp", "noaverage"),
}

STUDY = Study(
    name="noaverage",
    title="SlowMo without its average, 8 workers, τ = 12",
    hypothesis=(
        "Without the exact average, which gossip makes nearly needless, slow momentum still gives SGP and OSGP a "
        "better score than they have by themselves; the average adds little to that."
    ),
    arms=tuple(arm(task, name, method) for task in TASKS for name, method in METHODS.items()),
    claims=tuple(
        Claim(f"{task} {better}", f"{task} {than}")
        for task in TASKS
        for base in ("SGP", "OSGP")
        for better, than in ((f"{base}-noaverage", base), (f"{base}-SlowMo", f"{base}-noaverage"))
    ),
)
