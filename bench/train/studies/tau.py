"""How long an outer iteration may be."""

from ...shared.methods import Method
from ..study import Arm, Claim, Study
from .grids import NESTEROV, few

PERIODS = (6, 12, 24, 48, 96, 192)
TASK, STEPS = "textures", 384


def _arms() -> tuple[Arm, ...]:
    arms = [Arm("SGP", few(TASK, Method("sgp"), steps=STEPS), "SGP", 1.0)]
    for τ in PERIODS:
        methods = {
            "Local": Method("local", period=τ),
            "Local-SlowMo": Method("local", "slowmo", period=τ, buffers=NESTEROV),
            "SGP-SlowMo": Method("sgp", "slowmo", period=τ, buffers=NESTEROV),
        }
        arms += [Arm(f"{name} τ={τ}", few(TASK, each, steps=STEPS), name, τ) for name, each in methods.items()]
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
