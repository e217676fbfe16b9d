"""How long an outer iteration may be."""

from dataclasses import replace

from ..study import Arm, Study, claims
from .grids import NESTEROV, few, named

PERIODS = (6, 12, 24, 48, 96, 192)
TASK, STEPS = "textures", 384
METHODS = named("Local Local-SlowMo SGP-SlowMo", buffers=NESTEROV)

STUDY = Study(
    name="tau",
    title="The period τ of Local SGD and SlowMo, 8 workers, 384 steps",
    hypothesis=(
        "Local SGD gets worse as τ grows; SlowMo makes Local SGD better at each τ up to 48, and SGP at τ = 24 and 48."
    ),
    arms=(
        Arm("SGP", few(TASK, named("SGP")["SGP"], steps=STEPS), "SGP", 1.0),
        *(
            Arm(f"{name} τ={τ}", few(TASK, replace(method, period=τ), steps=STEPS), name, τ)
            for τ in PERIODS
            for name, method in METHODS.items()
        ),
    ),
    claims=(
        *(claim for τ in (6, 12, 24, 48) for claim in claims(f"Local-SlowMo τ={τ} > Local τ={τ}")),
        *claims("SGP-SlowMo τ=24 > SGP, SGP-SlowMo τ=48 > SGP, Local τ=6 > Local τ=96"),
    ),
)
AXIS = "τ"
