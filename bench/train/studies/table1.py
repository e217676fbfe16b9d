"""The paper's first table: three base methods and AR, without and with SlowMo, and with its averages alone.

Local SGD with averages alone is Local SGD.
"""

from ..study import Study, claims
from .grids import arms, named

TASKS = ("textures", "phrases")
METHODS = named("AR Local SGP OSGP SGP+average OSGP+average AR-SlowMo Local-SlowMo SGP-SlowMo OSGP-SlowMo")
CLAIMS = (
    "Local-SlowMo > Local, SGP-SlowMo > SGP, OSGP-SlowMo > OSGP, SGP-SlowMo > SGP+average, OSGP-SlowMo > OSGP+average"
)

STUDY = Study(
    name="table1",
    title="Base methods and SlowMo, 8 workers, τ = 12",
    hypothesis=(
        "SlowMo gives Local SGD, SGP and OSGP a lower training loss and a better score than they have by themselves, "
        "and what it gives SGP and OSGP comes from slow momentum, not from its averages alone."
    ),
    arms=tuple(arm for task in TASKS for arm in arms(task, METHODS)),
    claims=tuple(claim for task in TASKS for claim in claims(CLAIMS, "score", "loss", on=task)),
)
