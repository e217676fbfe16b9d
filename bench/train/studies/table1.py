"""The paper's first table: three base methods and AR, without and with SlowMo, and with its averages alone.

Local SGD with averages alone is Local SGD.
"""

from ..methods import Method
from ..study import Claim, Study
from .grids import arm

TASKS = ("textures", "phrases")
METHODS = {
    "AR": Method("ar"),
    "Local": Method("local"),
    "SGP": Method("sgp"),
    "OSGP": Method("osgp"),
    "SGP+average": Method("sgp", "average"),
    "OSGP+average": Method("osgp", "average"),
    "AR-SlowMo": Method("ar", "slowmo"),
    "Local-SlowMo": Method("local", "slowmo"),
    "SGP-SlowMo": Method("sgp", "slowmo"),
    "OSGP-SlowMo": Method("osgp", "slowmo"),
}

STUDY = Study(
    name="table1",
    title="Base methods and SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "SlowMo gives Local SGD, SGP and OSGP a lower training loss and a better score than they have by themselves, "
        "and what it gives SGP and OSGP comes from slow momentum, not from its averages alone."
    ),
    arms=tuple(arm(task, name, method) for task in TASKS for name, method in METHODS.items()),
    claims=tuple(
        Claim(f"{task} {base}-SlowMo", f"{task} {other}", measure)
        for task in TASKS
        for measure in ("score", "loss")
        for base, other in (
            ("Local", "Local"),
            ("SGP", "SGP"),
            ("OSGP", "OSGP"),
            ("SGP", "SGP+average"),
            ("OSGP", "OSGP+average"),
        )
    ),
)
