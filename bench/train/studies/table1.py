"""The paper's first table: three base methods and AR, without and with SlowMo, and with its averages alone.

Local SGD with averages alone is Local SGD.
"""

from ...shared.methods import Method
from ..study import Arm, Claim, Study
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


def trained_on(task: str) -> tuple[Arm, ...]:
    """An arm for each method."""
    return tuple(arm(task, name, method) for name, method in METHODS.items())


def comparisons(task: str) -> tuple[Claim, ...]:
    """With SlowMo against without, and against its averages alone."""
    return tuple(
        Claim(f"{task} {base}-SlowMo", f"{task} {other}", measure)
        for measure in ("score", "loss")
        for base, other in (
            ("Local", "Local"),
            ("SGP", "SGP"),
            ("OSGP", "OSGP"),
            ("SGP", "SGP+average"),
            ("OSGP", "OSGP+average"),
        )
    )


STUDY = Study(
    name="table1",
    title="Base methods and SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "SlowMo gives Local SGD, SGP and OSGP a lower training loss and a better score than they have by themselves, "
        "and what it gives SGP and OSGP comes from slow momentum, not from its averages alone."
    ),
    arms=tuple(each for task in TASKS for each in trained_on(task)),
    claims=tuple(each for task in TASKS for each in comparisons(task)),
)
