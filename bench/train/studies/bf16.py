"""Parameters of 16 bits, with anchors and slow momenta of 32."""

from ..methods import Method
from ..study import Arm, Claim, Study
from .grids import candidates

TASK = "topics"
METHODS = {"SGP": Method("sgp"), "Local": Method("local"), "SGP-SlowMo": Method("sgp", "slowmo"),
           "Local-SlowMo": Method("local", "slowmo")}  # fmt: skip
DTYPES = {"float32": "float32", "bf16": "bfloat16"}

STUDY = Study(
    name="bf16",
    title="Parameters in bfloat16, 8 workers, τ = 12",
    hypothesis="bfloat16 costs every method some of its score; SlowMo, whose anchors are float32, costs no more of it.",
    arms=tuple(
        Arm(f"{name} {short}", candidates(TASK, method, dtype=dtype))
        for short, dtype in DTYPES.items()
        for name, method in METHODS.items()
    ),
    claims=(
        *(Claim(f"{name} float32", f"{name} bf16") for name in METHODS),
        *(Claim(f"{base}-SlowMo bf16", f"{base} bf16") for base in ("SGP", "Local")),
    ),
)
