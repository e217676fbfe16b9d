"""Fewer bits: parameters of 16, with anchors and slow momenta of 32, and fewer bytes on the wire."""

from ...shared.methods import Method
from ..study import Arm, Study, claims, tuned
from .grids import RATES, few, named

BF16 = Study(
    name="bf16",
    title="Parameters in bfloat16, 8 workers, τ = 12",
    hypothesis=(
        "bfloat16 costs SGP and Local SGD some of their score, also with SlowMo, although its anchors are float32; "
        "with SlowMo they are better than without, in either."
    ),
    arms=tuple(
        Arm(f"{name} {short}", few("topics", method, dtype=dtype))
        for short, dtype in (("float32", "float32"), ("bf16", "bfloat16"))
        for name, method in named("SGP Local SGP-SlowMo Local-SlowMo").items()
    ),
    claims=claims(
        "SGP float32 > SGP bf16, Local float32 > Local bf16, SGP-SlowMo float32 > SGP-SlowMo bf16, "
        "Local-SlowMo float32 > Local-SlowMo bf16, SGP-SlowMo bf16 > SGP bf16, Local-SlowMo bf16 > Local bf16, "
        "SGP-SlowMo float32 > SGP float32, Local-SlowMo float32 > Local float32"
    ),
)
WIRE = Study(
    name="wire",
    title="Gossip in 16 and in 8 bits, 8 workers",
    hypothesis=(
        "Values that travel in bfloat16 or int8 cost SGP and OSGP no accuracy that ten seeds would show: the interval "
        "of the difference lies inside half a point."
    ),
    arms=tuple(
        Arm(f"{base} {short}", tuned("digits", Method(base.lower(), wire=wire), RATES["digits"][:2]))
        for base in ("SGP", "OSGP")
        for short, wire in (("float32", None), ("bf16", "bfloat16"), ("int8", "int8"))
    ),
    claims=claims("SGP float32 > SGP bf16, SGP float32 > SGP int8, OSGP float32 > OSGP bf16, OSGP float32 > OSGP int8"),
)
