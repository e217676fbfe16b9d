"""More workers, each with its own batches: fewer and fewer epochs are shared by all."""

from ..methods import Method
from ..study import Arm, Claim, Study, tuned
from .grids import RATES, USUAL

TASK, STEPS = "textures", 144
WORKERS = (4, 8, 16, 32)
METHODS = {
    "Local": Method("local"),
    "SGP": Method("sgp"),
    "Local-SlowMo": Method("local", "slowmo"),
    "SGP-SlowMo": Method("sgp", "slowmo"),
}


def _arm(name: str, method: Method, workers: int) -> Arm:
    slow = method.outer == "slowmo"
    rates, momenta = ((USUAL[TASK],), (0.2, 0.5)) if slow else (RATES[TASK][1:3], ())
    return Arm(f"{name} n={workers}", tuned(TASK, method, rates, momenta, workers=workers, steps=STEPS), name, workers)


STUDY = Study(
    name="workers",
    title="4 to 32 workers, τ = 12",
    hypothesis="What SlowMo gives Local SGD grows with the number of workers; with 4 there is little to give.",
    arms=tuple(_arm(name, method, workers) for workers in WORKERS for name, method in METHODS.items()),
    claims=tuple(Claim(f"{base}-SlowMo n={n}", f"{base} n={n}", "loss") for base in ("Local", "SGP") for n in WORKERS),
)
AXIS = "workers"
