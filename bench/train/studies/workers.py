"""More workers on the same images: all together see more of them in a step, and each has fewer to itself.

As many steps are 4.5 passes over its shard for one of 4 workers, and 36 for one of 32.
"""

from ..methods import Method
from ..study import Arm, Claim, Study
from .grids import NESTEROV, few

TASK, STEPS = "textures", 144
WORKERS = (4, 8, 16, 32)
METHODS = {
    "Local": Method("local"),
    "SGP": Method("sgp"),
    "Local-SlowMo": Method("local", "slowmo", buffers=NESTEROV),
    "SGP-SlowMo": Method("sgp", "slowmo", buffers=NESTEROV),
}


STUDY = Study(
    name="workers",
    title="4 to 32 workers, τ = 12",
    hypothesis="SlowMo lowers the training loss of Local SGD and of SGP with any number of workers from 4 to 32.",
    arms=tuple(
        Arm(f"{name} n={n}", few(TASK, method, workers=n, steps=STEPS), name, n)
        for n in WORKERS
        for name, method in METHODS.items()
    ),
    claims=tuple(Claim(f"{base}-SlowMo n={n}", f"{base} n={n}", "loss") for base in ("Local", "SGP") for n in WORKERS),
)
AXIS = "workers"
