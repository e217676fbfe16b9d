"""Parameters of 16 bits, with anchors and slow momenta of 32."""

from ...shared.methods import Method
from ..study import Arm, Claim, Study
from .grids import few

TASK = "topics"
METHODS = {
    "SGP": Method("sgp"),
    "Local": Method("local"),
    "SGP-SlowMo": Method("sgp", "slowmo"),
    "Local-SlowMo": Method("local", "slowmo"),
}
DTYPES = {"float32": "float32", "bf16": "bfloat16"}


STUDY = Study(
    name="bf16",
    title="Parameters in bfloat16, 8 workers, τ = 12",
    hypothesis=(
        "bfloat16 costs SGP and Local SGD some of their score, also with SlowMo, although its anchors are float32; "
        "with SlowMo they are better than without, in either."
    ),
    arms=tuple(
        Arm(f"{name} {short}", few(TASK, method, dtype=dtype))
        for short, dtype in DTYPES.items()
        for name, method in METHODS.items()
    ),
    claims=(
        *(Claim(f"{name} float32", f"{name} bf16") for name in METHODS),
        *(Claim(f"{base}-SlowMo bf16", f"{base} bf16") for base in ("SGP", "Local")),
        *(Claim(f"{base}-SlowMo float32", f"{base} float32") for base in ("SGP", "Local")),
    ),
)
