"""How long an outer iteration may be."""

from ..methods import Method
from ..study import Arm, Claim, Study, tuned
from .grids import RATES, USUAL

PERIODS = (6, 12, 24, 48, 96, 192)
TASK, STEPS = "textures", 384


def _arms() -> tuple[Arm, ...]:
    rates, usual, momenta = RATES[TASK][1:3], (USUAL[TASK],), (0.2, 0.5)
    arms = [Arm("SGP", tuned(TASK, Method("sgp"), rates, steps=STEPS), "SGP", 1.0)]
    for τ in PERIODS:
        local = Method("local", "slowmo", period=τ)
        sgp = Method("sgp", "slowmo", period=τ)
        arms += [
            Arm(f"Local τ={τ}", tuned(TASK, Method("local", period=τ), rates, steps=STEPS), "Local", τ),
            Arm(f"Local-SlowMo τ={τ}", tuned(TASK, local, usual, momenta, steps=STEPS), "Local-SlowMo", τ),
            Arm(f"SGP-SlowMo τ={τ}", tuned(TASK, sgp, usual, momenta, steps=STEPS), "SGP-SlowMo", τ),
        ]
    return tuple(arms)


STUDY = Study(
    name="tau",
    title="The period τ of Local SGD and SlowMo, 8 workers, 384 steps",
    hypothesis=(
        "Local SGD gets worse as τ grows; SlowMo makes Local SGD better at each τ up to 48, and SGP at τ = 24 and 48."
    ),
    arms=_arms(),
    claims=(
        *(Claim(f"Local-SlowMo τ={τ}", f"Local τ={τ}") for τ in (6, 12, 24, 48)),
        *(Claim(f"SGP-SlowMo τ={τ}", "SGP") for τ in (24, 48)),
        Claim("Local τ=6", "Local τ=96"),
    ),
)
AXIS = "τ"
