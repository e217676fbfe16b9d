"""More workers on the same images: all together see more of them in a step, and each has fewer to itself.

With 144 steps one of 4 workers passes 4.5 times over its shard, and one of 32 passes 36 times over its own.
"""

from ..study import Arm, Study, claims
from .grids import NESTEROV, few, named

WORKERS = (4, 8, 16, 32)
METHODS = named("Local SGP Local-SlowMo SGP-SlowMo", buffers=NESTEROV)

STUDY = Study(
    name="workers",
    title="4 to 32 workers, τ = 12",
    hypothesis="SlowMo gives Local SGD a better score with any number of workers from 4 to 32, and SGP none.",
    arms=tuple(
        Arm(f"{name} n={n}", few("textures", method, workers=n, steps=144), name, n)
        for n in WORKERS
        for name, method in METHODS.items()
    ),
    claims=tuple(
        claim for base in ("Local", "SGP") for n in WORKERS for claim in claims(f"{base}-SlowMo n={n} > {base} n={n}")
    ),
)
AXIS = "workers"
