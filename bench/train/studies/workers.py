"""More workers on the same images: all together see more of them in a step, and each has fewer to itself.

With 144 steps one of 4 workers passes 4.5 times over its shard, and one of 32 passes 36 times over its own.
"""

from ...shared.methods import Method
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
    hypothesis="SlowMo gives Local SGD a better score with any number of workers from 4 to 32, and SGP none.",
    arms=tuple(
        Arm(f"{name} n={n}", few(TASK, method, workers=n, steps=STEPS), name, n)
        for n in WORKERS
        for name, method in METHODS.items()
    ),
    claims=tuple(Claim(f"{base}-SlowMo n={n}", f"{base} n={n}") for base in ("Local", "SGP") for n in WORKERS),
)
AXIS = "workers"
