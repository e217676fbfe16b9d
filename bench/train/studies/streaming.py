"""SlowMo whose exact average stops no step."""

from ...shared.methods import Method
from ..study import Claim, Study
from .grids import arm

TASK = "textures"
METHODS = {
    "Local": Method("local"),
    "Local-SlowMo": Method("local", "slowmo"),
    "Local-streaming": Method("local", "streaming"),
    "OSGP": Method("osgp"),
    "OSGP-SlowMo": Method("osgp", "slowmo"),
    "OSGP-streaming": Method("osgp", "streaming"),
}

STUDY = Study(
    name="streaming",
    title="Streaming SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "Averages of one part of the model after another, applied a step later, give Local SGD and OSGP the training "
        "loss and score that SlowMo gives them with its average of the whole model at once."
    ),
    arms=tuple(arm(TASK, name, method) for name, method in METHODS.items()),
    claims=tuple(
        Claim(f"{TASK} {base}-{better}", f"{TASK} {base}{than}", measure)
        for base in ("Local", "OSGP")
        for measure in ("score", "loss")
        for better, than in (("SlowMo", "-streaming"), ("streaming", ""))
    ),
)
