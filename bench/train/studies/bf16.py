"""Parameters of 16 bits, with anchors and slow momenta of 32."""

from ..study import Arm, Study, claims
from .grids import few, named

METHODS = named("SGP Local SGP-SlowMo Local-SlowMo")
DTYPES = {"float32": "float32", "bf16": "bfloat16"}

STUDY = Study(
    name="bf16",
    title="Parameters in bfloat16, 8 workers, τ = 12",
    hypothesis=(
        "bfloat16 costs SGP and Local SGD some of their score, also with SlowMo, although its anchors are float32; "
        "with SlowMo they are better than without, in either."
    ),
    arms=tuple(
        Arm(f"{name} {short}", few("topics", method, dtype=dtype))
        for short, dtype in DTYPES.items()
        for name, method in METHODS.items()
    ),
    claims=(
        *claims(", ".join(f"{name} float32 > {name} bf16" for name in METHODS)),
        *claims("SGP-SlowMo bf16 > SGP bf16, Local-SlowMo bf16 > Local bf16"),
        *claims("SGP-SlowMo float32 > SGP float32, Local-SlowMo float32 > Local float32"),
    ),
)
