"""The paper's first table on images, with buffers reset, which `buffers` found the better, on fresh seeds.

Without AR-SGD, of which no claim is made.
"""

from ..study import Study, claims
from .grids import NESTEROV, arms, named
from .table1 import CLAIMS

METHODS = {
    **named("Local SGP OSGP SGP+average OSGP+average"),
    **named("Local-SlowMo SGP-SlowMo OSGP-SlowMo", buffers=NESTEROV),
}

STUDY = Study(
    name="reset",
    title="Base methods and SlowMo with buffers reset on images, 8 workers, τ = 12",
    hypothesis=(
        "With the buffers of Nesterov SGD reset in each outer step, SlowMo gives Local SGD a better score than it has "
        "by itself, makes little difference to SGP and OSGP, and has a higher training loss with all three."
    ),
    arms=arms("textures", METHODS),
    claims=claims(CLAIMS, "score", "loss", on="textures"),
    testing=tuple(range(40, 50)),
)
